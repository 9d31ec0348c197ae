"""Models of published shapes with random weights: what costs time and memory is the shape, not what was learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from dycoke_lab.layout import Grid


@dataclass(frozen=True)
class Shape:
    """A decoder: layers, hidden size, MLP width, query and key heads, vocabulary. grid: a frame's tokens, (rows, cols). source:
    where the shape is published."""

    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    vocab: int
    grid: tuple[int, int]
    source: str
    family: str
    tied: bool

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def parameters(self) -> int:
        """Of the decoder and its output layer, biases and norms left out."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.mlp) + self.vocab * self.hidden * (1 if self.tied else 2)

    def kv_bytes(self, element: int = 2) -> int:
        """Of one token in one layer."""
        return 2 * self.kv_heads * self.head_dim * element


ONEVISION = "config.json of llava-hf/llava-onevision-qwen2-{}-ov-hf"
SHAPES = {
    "tiny": Shape(4, 64, 128, 4, 2, 200, (4, 4), "this library's tests", "llava_onevision", True),
    "llava-ov-0.5b": Shape(24, 896, 4864, 14, 2, 151_936, (14, 14), ONEVISION.format("0.5b"), "llava_onevision", True),
    "llava-ov-7b": Shape(28, 3584, 18_944, 28, 4, 152_128, (14, 14), ONEVISION.format("7b"), "llava_onevision", False),
    "qwen2.5-vl-3b": Shape(
        36, 2048, 11_008, 16, 2, 151_936, (14, 14), "config.json of Qwen/Qwen2.5-VL-3B-Instruct", "qwen2_5_vl", True
    ),
    "qwen2.5-vl-7b": Shape(
        28, 3584, 18_944, 28, 4, 152_064, (14, 14), "config.json of Qwen/Qwen2.5-VL-7B-Instruct", "qwen2_5_vl", False
    ),
}
VIDEO, IMAGE, TEXT = 3, 4, 10  # token ids


def _onevision(shape: Shape) -> Any:
    side = 27 if shape.hidden > 64 else 8  # patches; pooled to `grid`
    tower: dict[str, Any] = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    return LlavaOnevisionForConditionalGeneration, LlavaOnevisionConfig(  # type: ignore[call-arg]
        vision_config=SiglipVisionConfig(**tower, image_size=14 * side, patch_size=14, vision_use_head=False),  # type: ignore[arg-type]
        text_config=Qwen2Config(**_text(shape)), image_token_id=IMAGE, video_token_id=VIDEO, tie_word_embeddings=shape.tied,
        vision_feature_layer=-1, vision_feature_select_strategy="full",
    )  # fmt: skip


def _qwen(shape: Shape) -> Any:
    tower: dict[str, Any] = dict(hidden_size=32, intermediate_size=64, depth=1, num_heads=4)
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    return Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig(
        vision_config={**tower, "out_hidden_size": shape.hidden}, text_config={**_text(shape), "rope_parameters": rope},
        image_token_id=IMAGE, video_token_id=VIDEO, vision_start_token_id=5, vision_end_token_id=6, tie_word_embeddings=shape.tied,
    )  # fmt: skip


def _text(shape: Shape) -> dict[str, Any]:
    return dict(
        vocab_size=shape.vocab, hidden_size=shape.hidden, intermediate_size=shape.mlp, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, max_position_embeddings=131_072,
        tie_word_embeddings=shape.tied, bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip


BUILD: dict[str, Callable[[Shape], Any]] = {"llava_onevision": _onevision, "qwen2_5_vl": _qwen}


def build(name: str, device: str = "cpu", dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    """A model of this shape in evaluation mode, random weights made where they are to stay. The vision tower is a small
    one: encoding frames is not measured."""
    kind, config = BUILD[SHAPES[name].family](SHAPES[name])
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    torch.manual_seed(seed)
    try:
        with torch.device(device):
            return kind(config).eval()
    finally:
        torch.set_default_dtype(before)


def prompt(name: str, model: Any, frames: int, batch: int, question: int = 30, seed: int = 0) -> dict[str, Any]:
    """Inputs of `frames` encoded frames and a question, for each sample: random features in the place of what the vision tower
    would give, alike from frame to frame."""
    shape, device, dtype = SHAPES[name], model.device, model.dtype
    grid = Grid(frames, *shape.grid)
    random = torch.Generator().manual_seed(seed)
    still = torch.randn(batch, 1, grid.per_frame, shape.hidden, generator=random)
    video = (still + 0.5 * torch.randn(batch, frames, grid.per_frame, shape.hidden, generator=random)).flatten(1, 2)
    ending = 1 if shape.family == "llava_onevision" else 0
    video = torch.cat([video, torch.randn(batch, ending, shape.hidden, generator=random)], 1) * 0.02
    tokens = video.shape[1]
    words = torch.randint(TEXT, shape.vocab, (batch, 14 + question), generator=random)
    ids = torch.cat([words[:, :14], torch.full((batch, tokens), VIDEO), words[:, 14:]], 1)
    features: Any = video.to(device, dtype)
    inputs: dict[str, Any] = {"input_ids": ids.to(device), "attention_mask": torch.ones_like(ids).to(device)}
    if shape.family == "qwen2_5_vl":
        features = list(features)
        merge = model.config.vision_config.spatial_merge_size
        inputs["video_grid_thw"] = torch.tensor([[frames, grid.rows * merge, grid.cols * merge]] * batch, device=device)
        inputs["mm_token_type_ids"] = (ids == VIDEO).int().to(device) * 2
    inputs["mm_encoder_outputs"] = {"video": BaseModelOutputWithPooling(pooler_output=features)}
    return inputs
