"""Position ids of the tokens after a merged prompt: in the whole prompt's count, or repacked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Positions:
    """Where the next tokens stand.

    last: (..., batch, 1), the position id of the prompt's last token, or of a later picture's. shift: the
    same size, by how much repacked positions differ from the whole prompt's; None with original ones. known:
    the sequence index after that of `last`, merged tokens counted.
    """

    def __init__(self, last: Tensor, whole_last: Tensor, repacked: bool, known: int) -> None:
        self.last, self.known = last, known
        self.shift = last - whole_last if repacked else None

    def given(self, positions: Tensor, pictures_until: int | None) -> Tensor:
        """Return positions that were given in the whole prompt's count. pictures_until: the sequence index
        after them, if they include a picture, whose columns are more than its positions."""
        moved = positions if self.shift is None else moved_by(positions, self.shift)
        if pictures_until is not None:
            self.last, self.known = moved[..., -1:], pictures_until
        return moved

    def following(self, start: int, end: int, padding: Tensor | None) -> Tensor:
        """Return the positions of the sequence indices from start to below end. padding: (batch, end), if
        later turns brought some, which takes no position."""
        after: Any = torch.arange(1 + start - self.known, 1 + end - self.known, device=self.last.device)
        if padding is not None:
            after = padding[:, self.known :].cumsum(1)[:, start - end :].clamp(min=1)
        return self.last + after

    def rearrange(self, index: Tensor) -> None:
        """Follow an exchange of batch elements."""
        self.last = self.last.index_select(-2, index)
        self.shift = None if self.shift is None else self.shift.index_select(-2, index)


def moved_by(positions: Tensor, shift: Tensor) -> Tensor:
    """Return positions, (..., batch, columns), shifted by (..., batch, 1). Either may have, or lack, a row of
    text before its three of time and space."""
    if positions.ndim == 3 and len(positions) != len(shift):
        shift = shift[-len(positions) :] if len(positions) < len(shift) else torch.cat([shift[:1], shift])
    return positions + shift
