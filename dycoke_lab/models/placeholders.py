"""How adapters say where a prompt's videos are: three ways, of which a family needs one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dycoke_lab.models.token_layout import TokenGrid, TokenLayout, lay_out
from dycoke_lab.models.words import same_words


def encoded(inputs: dict[str, Any], modality: str, pixels: str) -> Any:
    """Return the features that `generate` has encoded beforehand, or the pixels that this call brings; None
    if neither."""
    features = (inputs.get("mm_encoder_outputs") or {}).get(modality)
    return inputs.get(pixels) if features is None else features.pooler_output


def equal_videos(inputs: dict[str, Any], token: int, side: int, ending: int = 0) -> TokenLayout | None:
    """Return videos of one length, each frames * side * side video tokens and `ending` more that stand for no
    place (a line break)."""
    videos = encoded(inputs, "video", "pixel_values_videos")
    if videos is None:
        return None
    frames = videos.shape[1] if videos.ndim == 5 else (videos.shape[1] - ending) // side**2
    return in_order(inputs["input_ids"] == token, [TokenGrid(frames, side, side)] * len(videos), ending)


def in_order(at: Tensor, grids: Sequence[TokenGrid], ending: int = 0) -> TokenLayout:
    """Return videos of these sizes, in the order in which their tokens stand in the batch.

    at: (batch, length), where the video tokens are. Raises ValueError if their number is not that of the
    grids.
    """
    rest = list(grids)
    samples = []
    for row in at:
        columns, sample = row.nonzero()[:, 0], []
        while len(columns) and rest and len(columns) >= rest[0].tokens + ending:
            grid = rest.pop(0)
            sample.append((grid, columns[: grid.tokens]))
            columns = columns[grid.tokens + ending :]
        if len(columns):
            raise ValueError(
                f"input_ids holds {at.sum(1).tolist()} video tokens in its samples, which the videos of "
                "this call, frames x rows x "
                f"cols {[tuple(grid) for grid in grids]}, do not fill: make text and videos in one call of "
                "the processor, and read the prompt at once (no prefill_chunk_size)"
            )
        samples.append(sample)
    if rest:
        raise ValueError(
            f"the call brings {len(grids)} videos, but input_ids holds the tokens of "
            f"{len(grids) - len(rest)}: give videos only "
            "with the prompt they stand in, not again in a later turn"
        )
    return lay_out(samples, at.shape[1], at.device)


def grids_of(inputs: dict[str, Any], merge: int | Tensor) -> list[TokenGrid]:
    """Return the sizes of the batch's videos, from `video_grid_thw` (frames, rows and cols of patches; merge
    x merge are a token).

    `generate` repeats each sample's videos for beams and for several answers: the sizes are repeated with
    them.
    """
    if "video_grid_thw" not in inputs:
        raise ValueError(
            "mm_encoder_outputs holds videos whose sizes are not known: they are noted when videos are "
            "encoded, so give pixel_values_videos and video_grid_thw inside the context"
        )
    thw = inputs["video_grid_thw"]
    merges = merge.tolist() if isinstance(merge, Tensor) else [merge] * len(thw)
    grids = [TokenGrid(t, h // m, w // m) for (t, h, w), m in zip(thw.tolist(), merges, strict=True)]
    features = (inputs.get("mm_encoder_outputs") or {}).get("video")
    if features is None:
        return grids
    times = len(features.pooler_output) // len(grids)
    repeated: list[TokenGrid] = []
    lengths = [len(video) for video in features.pooler_output]
    while grids:  # a sample's videos a, b stand there as a, b, a, b, ..., then the next sample's
        for count in range(1, len(grids) + 1):
            group = grids[:count] * times
            if [grid.tokens for grid in group] == lengths[: len(group)]:
                repeated, grids, lengths = repeated + group, grids[count:], lengths[len(group) :]
                break
        else:
            raise ValueError(
                f"video_grid_thw={thw.tolist()} does not fit the encoded videos: their sizes are noted when "
                "videos are encoded, so give pixel_values_videos and video_grid_thw inside the context, and "
                "read the prompt at once (no prefill_chunk_size)"
            )
    return repeated


def images_in_a_row(config: Any, ids: Tensor, token: int, side: int, template: str) -> TokenLayout | None:
    """Return videos that are given as images: at least two images of side x side tokens each, between which
    stand the processor's own words.

    template: these words, as `words.same_words` takes them. Other images, and images that are cut into tiles,
    are no frames. None if there are no videos.
    """
    samples = []
    for row in ids:
        chains: list[list[tuple[int, int]]] = []
        whole = row.tolist()
        for run in _runs(row == token):
            if run[1] - run[0] != side**2:
                chains.append([])
                continue
            last = chains[-1] if chains else []
            if last and same_words(config, whole[last[-1][1] : run[0]], template, len(last) + 1):
                last.append(run)
            else:
                chains.append([run])
        samples.append([
            (
                TokenGrid(len(chain), side, side),
                torch.cat([torch.arange(*run, device=ids.device) for run in chain]),
            )
            for chain in chains if len(chain) > 1
        ])  # fmt: skip
    return lay_out(samples, ids.shape[1], ids.device) if any(samples) else None


def _runs(at: Tensor) -> list[tuple[int, int]]:
    """Return where True stands without a gap in (length,): starts and ends."""
    places = at.nonzero()[:, 0]
    if not len(places):
        return []
    gap = places.diff() > 1
    starts, ends = places[1:][gap].tolist(), (places[:-1][gap] + 1).tolist()
    return list(zip([int(places[0]), *starts], [*ends, int(places[-1]) + 1], strict=True))
