"""What the adapters of several families share."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dycoke_lab.layout import VisualLayout


def one_video_a_sample(model: nn.Module, inputs: dict[str, Any], side: int, ending: int) -> VisualLayout | None:
    """The layout of prompts that hold one video each, of frames with side x side tokens, all of one length.

    ending: tokens after the last frame that stand for no place (a line break, say). None when the call brings no video.
    Raises ValueError when a sample does not hold exactly one video.
    """
    ids: Tensor | None = inputs.get("input_ids")
    encoded = (inputs.get("mm_encoder_outputs") or {}).get("video")  # generate encodes the video beforehand
    videos = inputs.get("pixel_values_videos") if encoded is None else encoded.pooler_output
    if ids is None or videos is None:
        return None
    config: Any = model.config
    at = ids == config.video_token_id
    counts = at.sum(1).tolist()
    frames = (counts[0] - ending) // side**2
    expected = frames * side**2 + ending
    if any(count != expected for count in counts) or len(videos) != len(ids) or frames < 1:
        length = f"frames * {side**2}" + (f" + {ending}" if ending else "")
        raise ValueError(
            f"input_ids holds {counts} video tokens in its samples, for {len(videos)} videos: exactly one video a sample, "
            f"all of one length ({length} tokens), is supported. Run other prompts one by one"
        )
    columns = at.int().argsort(dim=1, descending=True, stable=True)[:, : frames * side**2]
    return VisualLayout(columns, frames, side, side, at.shape[1])
