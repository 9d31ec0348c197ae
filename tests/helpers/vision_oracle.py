"""What a vision tower attends to, by an attention function that keeps its weights; no library code."""

from __future__ import annotations

from math import isqrt
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

SIDE = 4  # tokens


def attention_received(
    model: Any, inputs: dict[str, Any], layer: int, frames: int
) -> list[list[list[float]]]:
    """Return for each video and frame what its tokens receive, mean over heads, queries and patches."""
    calls: dict[int, list[Tensor]] = {}

    def attend(
        module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any = None, scaling: Any = None, **_: Any
    ) -> Any:
        logits = q @ k.transpose(2, 3) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
        assert mask is None or not mask.is_floating_point() or not mask.any()
        weights = logits.softmax(-1)
        calls.setdefault(id(module), []).extend(weights)
        return (weights @ v).transpose(1, 2).contiguous(), None

    AttentionInterface.register("tests_vision", attend)
    AttentionMaskInterface.register("tests_vision", sdpa_mask)
    (tower,) = (
        module
        for name, module in model.model.named_children()
        if name in ("vision_tower", "visual", "vision_model")
    )
    before, tower.config._attn_implementation = tower.config._attn_implementation, "tests_vision"
    try:
        with torch.no_grad():
            model(**inputs, use_cache=False)
    finally:
        tower.config._attn_implementation = before
    packed = model.config.model_type in ("qwen3_vl", "video_llama_3")
    found = [_pooled(weights, packed) for weights in list(calls.values())[layer]]  # modules in their order
    return [found[start : start + frames] for start in range(0, len(found), frames)]


def _pooled(weights: Tensor, packed: bool) -> list[float]:
    """Average one frame's (heads, patches, patches) for each token. packed: its patches are neighbours."""
    received = weights.mean((0, 1)).tolist()
    if packed:
        size = len(received) // SIDE**2
        return [sum(received[token * size : (token + 1) * size]) / size for token in range(SIDE**2)]
    side = isqrt(len(received))
    received = received[-(side**2) :]  # a class token comes first
    step, tokens = side // SIDE, []
    for row in range(SIDE):
        for col in range(SIDE):
            patches = [
                received[(row * step + down) * side + col * step + right]
                for down in range(step)
                for right in range(step)
            ]
            tokens.append(sum(patches) / len(patches))
    return tokens
