"""Gemma 3: no video of its own; two or more images with nothing between them are taken for one."""

from __future__ import annotations

from typing import Any

from dycoke_lab.models.placeholders import encoded, images_in_a_row
from dycoke_lab.models.token_layout import TokenLayout

MODEL_TYPE = "gemma3"
DECODER, VISION = "language_model", "vision_tower"
VISION_PATCHES = "images"
BETWEEN = "{eoi_token}\n\n\n\n{boi_token}"


def find_videos(config: Any, inputs: dict[str, Any]) -> TokenLayout | None:
    if encoded(inputs, "image", "pixel_values") is None:
        return None
    side = int(config.mm_tokens_per_image**0.5)
    return images_in_a_row(config, inputs["input_ids"], config.image_token_id, side, BETWEEN)
