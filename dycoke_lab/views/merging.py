"""What merging leaves of a clip."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from matplotlib.patches import Patch
from numpy.typing import NDArray
from PIL.Image import Image as Picture

from dycoke_lab.explore import Clip
from dycoke_lab.merge import Merged, references
from dycoke_lab.plots import KEPT, MERGED
from dycoke_lab.views.mosaic import enlarged, mosaic
from dycoke_lab.views.page import (
    BOTTOM,
    CHART,
    LEFT,
    POINTS,
    RIGHT,
    SMALL,
    TOP,
    Page,
    Plot,
    as_picture,
    heading,
    small_plot,
    to_bytes,
)


def merge_view(clip: Clip, merged: Merged, threshold: float, frame: int, window: int, title: str) -> Picture:
    """What merging leaves of a clip; one frame beside the one it is compared with; all similarities, and the threshold."""
    page = heading(title, "White tokens were merged away: they repeat an earlier frame.")
    gone = clip.grid(merged.into != torch.arange(len(merged.into)))
    mosaic(page, (LEFT, TOP, RIGHT - 20, BOTTOM), clip, white=gone, chosen=frame)
    reference, size = references(len(clip.pixels), window)[frame], 192
    pictures, cell = enlarged(clip, size), size / clip.side
    for x, number, label in ((RIGHT, reference, f"compared with {reference}"), (RIGHT + 232, frame, f"frame {frame}")):
        if number is None:
            page.text(x + size / 2, TOP + 90, "first of its window:", anchor="mm")
            page.text(x + size / 2, TOP + 116, "kept whole", anchor="mm")
            continue
        page.text(x + size / 2, TOP - 14, label, anchor="mm")
        page.paste(x, TOP, as_picture(to_bytes(pictures[number])))
        if number == frame and reference is not None and clip.side <= 6:
            for token, value in enumerate(merged.similarity[frame].tolist()):
                row, col = divmod(token, clip.side)
                middle, white = (x + (col + 0.5) * cell, TOP + (row + 0.5) * cell), bool(gone[frame, row, col])
                page.box((middle[0] - 23, middle[1] - 9, middle[0] + 23, middle[1] + 10), fill="white" if white else KEPT)
                page.text(
                    *middle,
                    "1" if value > 0.99995 else f"{value:.4f}".removeprefix("0"),
                    SMALL,
                    colour="black" if white else "white",
                    anchor="mm",
                )
    compared = ~merged.similarity.isnan()
    values, dropped = merged.similarity[compared].numpy(), gone.flatten(1)[compared].numpy()
    histogram(page, RIGHT, CHART, values, dropped, threshold)
    return page.picture


def histogram(page: Page, x: float, y: float, values: NDArray[Any], dropped: NDArray[Any], threshold: float) -> None:
    """Similarities of kept and of merged tokens, one upon the other, and the threshold.

    values: (tokens,), cosines; dropped: (tokens,), boolean; threshold: a cosine."""
    low = min(0.9, float(np.floor(10 * values.min()) / 10)) if len(values) else 0.9
    axes = _similarity_axes(low, 2 * max(100, len(values)))
    page.paste(x, y, axes.picture)
    bins = np.linspace(low, 1.0, 41)
    kept, all_of_them = np.histogram(values[~dropped], bins)[0], np.histogram(values, bins)[0]
    for start, end, below, above in zip(bins, bins[1:], kept, all_of_them, strict=False):
        left, right = x + axes.x(start), x + axes.x(end)
        for least, most, colour in ((0, below, KEPT), (below, above, MERGED)):
            if most > least:
                page.box((left, y + axes.y(most), right, y + axes.y(least)), fill=colour)
    shown = np.floor(1e4 * threshold + 1e-6) / 1e4  # as the slider has it, and so that it merges what is shown as merged
    page.text(x + 62, y + 16, f"line: threshold {shown:.4f}" + (", left of what is shown" if threshold < low else ""))
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
        ax.legend(handles=[Patch(color=KEPT, label="kept"), Patch(color=MERGED, label="merged")], frameon=False, labelcolor="black",
                  fontsize=POINTS, loc="upper left")  # fmt: skip
        ax.grid(visible=False)

    return small_plot(draw)
