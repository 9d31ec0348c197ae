"""Draw what merging retains of a clip."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image as Picture
from torch import Tensor

from dycoke_lab.methods.temporal_merging import Merged, references
from dycoke_lab.viz.clip_runs import Clip
from dycoke_lab.viz.frames.mosaic import HALF, PER_ROW, enlarged, layout, mosaic
from dycoke_lab.viz.frames.page import (
    LEFT,
    POINTS,
    SMALL,
    Page,
    Plot,
    as_picture,
    heading,
    small_plot,
    to_bytes,
)
from dycoke_lab.viz.plots import INACTIVE, MERGED_AWAY, RETAINED

SIZE, TABLE = 144, 272  # pixels of a frame shown large; how wide its cosines are
MOST_NINES = 5.0  # cosines from .99999 stand at 1


def merge_view(clip: Clip, merged: Merged, threshold: float, frame: int, window: int, title: str) -> Picture:
    """Draw which tokens merging retains, one frame beside the one it is compared with, and all similarities
    with the threshold."""
    place = layout(clip, whole=True, strip=184)
    about = "White tokens are merged away: they repeat an earlier frame. A click shows a frame large."
    page = heading(title, about, place.height)
    gone = clip.grid(merged.into != torch.arange(len(merged.into)))
    mosaic(page, place.frames, clip, white=gone, chosen=frame, per_row=PER_ROW)
    at = LEFT, place.below[1] + 26
    _two_frames(page, at, clip, merged, gone, frame, references(len(clip.pixels), window)[frame])
    compared = ~merged.similarity.isnan()
    values, away = merged.similarity[compared].numpy(), gone.flatten(1)[compared].numpy()
    _histogram(page, (HALF + 80, place.below[1] - 4), values, away, threshold)
    return page.picture


def _two_frames(
    page: Page,
    at: tuple[float, float],
    clip: Clip,
    merged: Merged,
    gone: Tensor,
    frame: int,
    reference: int | None,
) -> None:
    """Draw a frame and its reference, and beside them each token's similarity where there is room."""
    pictures, (left, top) = enlarged(clip, SIZE), at
    other = left + SIZE + 24
    shown = ((left, reference, f"reference: {reference}"), (other, frame, f"frame {frame}"))
    for x, number, label in shown:
        if number is None:
            for line, text in enumerate(("first of", "its window:", "retained whole")):
                page.text(x + SIZE / 2, top + 48 + 24 * line, text, SMALL + 1, anchor="mm")
            continue
        page.text(x + SIZE / 2, top - 14, label, anchor="mm")
        page.paste(x, top, as_picture(to_bytes(pictures[number])))
    if reference is not None and clip.side <= 6:
        table = other + SIZE + 24
        page.text(table + TABLE / 2, top - 14, f"cosines with {reference}", anchor="mm")
        _similarities(page, (table, top), merged.similarity[frame], gone[frame])


def _similarities(page: Page, at: tuple[float, float], similarity: Tensor, gone: Tensor) -> None:
    side, (x, top) = len(gone), at
    wide, high, digits = TABLE / side, SIZE / side, 4 if side <= 4 else 3
    for token, value in enumerate(similarity.tolist()):
        row, col = divmod(token, side)
        white = bool(gone[row, col])
        box = (x + col * wide, top + row * high, x + (col + 1) * wide, top + (row + 1) * high)
        page.box(box, fill="white" if white else RETAINED, outline=INACTIVE)
        text = f"{value:.{digits}f}".replace("0.", ".") if value < 1 - 0.5 * 0.1**digits else "1"
        middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        page.text(*middle, text, SMALL + 1, colour="black" if white else "white", anchor="mm")


def _histogram(
    page: Page, at: tuple[float, float], values: NDArray[Any], away: NDArray[Any], threshold: float
) -> None:
    """Draw the similarities of retained and of merged tokens, stacked, and the threshold.

    values: (tokens,), cosines; away: (tokens,), boolean, merged away; threshold: a cosine."""
    x, y = at
    # rounded down, as the slider has it, so that it merges away what is shown as merged away
    shown = np.floor(1e4 * threshold + 1e-6) / 1e4
    nines, (place,) = _nines(values), _nines(np.array([shown]))
    low = float(np.floor(min([1.0, place, *nines])))
    axes = _similarity_axes(low, 2 * max(100, len(values)))
    page.paste(x, y, axes.picture)
    bins = np.linspace(low, MOST_NINES, round(8 * (MOST_NINES - low)) + 1)
    retained, all_of_them = np.histogram(nines[~away], bins)[0], np.histogram(nines, bins)[0]
    for start, end, below, above in zip(bins, bins[1:], retained, all_of_them, strict=False):
        left, right = x + axes.x(start), x + axes.x(end)
        for least, most, colour in ((0, below, RETAINED), (below, above, MERGED_AWAY)):
            if most > least:
                page.box((left, y + axes.y(most), right, y + axes.y(least)), fill=colour)
    page.text(x + 62, y + 16, f"line: threshold {shown:.4f}")
    for left, colour, name in ((x + 296, RETAINED, "retained"), (x + 396, MERGED_AWAY, "merged away")):
        page.box((left, y + 9, left + 14, y + 23), fill=colour)
        page.text(left + 19, y + 16, name, SMALL)
    line = x + axes.x(place)
    page.line([(line, y + axes.area[1]), (line, y + axes.area[3])], "black", 3)


def _nines(values: NDArray[Any]) -> NDArray[Any]:
    """Return where cosines stand on an axis that has as much room from .9 to .99 as from .99 to .999."""
    return -np.log10((1 - values.astype(float)).clip(min=10.0**-MOST_NINES))


@lru_cache(32)
def _similarity_axes(low: float, most: int) -> Plot:
    def draw(ax: Any) -> None:
        ax.set(xlim=(low, MOST_NINES + 0.1), ylim=(0.5, most), yscale="log")
        ax.set_yticks([1, 10, 100], ["1", "10", "100"])
        named = [n for n in range(5) if n >= low]
        ax.set_xticks([*named, MOST_NINES], [*(f"{1 - 10.0**-n:.{n}f}" for n in named), "1"])
        ax.minorticks_off()
        ax.set_xlabel("cosine similarity with the reference", fontsize=POINTS + 3)
        ax.set_ylabel("tokens", fontsize=POINTS + 3)
        ax.grid(visible=False)

    return small_plot(draw)
