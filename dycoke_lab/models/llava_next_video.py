"""LLaVA-NeXT-Video: a video is frames x side x side tokens, and nothing between or after them."""

from __future__ import annotations

from typing import Any

from dycoke_lab.layout import VisualLayout
from dycoke_lab.models.common import equal_videos

MODEL_TYPE = "llava_next_video"
DECODER, VISION = "language_model", "vision_tower"


def find_videos(config: Any, inputs: dict[str, Any]) -> VisualLayout | None:
    side = config.vision_config.image_size // config.vision_config.patch_size // config.spatial_pool_stride
    return equal_videos(inputs, config.video_token_id, side)
