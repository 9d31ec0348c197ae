"""LLaVA-OneVision: a video is frames x side x side tokens and one newline token at its end."""

from __future__ import annotations

import math
from typing import Any

from dycoke_lab.models.placeholders import equal_videos
from dycoke_lab.models.token_layout import TokenLayout

MODEL_TYPE = "llava_onevision"
DECODER, VISION = "language_model", "vision_tower"
VISION_PATCHES = "images"


def find_videos(config: Any, inputs: dict[str, Any]) -> TokenLayout | None:
    vision = config.vision_config
    side = math.ceil(vision.image_size // vision.patch_size / 2)  # frames are pooled 2 x 2
    return equal_videos(inputs, config.video_token_id, side, ending=1)
