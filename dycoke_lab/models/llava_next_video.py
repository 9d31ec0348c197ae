"""LLaVA-NeXT-Video: a video is frames x side x side tokens, and nothing between or after them."""

from __future__ import annotations

from typing import Any

from dycoke_lab.models.placeholders import equal_videos
from dycoke_lab.models.token_layout import TokenLayout

MODEL_TYPE = "llava_next_video"
DECODER, VISION = "language_model", "vision_tower"
VISION_PATCHES = "images"


def find_videos(config: Any, inputs: dict[str, Any]) -> TokenLayout | None:
    side = config.vision_config.image_size // config.vision_config.patch_size // config.spatial_pool_stride
    return equal_videos(inputs, config.video_token_id, side)
