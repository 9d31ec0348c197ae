"""Qwen3-VL: as Qwen2.5-VL, with a time stamp before each frame, and vision features added to the first
layers' outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from dycoke_lab.models.qwen2_5_vl import find_videos

MODEL_TYPE = "qwen3_vl"
DECODER, VISION = "language_model", "visual"
VISION_PATCHES = "packed"

__all__ = ["find_videos"]


def layers_fed(config: Any) -> int:
    """Return how many of the decoder's first layers get visual tokens of their own (DeepStack)."""
    return len(config.vision_config.deepstack_visual_indexes)


def shorten(
    inputs: dict[str, Any], without_merged: Callable[[Tensor], Tensor], real: Tensor | None
) -> dict[str, Any]:
    """Return what else the decoder is given for each column, (batch, length), without the merged tokens."""
    where, features = inputs.get("visual_pos_masks"), inputs.get("deepstack_visual_embeds")
    if where is None or features is None:
        return {}
    left = without_merged(where[..., None])[..., 0]
    if real is not None:
        left = left & real
    spread = [
        feature.new_zeros(*where.shape, feature.shape[-1]).masked_scatter(where[..., None], feature)
        for feature in features
    ]
    return {
        "visual_pos_masks": left,
        "deepstack_visual_embeds": [without_merged(feature)[left] for feature in spread],
    }
