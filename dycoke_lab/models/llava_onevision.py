"""LLaVA-OneVision: a video is frames x side x side tokens and one newline token at its end."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from dycoke_lab.layout import VisualLayout

MODEL_TYPE = "llava_onevision"


def language_model(model: nn.Module) -> nn.Module:
    """The decoder, called with `inputs_embeds` in which the visual tokens already stand."""
    return model.model.language_model  # type: ignore[union-attr,return-value]


def find_visual_tokens(model: nn.Module, inputs: dict[str, Any]) -> VisualLayout | None:
    """Where the video's tokens stand in this call's prompt; None when the call brings no video.

    Raises ValueError when a sample does not hold exactly one video.
    """
    pixels: Tensor | None = inputs.get("pixel_values_videos")
    ids: Tensor | None = inputs.get("input_ids")
    if pixels is None or ids is None:
        return None
    config: Any = model.config
    vision = config.vision_config
    side = math.ceil(vision.image_size // vision.patch_size / 2)
    frames = pixels.shape[1]
    expected = frames * side**2 + 1
    at = ids == config.video_token_id
    counts = at.sum(1).tolist()
    if any(count != expected for count in counts) or len(pixels) != len(ids):
        raise ValueError(
            f"input_ids holds {counts} video tokens per sample for {len(pixels)} videos of {frames} frames: "
            f"exactly one video per sample is supported, {expected} tokens each. Run other prompts one by one"
        )
    columns = at.int().argsort(dim=1, descending=True, stable=True)[:, : expected - 1]
    return VisualLayout(columns, frames, side, side, ids.shape[1])
