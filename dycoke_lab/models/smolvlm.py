"""SmolVLM2: a video's frames are images with "Frame from 00:01:" before them."""

from __future__ import annotations

from typing import Any

from dycoke_lab.models.placeholders import encoded, images_in_a_row
from dycoke_lab.models.token_layout import TokenLayout

MODEL_TYPE = "smolvlm"
DECODER, VISION = "text_model", "vision_model"
VISION_PATCHES = "images"
BETWEEN = "{fake_image_token}\nFrame from {time}:{fake_image_token}{global_image_token}"


def find_videos(config: Any, inputs: dict[str, Any]) -> TokenLayout | None:
    if encoded(inputs, "image", "pixel_values") is None:
        return None
    side = config.vision_config.image_size // config.vision_config.patch_size // config.scale_factor
    return images_in_a_row(config, inputs["input_ids"], config.image_token_id, side, BETWEEN)
