from __future__ import annotations

import pytest
import torch

import dycoke_lab  # noqa: F401  (torchvision is made importable first)
from dycoke_lab.specimen.build import build_model
from dycoke_lab.specimen.language import ID
from dycoke_lab.specimen.tasks import Task, make_task

torch.set_num_threads(1)  # small tensors: more threads only wait for each other


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def llava_next_video():
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration

    size = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    vision = CLIPVisionConfig(**size, num_hidden_layers=2, image_size=32, patch_size=4, projection_dim=32)
    text = LlamaConfig(
        **size, vocab_size=len(ID), num_hidden_layers=4, num_key_value_heads=2, max_position_embeddings=2048,
        pad_token_id=ID["<pad>"], bos_token_id=None, eos_token_id=ID["<|end|>"],
    )  # fmt: skip
    tokens = {"image_token_index": ID["<image>"], "video_token_index": ID["<video>"]}
    return LlavaNextVideoForConditionalGeneration(LlavaNextVideoConfig(vision_config=vision, text_config=text, **tokens))


FAMILIES = {"llava_onevision": lambda: build_model(width=32, layers=4), "llava_next_video": llava_next_video}


@pytest.fixture(scope="session", params=list(FAMILIES))
def model(request):
    """A random model of each family in float64 whose attention is uneven, so that a wrong choice shows."""
    torch.manual_seed(1)
    model = FAMILIES[request.param]().double().eval()
    for layer in model.model.language_model.layers:
        layer.self_attn.q_proj.weight.data *= 40
        layer.self_attn.k_proj.weight.data *= 40
    return model


@pytest.fixture(scope="session")
def task() -> Task:
    return make_task("describe", 2, 2)


@pytest.fixture(scope="session")
def inputs(model, task):
    return inputs_for(model, task)


def inputs_for(model, task: Task) -> dict[str, torch.Tensor]:
    """A task as this family gets it: only LLaVA-OneVision ends a video with a token for the line break."""
    ids = task.ids if model.config.model_type == "llava_onevision" else torch.cat([task.ids[:, :1], task.ids[:, 2:]], 1)
    pixels = task.videos.pixels.double() * 2 - 1
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values_videos": pixels}
