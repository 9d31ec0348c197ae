"""Draw what merging retains of a clip."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from matplotlib.patches import Patch
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
from dycoke_lab.viz.plots import MERGED_AWAY, RETAINED

SIZE = 168  # pixels of a frame shown large


def merge_view(clip: Clip, merged: Merged, threshold: float, frame: int, window: int, title: str) -> Picture:
    """Draw which tokens merging retains, one frame beside the one it is compared with, and all similarities
    with the threshold."""
    place = layout(clip, whole=True)
    about = "White tokens are merged away: they repeat an earlier frame. A click shows a frame large."
    page = heading(title, about, place.height)
    gone = clip.grid(merged.into != torch.arange(len(merged.into)))
    mosaic(page, place.frames, clip, white=gone, chosen=frame, per_row=PER_ROW)
    at = LEFT, place.below[1] + 26
    _two_frames(page, at, clip, merged, gone, frame, references(len(clip.pixels), window)[frame])
    compared = ~merged.similarity.isnan()
    values, away = merged.similarity[compared].numpy(), gone.flatten(1)[compared].numpy()
    _histogram(page, (HALF + 80, place.below[1] + 8), values, away, threshold)
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
    """Draw a frame and its reference, with each token's similarity written on it where there is room."""
    pictures, (left, top) = enlarged(clip, SIZE), at
    other = left + SIZE + 110
    shown = ((left, reference, f"compared with {reference}"), (other, frame, f"frame {frame}"))
    for x, number, label in shown:
        if number is None:
            page.text(x + SIZE / 2, top + 70, "first of its", anchor="mm")
            page.text(x + SIZE / 2, top + 94, "window: retained whole", anchor="mm")
            continue
        page.text(x + SIZE / 2, top - 14, label, anchor="mm")
        page.paste(x, top, as_picture(to_bytes(pictures[number])))
        if number == frame and reference is not None and clip.side <= 6:
            _similarities(page, (x, top), merged.similarity[frame], gone[frame])


def _similarities(page: Page, at: tuple[float, float], similarity: Tensor, gone: Tensor) -> None:
    side, (x, top) = len(gone), at
    for token, value in enumerate(similarity.tolist()):
        row, col = divmod(token, side)
        white = bool(gone[row, col])
        across, down = x + (col + 0.5) * SIZE / side, top + (row + 0.5) * SIZE / side
        digits, size, half = (4, SMALL - 1, 20) if side <= 4 else (3, SMALL - 5, 13)
        page.box((across - half, down - 9, across + half, down + 10), fill="white" if white else RETAINED)
        text = f"{value:.{digits}f}".replace("0.", ".") if value < 1 - 0.5 * 0.1**digits else "1"
        page.text(across, down, text, size, colour="black" if white else "white", anchor="mm")


def _histogram(
    page: Page, at: tuple[float, float], values: NDArray[Any], away: NDArray[Any], threshold: float
) -> None:
    """Draw the similarities of retained and of merged tokens, stacked, and the threshold.

    values: (tokens,), cosines; away: (tokens,), boolean, merged away; threshold: a cosine."""
    x, y = at
    low = min(0.9, float(np.floor(10 * values.min()) / 10)) if len(values) else 0.9
    axes = _similarity_axes(low, 2 * max(100, len(values)))
    page.paste(x, y, axes.picture)
    bins = np.linspace(low, 1.0, 41)
    retained, all_of_them = np.histogram(values[~away], bins)[0], np.histogram(values, bins)[0]
    for start, end, below, above in zip(bins, bins[1:], retained, all_of_them, strict=False):
        left, right = x + axes.x(start), x + axes.x(end)
        for least, most, colour in ((0, below, RETAINED), (below, above, MERGED_AWAY)):
            if most > least:
                page.box((left, y + axes.y(most), right, y + axes.y(least)), fill=colour)
    # rounded down, as the slider has it, so that it merges away what is shown as merged away
    shown = np.floor(1e4 * threshold + 1e-6) / 1e4
    beyond = ", left of this plot" if threshold < low else ""
    page.text(x + 62, y + 16, f"line: threshold {shown:.4f}{beyond}")
    if low <= threshold <= 1:
        at = x + axes.x(threshold)
        page.line([(at, y + axes.area[1]), (at, y + axes.area[3])], "black", 3)


@lru_cache(32)
def _similarity_axes(low: float, most: int) -> Plot:
    def draw(ax: Any) -> None:
        ax.set(xlim=(low, 1.0), ylim=(0.5, most), yscale="log")
        ax.set_yticks([1, 10, 100], ["1", "10", "100"])
        ax.minorticks_off()
        ax.set_xlabel("cosine similarity with the reference", fontsize=POINTS + 3)
        ax.set_ylabel("tokens", fontsize=POINTS + 3)
        key = [Patch(color=RETAINED, label="retained"), Patch(color=MERGED_AWAY, label="merged away")]
        ax.legend(handles=key, frameon=False, labelcolor="black", fontsize=POINTS, loc="upper left")
        ax.grid(visible=False)

    return small_plot(draw)
