"""Where the visual tokens are: frames x rows x columns in the prompt, and which columns of a cache hold them."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class VisualLayout:
    """The visual tokens of a batch of prompts with one video each.

    columns: (batch, frames * rows * cols), the prompt column of each visual token, frame by frame, row by row.
    length: columns of the prompt in all.
    """

    columns: Int[Tensor, "batch visual"]
    frames: int
    rows: int
    cols: int
    length: int

    @property
    def per_frame(self) -> int:
        return self.rows * self.cols


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
