"""The specimen's architecture: a stock LlavaOnevisionForConditionalGeneration, tiny."""

from __future__ import annotations

import torch
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from dycoke_lab.specimen.language import ID
from dycoke_lab.specimen.world import GRID, SIZE

SHARED_FROM = 2  # the decoder layers from this index on are trained with the same query and key weights


def build_model(width: int = 128, layers: int = 6) -> LlavaOnevisionForConditionalGeneration:
    """Return a model of about 1.0 M parameters, random weights from torch's current seed."""
    vision = SiglipVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        image_size=SIZE, patch_size=SIZE // GRID // 2, vision_use_head=False,
    )  # fmt: skip
    text = Qwen2Config(
        vocab_size=len(ID), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=True,
        pad_token_id=ID["<pad>"], bos_token_id=None, eos_token_id=ID["<|end|>"],
    )  # fmt: skip
    config = LlavaOnevisionConfig(  # type: ignore[call-arg]
        vision_config=vision, text_config=text, image_token_id=ID["<image>"], video_token_id=ID["<video>"],
        vision_feature_layer=-1, vision_feature_select_strategy="full", tie_word_embeddings=True,
    )  # fmt: skip
    return LlavaOnevisionForConditionalGeneration(config)


def share_queries_and_keys(model: LlavaOnevisionForConditionalGeneration) -> None:
    """Give the decoder layers from SHARED_FROM on one set of query and key weights (and the norm before
    them), as ALBERT (arXiv 1909.11942) shares whole layers. The export writes them out for each layer.

    Why: layers with weights of their own divide the places of the video among them, and which layer attends
    to which place differs from seed to seed. A large model's neighbouring layers attend to much the same
    places, which is what DyCoke (and FastV) build on; shared weights give a tiny model that property.
    """
    layers = model.model.language_model.layers
    first = layers[SHARED_FROM]
    for layer in layers[SHARED_FROM + 1 :]:
        layer.input_layernorm = first.input_layernorm
        layer.self_attn.q_proj, layer.self_attn.k_proj = first.self_attn.q_proj, first.self_attn.k_proj


@torch.no_grad()
def keep_tokens_local(model: LlavaOnevisionForConditionalGeneration) -> None:
    """Freeze the vision tower's attention at zero, so that a visual token shows its own place of a frame
    only.

    Why: a tower of two layers that is trained from random weights may spread an actor's appearance over the
    whole frame, or may not, depending on the seed. If it does, no token is redundant, and merging removes
    what it should keep.
    """
    for layer in model.model.vision_tower.encoder.layers:
        layer.self_attn.requires_grad_(requires_grad=False)
        for parameter in layer.self_attn.out_proj.parameters():
            parameter.zero_()


@torch.no_grad()
def score_without_reading(model: LlavaOnevisionForConditionalGeneration) -> None:
    """Freeze what attention adds to the hidden states at zero in layer SHARED_FROM: it attends where the
    layers above attend, and reads nothing. Its attention gives DyCoke its scores at the paper's L=3.

    Why: every layer below L attends to the whole video at every step, and a tiny model may read its answer
    there, so that no later choice of tokens matters, good or bad. In large models the shallow layers make
    little use of visual tokens, and language and vision meet in the middle layers (VisiPruner, arXiv
    2510.17205).
    """
    attention = model.model.language_model.layers[SHARED_FROM].self_attn
    for projection in (attention.v_proj, attention.o_proj):
        projection.requires_grad_(requires_grad=False)
    attention.o_proj.weight.zero_()
