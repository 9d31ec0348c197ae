"""Qwen2.5-VL: videos of any size; a frame here is what the vision tower makes of two frames of the file."""

from __future__ import annotations

from typing import Any

from dycoke_lab.models.placeholders import encoded, grids_of, in_order
from dycoke_lab.models.token_layout import TokenLayout

MODEL_TYPE = "qwen2_5_vl"
DECODER, VISION = "language_model", "visual"


def find_videos(config: Any, inputs: dict[str, Any]) -> TokenLayout | None:
    if encoded(inputs, "video", "pixel_values_videos") is None:
        return None
    return in_order(
        inputs["input_ids"] == config.video_token_id,
        grids_of(inputs, config.vision_config.spatial_merge_size),
    )
