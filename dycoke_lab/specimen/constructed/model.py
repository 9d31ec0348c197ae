"""What is constructed about the constructed specimen's model: a stock LLaVA-OneVision, trained under three
restrictions."""

from __future__ import annotations

from typing import Any

import torch

SHARED_FROM = 2  # the decoder layers from this index on are trained with the same query and key weights


def restrict(model: Any) -> None:
    """Switch on all three for training."""
    share_queries_and_keys(model)
    keep_tokens_local(model)
    score_without_reading(model)


def share_queries_and_keys(model: Any) -> None:
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
def keep_tokens_local(model: Any) -> None:
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
def score_without_reading(model: Any) -> None:
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
