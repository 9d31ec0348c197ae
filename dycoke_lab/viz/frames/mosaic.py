"""Draw the frames of a clip, with what happens to their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import ImageColor
from torch import Tensor

from dycoke_lab.viz.clip_runs import Clip
from dycoke_lab.viz.frames.page import SMALL, Box, Page, as_picture, to_bytes

GAP, LABEL = 10, 28  # pixels between frames, and above them


def mosaic(
    page: Page,
    box: Box,
    clip: Clip,
    *,
    weight: Tensor | None = None,
    white: Tensor | None = None,
    boxes: Sequence[tuple[Tensor, str]] = (),
    chosen: int | None = None,
) -> None:
    """Draw all frames, as large as they fit. A scene's first frame names it, the others have their number.

    Per visual token, (frames, rows, cols): weight 0 to 1 is brightness, white fades out, boxes outline.
    `chosen` underlines a frame.
    """
    left, top, right, bottom = box
    per_row, cell = fit(len(clip.pixels), clip.side, right - left, bottom - top)
    size = clip.side * cell
    frames = enlarged(clip, size)
    if weight is not None:
        frames = frames * (0.3 + 0.7 * _cells(weight, cell))
    if white is not None:
        frames = frames + (0.87 * _cells(white, cell)) * (1 - frames)
    for number, frame in enumerate(to_bytes(frames)):
        y, x = top + number // per_row * (size + LABEL) + LABEL - 6, left + number % per_row * (size + GAP)
        for inset, (mask, colour) in enumerate(boxes):
            for row, col in mask[number].nonzero().tolist():
                _outline(frame[row * cell : (row + 1) * cell, col * cell : (col + 1) * cell], colour, inset)
        page.paste(x, y, as_picture(frame))
        if number == chosen:
            page.box((x, y + size + 1, x + size, y + size + 6), fill="black")
        first = number == 0 or bool(clip.scene[number] != clip.scene[number - 1])
        text = f"scene {int(clip.scene[number]) + 1}" if first else str(number)
        page.text(x + size / 2, y - 3, text, SMALL, bold=first, anchor="ms")


def fit(frames: int, side: int, width: float, height: float) -> tuple[int, int]:
    """Return how many frames a row should have for them to be large, and a token's side in pixels then."""

    def cell(per_row: int) -> int:
        rows = -(-frames // per_row)
        return int(min((width / per_row - GAP) / side, (height / rows - LABEL) / side))

    best = max(range(1, frames + 1), key=cell)
    return best, max(1, cell(best))


@lru_cache(16)
def enlarged(clip: Clip, size: int) -> NDArray[np.float32]:
    """Return a clip's frames as (frames, size, size, 3), by nearest pixels; not to be written to."""
    index = np.arange(size)
    rows, cols = (index * n // size for n in clip.pixels.shape[2:])
    return np.ascontiguousarray(clip.pixels.permute(0, 2, 3, 1).numpy()[:, rows][:, :, cols], np.float32)


def _cells(mask: Tensor, cell: int) -> NDArray[np.float32]:
    """Return (frames, rows, cols) as pixels of the enlarged frames, with an axis for colours."""
    return mask.float().numpy().repeat(cell, 1).repeat(cell, 2)[..., None]


def _outline(cell: NDArray[np.uint8], colour: str, inset: int) -> None:
    """Draw a box into the pixels of a visual token, the thinner the smaller it is."""
    width = max(1, min(3, len(cell) // 8))
    inset *= width
    if inset:
        cell = cell[inset:-inset, inset:-inset]
    inside = cell[width:-width, width:-width].copy()
    cell[:] = ImageColor.getrgb(colour)
    cell[width:-width, width:-width] = inside
