"""Draw the frames of a clip, with what happens to their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import ImageColor
from torch import Tensor

from dycoke_lab.viz.clip_runs import Clip
from dycoke_lab.viz.frames.page import LEFT, SMALL, WIDTH, Box, Page, as_picture, to_bytes

GAP, LABEL, BAR = 10, 24, 7  # pixels between frames, above them, and below them where shares are drawn
TOP, PER_ROW, ROW, STRIP = 72, 8, 172, 212  # where frames begin; in a row; heights of a row, of what is below
HALF = 640  # where the right half begins
LOOKS = matplotlib.colormaps["inferno"](np.linspace(0.25, 1.0, 256))[:, :3].astype(np.float32)


@dataclass(frozen=True)
class Layout:
    """Where a view of a clip has its frames, and what stands below them: in the right half, or beside a last
    row of frames that fills no more than the left half. left: whether the left half is free below, too."""

    frames: Box
    below: Box
    left: bool
    height: int


def layout(clip: Clip, whole: bool = False) -> Layout:
    """Return the places of a clip's view. Frames are so large that a page of 848 pixels shows 90 of each.

    whole: nothing stands beside frames, so that both halves below them are free.
    """
    rows, rest = divmod(len(clip.pixels), PER_ROW)
    beside = not whole and rows > 0 and 0 < rest <= PER_ROW // 2
    above = TOP + ROW * (rows + (rest > 0 and not beside))
    end = TOP + ROW * (rows + (rest > 0))
    box = (HALF, above + 4, WIDTH - LEFT, above + STRIP - 4)
    return Layout((LEFT, TOP, WIDTH - LEFT, end), box, not beside, above + STRIP)


def mosaic(
    page: Page,
    box: Box,
    clip: Clip,
    *,
    light: Tensor | None = None,
    grey: bool = False,
    white: Tensor | None = None,
    black: Tensor | None = None,
    boxes: Sequence[tuple[Tensor, str]] = (),
    chosen: int | None = None,
    shares: Tensor | None = None,
    only: Sequence[int] | None = None,
    per_row: int | None = None,
) -> None:
    """Draw frames, as large as they fit. A scene's first frame names it, the others have their number.

    Per visual token, (frames, rows, cols): light 0 to 1 is laid over it as a colour, white fades out, black
    is covered, boxes outline. grey: frames without their colours. `chosen` underlines a frame. shares:
    (frames,), 0 to 1, written above each frame and drawn below it. only: which frames; None for all.
    """
    left, top, right, bottom = box
    numbers = list(range(len(clip.pixels))) if only is None else list(only)
    found, cell = fit(len(numbers), clip.side, right - left, bottom - top, per_row)
    size = clip.side * cell
    frames = _pictures(clip, size, grey)[numbers]
    if white is not None:
        frames = frames + (0.87 * _cells(white[numbers], cell)) * (1 - frames)
    if light is not None:
        values = _cells(light[numbers], cell)
        colours = LOOKS[(values[..., 0] * 255).clip(0, 255).astype(int)]
        frames = frames + (0.8 * values.clip(0, 1) ** 0.75) * (colours - frames)
    if black is not None:
        frames = _crossed(frames, black[numbers], cell)
    for at, frame in enumerate(to_bytes(frames)):
        number = numbers[at]
        y, x = top + at // found * (size + LABEL + BAR) + LABEL - 3, left + at % found * (size + GAP)
        for inset, (mask, colour) in enumerate(boxes):
            for row, col in mask[number].nonzero().tolist():
                _outline(frame[row * cell : (row + 1) * cell, col * cell : (col + 1) * cell], colour, inset)
        page.paste(x, y, as_picture(frame))
        page.place((x, y, x + size, y + size), "frame", number)
        first = number == 0 or bool(clip.scene[number] != clip.scene[number - 1])
        text = f"scene {int(clip.scene[number]) + 1}" if first else f"{number}"
        page.text(x, y - 4, text, SMALL, bold=first, anchor="ls")
        if shares is not None:
            _share(page, x, y, size, float(shares[number]))
        if number == chosen:
            page.box((x - 3, y - 3, x + size + 3, y + size + 3), outline="black", width=3)


def _share(page: Page, x: float, y: float, size: int, share: float) -> None:
    page.text(x + size, y - 4, f"{100 * share:.0f} %", SMALL, anchor="rs")
    page.box((x, y + size + 2, x + size, y + size + BAR), fill="#e0e0e0")
    page.box((x, y + size + 2, x + size * min(1.0, share), y + size + BAR), fill="black")


def fit(frames: int, side: int, width: float, height: float, per_row: int | None = None) -> tuple[int, int]:
    """Return how many frames a row should have for them to be large, and a token's side in pixels then."""

    def cell(per_row: int) -> int:
        rows = -(-frames // per_row)
        return int(min(((width + GAP) / per_row - GAP) / side, (height / rows - LABEL - BAR) / side))

    best = per_row or max(range(1, frames + 1), key=cell)
    return best, max(1, cell(best))


@lru_cache(16)
def enlarged(clip: Clip, size: int) -> NDArray[np.float32]:
    """Return a clip's frames as (frames, size, size, 3), by nearest pixels; not to be written to."""
    index = np.arange(size)
    rows, cols = (index * n // size for n in clip.pixels.shape[2:])
    return np.ascontiguousarray(clip.pixels.permute(0, 2, 3, 1).numpy()[:, rows][:, :, cols], np.float32)


@lru_cache(16)
def _pictures(clip: Clip, size: int, grey: bool) -> NDArray[np.float32]:
    """Return the frames; without colours, and then lighter, so that a colour on them is seen."""
    frames = enlarged(clip, size)
    if not grey:
        return frames
    light = frames @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.repeat(0.25 + 0.6 * light[..., None], 3, -1)


def _cells(mask: Tensor, cell: int) -> NDArray[np.float32]:
    """Return (frames, rows, cols) as pixels of the enlarged frames, with an axis for colours."""
    return mask.float().numpy().repeat(cell, 1).repeat(cell, 2)[..., None]


def _crossed(frames: NDArray[np.float32], mask: Tensor, cell: int) -> NDArray[np.float32]:
    """Darken tokens, and draw thin diagonal lines on them, which no frame has of its own."""
    there = _cells(mask, cell) > 0
    down, across = np.mgrid[: frames.shape[1], : frames.shape[2]]
    lines = ((down + across) % 12 < 2)[None, ..., None]
    return np.where(there, np.where(lines, np.float32(0.6), np.float32(0.2) * frames), frames)


def _outline(cell: NDArray[np.uint8], colour: str, inset: int) -> None:
    """Draw a box into the pixels of a visual token, the thinner the smaller it is."""
    width = max(1, min(3, len(cell) // 8))
    inset *= width
    if inset:
        cell = cell[inset:-inset, inset:-inset]
    inside = cell[width:-width, width:-width].copy()
    cell[:] = ImageColor.getrgb(colour)
    cell[width:-width, width:-width] = inside
