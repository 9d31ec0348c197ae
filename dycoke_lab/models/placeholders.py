"""How adapters say where a prompt's videos are: three ways, of which a family needs one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from dycoke_lab.models.token_layout import TokenGrid, TokenLayout, lay_out

WORDS_BETWEEN = 16  # tokens; images with more text than this between them are no frames of one video


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
    times = 1 if features is None else len(features.pooler_output) // len(grids)
    if times == 1:
        return grids
    assert features is not None
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
                f"video_grid_thw={thw.tolist()} does not fit the encoded videos: call generate with one "
                "input for each"
            )
    return repeated


def images_in_a_row(
    ids: Tensor, token: int, side: int, apart: int = 1, label: int = 0, numbered: bool = False
) -> TokenLayout | None:
    """Return videos that are given as images: at least two images of side x side tokens each, with `apart` to
    16 tokens of text between them.

    label: if a frame is one only with a label before it ("Frame1: ", "Frame from 00:01: "), how many tokens
    after the label's number are the same in all. numbered: a label that is met again begins another video.
    Images on their own, and cut into tiles, are no frames. None if there are no videos.
    """
    samples = []
    for row in ids:
        at = (row == token).nonzero()[:, 0]
        starts = at[torch.cat([at.new_ones(1, dtype=torch.bool), at.diff() > 1])] if len(at) else at
        ends = at[torch.cat([at.diff() > 1, at.new_ones(1, dtype=torch.bool)])] + 1 if len(at) else at
        runs = list(zip(starts.tolist(), ends.tolist(), strict=True))
        chains: list[list[tuple[int, int]]] = []
        for number, run in enumerate(runs):
            if run[1] - run[0] != side**2:
                chains.append([])
            elif number and chains[-1] and apart <= run[0] - chains[-1][-1][1] <= WORDS_BETWEEN:
                chains[-1].append(run)
            else:
                chains.append([run])
        if label:
            chains = [part for chain in chains for part in _labelled(row.tolist(), chain, label, numbered)]
        samples.append([
            (
                TokenGrid(len(chain), side, side),
                torch.cat([torch.arange(*run, device=ids.device) for run in chain]),
            )
            for chain in chains if len(chain) > 1
        ])  # fmt: skip
    return lay_out(samples, ids.shape[1], ids.device) if any(samples) else None


def _labelled(
    tokens: list[int], chain: list[tuple[int, int]], same: int, numbered: bool
) -> list[list[tuple[int, int]]]:
    """The videos in a row of images: their frames have labels that are alike."""
    # after the end of the image before and a line break; before the first image, as much as before the second
    labels = [tokens[before[1] + 2 : image[0]] for before, image in pairwise(chain)]
    labels = [tokens[max(chain[0][0] - len(label), 0) : chain[0][0]] for label in labels[:1]] + labels
    videos: list[list[tuple[int, int]]] = [[]]
    first: list[int] = []
    for number, label in enumerate(labels):
        near = labels[max(number - 1, 0) : number] + labels[number + 1 : number + 2]
        if not any(_alike(label, other, same, whole=number > 0) for other in near):
            videos.append([])
            continue
        if not videos[-1]:
            first = label
        elif numbered and label[1:] == first[1:]:
            videos.append([])
        videos[-1].append(chain[number])
    return videos


def _alike(label: list[int], other: list[int], same: int, whole: bool) -> bool:
    """Equal but for a number; not whole: what stands before may have become part of the label's first
    word."""
    if abs(len(label) - len(other)) > 2:  # tokens that a number may be longer
        return False
    return (
        min(len(label), len(other)) > same
        and label[-same:] == other[-same:]
        and (not whole or label[0] == other[0])
    )
