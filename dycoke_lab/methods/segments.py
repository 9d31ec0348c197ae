"""Cutting a video into segments of adjacent frames, as three published methods do. A segment is a range
of frame numbers; segments are returned in order, and together are all frames."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def adjacent_similarity(frames: Float[Tensor, "*videos frames dim"]) -> Float[Tensor, "*videos pairs"]:
    """Return the cosine of each frame with the next one, in float64, to 9 decimals, so that rounding
    errors decide nothing.

    >>> import torch
    >>> adjacent_similarity(torch.tensor([[3.0, 4.0], [3.0, 4.0], [4.0, -3.0]]))
    tensor([1., 0.], dtype=torch.float64)
    """
    frames = frames.double()
    return F.cosine_similarity(frames[..., :-1, :], frames[..., 1:, :], dim=-1).round(decimals=9)


def cut_where_unlike(similarity: Sequence[float], c: int, tau: float) -> list[range]:
    """Cut after each frame whose similarity to the next is below tau, and at the c - 1 least similar
    pairs (FastVID, arXiv 2503.11187). similarity: of adjacent frames, one fewer than frames.

    >>> cut_where_unlike([0.99, 0.8, 0.95, 0.97], c=3, tau=0.9)
    [range(0, 2), range(2, 3), range(3, 5)]
    """
    order = sorted(range(len(similarity)), key=lambda pair: (similarity[pair], pair))
    cuts = {*order[: c - 1], *(pair for pair in order if similarity[pair] < tau)}
    return _between([pair + 1 for pair in sorted(cuts)], len(similarity) + 1)


def contiguous(labels: Sequence[int]) -> list[range]:
    """Make segments of clusters of frames (PruneVid, arXiv 2412.16117): each cluster keeps its longest
    runs of at least two adjacent frames; every other stretch of frames, in order, joins the longer of
    the runs beside it, of equally long ones the earlier. If there is no such run, the video is one
    segment.

    labels: the cluster of each frame.

    >>> contiguous([0, 0, 1, 0, 1, 1, 1])  # frames 2 and 3 join the longer run, that of cluster 1
    [range(0, 2), range(2, 7)]
    """
    longest: dict[int | None, int] = {}
    for label, run in _runs(labels):
        longest[label] = max(longest.get(label, 2), len(run))
    marks: list[int | None] = []
    for label, run in _runs(labels):
        marks += [label if len(run) == longest[label] else None] * len(run)
    while None in marks:
        runs = _runs(marks)
        at = next(number for number, (label, _) in enumerate(runs) if label is None)
        beside = [runs[number] for number in (at - 1, at + 1) if 0 <= number < len(runs)]
        # of equal ones the first
        joined, _ = max(beside, key=lambda one: len(one[1]), default=(0, range(0)))
        for frame in runs[at][1]:
            marks[frame] = joined
    return [run for _, run in _runs(marks)]


def most_static(alike: Bool[Tensor, "pairs tokens"]) -> list[range]:
    """Cut so that most tokens are saved, by a dynamic programme (HoliTom, arXiv 2505.21334): a segment
    saves, for each token that is alike all through, one token a frame after its first. Of equally good
    cuts, the last segment is the shortest, then the one before it, and so on.

    alike: whether each token is like the one at its place in the next frame; on the CPU.

    >>> import torch
    >>> alike = torch.tensor([[True, True], [True, False], [False, False], [True, True]])
    >>> most_static(alike)  # frames 0 and 1 save 2 tokens, 0 to 2 as many: the shorter one
    [range(0, 2), range(2, 3), range(3, 5)]
    """
    frames = len(alike) + 1
    through = [alike[first:].long().cumprod(0).sum(1).tolist() for first in range(frames - 1)]
    best, start = [0], list[int]()  # of the first so many frames; where the last segment of them begins
    for end in range(1, frames + 1):
        saved = {end - 1: best[end - 1]}
        for first in range(end - 2, -1, -1):
            length = end - first
            saved[first] = best[first] + through[first][length - 2] * (length - 1)
        start.append(max(saved, key=saved.__getitem__))  # the first of equal ones
        best.append(saved[start[-1]])
    cuts, end = list[int](), frames
    while end:
        end = start[end - 1]
        cuts.append(end)
    return _between(cuts[-2::-1], frames)


def static_places(alike: Bool[Tensor, "pairs tokens"], segment: range) -> Bool[Tensor, " tokens"]:
    """Return which tokens are alike all through a segment; none if it has one frame. alike: as above."""
    through = alike[segment.start : segment.stop - 1].all(0)
    return through if len(segment) > 1 else through & False


def _between(cuts: Sequence[int], frames: int) -> list[range]:
    """cuts: the frames before which the video is cut, in order."""
    return [range(*ends) for ends in zip([0, *cuts], [*cuts, frames], strict=True)]


def _runs(labels: Sequence[int | None]) -> list[tuple[int | None, range]]:
    """Stretches of equal labels, as ranges."""
    runs, start = [], 0
    for label, members in groupby(labels):
        length = sum(1 for _ in members)
        runs.append((label, range(start, start + length)))
        start += length
    return runs
