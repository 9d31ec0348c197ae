"""VideoLLaMA3: videos of any size, with a time stamp before each frame."""

from __future__ import annotations

from typing import Any

from dycoke_lab.models.placeholders import encoded, grids_of, in_order
from dycoke_lab.models.token_layout import TokenLayout

MODEL_TYPE = "video_llama_3"
DECODER, VISION = "language_model", "vision_model"
VISION_PATCHES = "packed"


def find_videos(config: Any, inputs: dict[str, Any]) -> TokenLayout | None:
    if encoded(inputs, "video", "pixel_values_videos") is None:
        return None
    compressed = inputs.get("video_compression_mask")
    if compressed is not None and not bool(compressed.all()):
        raise ValueError(
            "video_compression_mask drops tokens of this video before DyCoke could compare its frames: give "
            "the processor videos_kwargs={'use_token_compression': False}"
        )
    return in_order(
        inputs["input_ids"] == config.video_token_id, grids_of(inputs, inputs.get("video_merge_sizes", 1))
    )
