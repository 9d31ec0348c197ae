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
    ids: Tensor | None = inputs.get("input_ids")
    encoded = (inputs.get("mm_encoder_outputs") or {}).get("video")  # generate encodes the video beforehand
    videos = inputs.get("pixel_values_videos") if encoded is None else encoded.pooler_output
    if ids is None or videos is None:
        return None
    config: Any = model.config
    vision = config.vision_config
    side = math.ceil(vision.image_size // vision.patch_size / 2)
    at = ids == config.video_token_id
    counts = at.sum(1).tolist()
    frames = (counts[0] - 1) // side**2
    expected = frames * side**2 + 1
    if any(count != expected for count in counts) or len(videos) != len(ids) or frames < 1:
        raise ValueError(
            f"input_ids holds {counts} video tokens in its samples, for {len(videos)} videos: exactly one video a sample, "
            f"all of one length (frames * {side**2} + 1 tokens), is supported. Run other prompts one by one"
        )
    columns = at.int().argsort(dim=1, descending=True, stable=True)[:, : expected - 1]
    return VisualLayout(columns, frames, side, side, at.shape[1])
