"""What a vision tower attends to, by an attention function that keeps its weights; no library code."""

from __future__ import annotations

from math import isqrt
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

SIDE = 4  # tokens


def attention_received(model: Any, inputs: dict[str, Any], layer: int, frames: int) -> Any:
    """Return for each video and frame what its tokens receive, mean over heads, queries and patches."""
    found = [_pooled(weights.mean((0, 1))[:, None], model) for weights, _ in _calls(model, inputs, layer)]
    return _by_video([[mean for (mean,) in tokens] for tokens in found], frames)


def vision_keys(model: Any, inputs: dict[str, Any], layer: int, frames: int) -> Any:
    """Return for each video and frame its tokens' keys, all heads side by side, mean over patches."""
    found = [_pooled(keys.transpose(0, 1).flatten(1), model) for _, keys in _calls(model, inputs, layer)]
    return _by_video(found, frames)


def _by_video(found: list[Any], frames: int) -> list[Any]:
    return [found[start : start + frames] for start in range(0, len(found), frames)]


def _calls(model: Any, inputs: dict[str, Any], layer: int) -> list[tuple[Tensor, Tensor]]:
    """For each frame the attention weights, (heads, patches, patches), and keys, (heads, patches, dim)."""
    calls: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def attend(
        module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any = None, scaling: Any = None, **_: Any
    ) -> Any:
        assert mask is None or bool(mask.all() if mask.dtype == torch.bool else not mask.any())
        logits = q @ k.transpose(2, 3) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
        weights = logits.softmax(-1)
        calls.setdefault(id(module), []).extend(zip(weights, k, strict=True))
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
    return list(calls.values())[layer]  # modules in their order


def _pooled(patches: Tensor, model: Any) -> list[list[float]]:
    """Average one frame's (patches, dim) for each token."""
    rows = patches.tolist()
    if model.config.model_type in ("qwen3_vl", "video_llama_3"):  # a token's patches are neighbours
        size = len(rows) // SIDE**2
        return [_mean(rows[token * size : (token + 1) * size]) for token in range(SIDE**2)]
    side = isqrt(len(rows))
    rows = rows[-(side**2) :]  # a class token comes first
    step, tokens = side // SIDE, []
    for row in range(SIDE):
        for col in range(SIDE):
            corner = row * step * side + col * step
            tokens.append(
                _mean([rows[corner + down * side + right] for down in range(step) for right in range(step)])
            )
    return tokens


def _mean(rows: list[list[float]]) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]
