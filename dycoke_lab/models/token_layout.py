"""Where the visual tokens are: which columns of a prompt hold a video's frames, row by row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dycoke_lab.methods.interface import Place


class TokenGrid(NamedTuple):
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
class TokenLayout:
    """The visual tokens of a batch of prompts, each with any number of videos of any size.

    columns: (batch, visual), the prompt column of each visual token: video by video, frame by frame, row by
    row.
    real: (batch, visual), False where a sample has fewer visual tokens than another and `columns` means
    nothing.
    videos: for each sample its videos' grids, in order. length: columns of the prompt in all.
    """

    columns: Int[Tensor, "batch visual"]
    real: Bool[Tensor, "batch visual"]
    videos: tuple[tuple[TokenGrid, ...], ...]
    length: int

    def place(self) -> Place:
        """Return frame (of all the sample's videos, in order), row and column of each visual token."""
        parts: list[list[Tensor]] = [[], [], []]
        for grids in self.videos:
            frames = 0
            found: list[list[Tensor]] = [[], [], []]
            for grid in grids:
                frame, row, col = torch.meshgrid(*map(torch.arange, grid), indexing="ij")
                for where, numbers in zip(found, (frame + frames, row, col), strict=True):
                    where.append(numbers.flatten())
                frames += grid.frames
            for where, numbers_of in zip(parts, found, strict=True):
                row_of = torch.cat(numbers_of) if numbers_of else torch.empty(0, dtype=torch.long)
                where.append(torch.nn.functional.pad(row_of, (0, self.columns.shape[1] - len(row_of))))
        return Place(*(torch.stack(where).to(self.columns.device) for where in parts))

    def video(self) -> Int[Tensor, "batch visual"]:
        """Return which of its sample's videos each visual token belongs to, from 0."""
        number = torch.zeros_like(self.columns)
        for row, grids in zip(number, self.videos, strict=True):
            start = 0
            for which, grid in enumerate(grids):
                row[start : start + grid.tokens] = which
                start += grid.tokens
        return number

    def alike(self) -> Iterator[tuple[TokenGrid, Int[Tensor, " videos"], Int[Tensor, "videos tokens"]]]:
        """Yield the batch's videos, grouped by size: the sample of each, and the numbers of its tokens in
        `columns`."""
        groups: dict[TokenGrid, list[tuple[int, int]]] = {}
        for sample, grids in enumerate(self.videos):
            start = 0
            for grid in grids:
                groups.setdefault(grid, []).append((sample, start))
                start += grid.tokens
        device = self.columns.device
        for grid, places in groups.items():
            samples, starts = torch.tensor(places, device=device).unbind(1)
            yield grid, samples, starts[:, None] + torch.arange(grid.tokens, device=device)


def lay_out(
    videos: Sequence[Sequence[tuple[TokenGrid, Int[Tensor, " _"]]]], length: int, device: torch.device
) -> TokenLayout:
    """Return a layout from each sample's videos: their grids and the columns of their tokens."""
    rows = [
        torch.cat([columns for _, columns in sample]) if sample else torch.empty(0, dtype=torch.long)
        for sample in videos
    ]
    most = max(len(row) for row in rows)
    columns = torch.stack([torch.nn.functional.pad(row.to(device), (0, most - len(row))) for row in rows])
    counts = torch.tensor([len(row) for row in rows], device=device)
    real = torch.arange(most, device=device) < counts[:, None]
    return TokenLayout(columns, real, tuple(tuple(grid for grid, _ in sample) for sample in videos), length)


def left_packed(
    keep: Bool[Tensor, "batch length"],
) -> tuple[Int[Tensor, "batch kept"], Bool[Tensor, "batch kept"] | None]:
    """Return the columns to keep, in order, right-aligned; and which of them are real, None if all are.

    Samples that keep fewer columns are filled up on the left with columns to be masked.
    """
    counts = keep.sum(1)
    most = int(counts.max())
    index = keep.int().argsort(dim=1, stable=True)[:, keep.shape[1] - most :]
    if int(counts.min()) == most:
        return index, None
    return index, keep.gather(1, index)


def take(states: Tensor, index: Int[Tensor, "... kept"]) -> Tensor:
    """Return (..., batch or 1, length, dim) at the columns of `index`: (..., batch, kept, dim)."""
    lead = torch.broadcast_shapes(states.shape[:-2], index.shape[:-1])
    states, index = states.expand(*lead, *states.shape[-2:]), index.expand(*lead, index.shape[-1])
    return states.gather(-2, index[..., None].expand(*index.shape, states.shape[-1]))
