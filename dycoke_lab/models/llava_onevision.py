"""LLaVA-OneVision: a video is frames x side x side tokens and one newline token at its end."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from dycoke_lab.layout import VisualLayout
from dycoke_lab.models.common import one_video_a_sample

MODEL_TYPE = "llava_onevision"


def language_model(model: nn.Module) -> nn.Module:
    """The decoder, called with `inputs_embeds` in which the visual tokens already stand."""
    return model.model.language_model  # type: ignore[union-attr,return-value]


def find_visual_tokens(model: nn.Module, inputs: dict[str, Any]) -> VisualLayout | None:
    """Where the video's tokens stand in this call's prompt; None when the call brings no video.

    Raises ValueError when a sample does not hold exactly one video.
    """
    vision: Any = model.config.vision_config  # type: ignore[union-attr]
    side = math.ceil(vision.image_size // vision.patch_size / 2)  # frames are pooled 2 x 2
    return one_video_a_sample(model, inputs, side, ending=1)
