"""Where the visual tokens are: which columns of a prompt hold a video's frames, row by row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class Grid(NamedTuple):
    """The visual tokens of one video: frames x rows x cols, numbered (frame * rows + row) * cols + col."""

    frames: int
    rows: int
    cols: int

    @property
    def per_frame(self) -> int:
        return self.rows * self.cols

    @property
    def tokens(self) -> int:
        return self.frames * self.per_frame


@dataclass(frozen=True)
class VisualLayout:
    """The visual tokens of a batch of prompts, each with any number of videos of any size.

    columns: (batch, visual), the prompt column of each visual token: video by video, frame by frame, row by row.
    real: (batch, visual), False where a sample has fewer visual tokens than another and `columns` means nothing.
    videos: for each sample its videos' grids, in order. length: columns of the prompt in all.
    """

    columns: Int[Tensor, "batch visual"]
    real: Bool[Tensor, "batch visual"]
    videos: tuple[tuple[Grid, ...], ...]
    length: int

    def alike(self) -> Iterator[tuple[Grid, Int[Tensor, " videos"], Int[Tensor, "videos tokens"]]]:
        """The batch's videos, grouped by size: the sample of each, and the numbers of its tokens among `columns`."""
        groups: dict[Grid, list[tuple[int, int]]] = {}
        for sample, grids in enumerate(self.videos):
            start = 0
            for grid in grids:
                groups.setdefault(grid, []).append((sample, start))
                start += grid.tokens
        device = self.columns.device
        for grid, places in groups.items():
            samples, starts = torch.tensor(places, device=device).unbind(1)
            yield grid, samples, starts[:, None] + torch.arange(grid.tokens, device=device)


def lay_out(videos: Sequence[Sequence[tuple[Grid, Int[Tensor, " tokens"]]]], length: int, device: torch.device) -> VisualLayout:
    """A layout from each sample's videos: their grids and the columns of their tokens."""
    rows = [torch.cat([columns for _, columns in sample]) if sample else torch.empty(0, dtype=torch.long) for sample in videos]
    most = max(len(row) for row in rows)
    columns = torch.stack([torch.nn.functional.pad(row.to(device), (0, most - len(row))) for row in rows])
    counts = torch.tensor([len(row) for row in rows], device=device)
    real = torch.arange(most, device=device) < counts[:, None]
    return VisualLayout(columns, real, tuple(tuple(grid for grid, _ in sample) for sample in videos), length)


def left_packed(keep: Bool[Tensor, "batch length"]) -> tuple[Int[Tensor, "batch kept"], Bool[Tensor, "batch kept"] | None]:
    """The columns to keep, in order, right-aligned; and which of them are real, None if all are.

    Samples that keep fewer columns are filled up on the left with columns to be masked.
    """
    counts = keep.sum(1)
    most = int(counts.max())
    index = keep.int().argsort(dim=1, stable=True)[:, keep.shape[1] - most :]
    if int(counts.min()) == most:
        return index, None
    return index, keep.gather(1, index)


def take(states: Tensor, index: Int[Tensor, "... kept"]) -> Tensor:
    """(..., batch or 1, length, dim) at the columns of `index`, (..., batch, kept): (..., batch, kept, dim)."""
    lead = torch.broadcast_shapes(states.shape[:-2], index.shape[:-1])
    states, index = states.expand(*lead, *states.shape[-2:]), index.expand(*lead, index.shape[-1])
    return states.gather(-2, index[..., None].expand(*index.shape, states.shape[-1]))
