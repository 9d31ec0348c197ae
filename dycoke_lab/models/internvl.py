"""InternVL: a video's frames are images of one tile each, with "Frame1: " before them."""

from __future__ import annotations

from typing import Any

from dycoke_lab.models.placeholders import encoded, images_in_a_row
from dycoke_lab.models.token_layout import TokenLayout

MODEL_TYPE = "internvl"
DECODER, VISION = "language_model", "vision_tower"
VISION_PATCHES = "images"
BETWEEN = "{end_image_token}\nFrame{number}: {start_image_token}"


def find_videos(config: Any, inputs: dict[str, Any]) -> TokenLayout | None:
    if encoded(inputs, "image", "pixel_values") is None:
        return None
    vision = config.vision_config
    side = int(vision.image_size[0] // vision.patch_size[0] * config.downsample_ratio)
    return images_in_a_row(config, inputs["input_ids"], config.image_token_id, side, BETWEEN)
