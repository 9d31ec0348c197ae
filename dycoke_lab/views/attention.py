"""Where one step looks, and what it may look at."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from matplotlib.ticker import MaxNLocator
from PIL.Image import Image as Picture

from dycoke_lab.explore import Clip, Run
from dycoke_lab.plots import BACK, TRUTH, WAITING
from dycoke_lab.views.mosaic import mosaic
from dycoke_lab.views.page import BOTTOM, CHART, LEFT, POINTS, RIGHT, TOP, WIDTH, Plot, heading, small_plot
from dycoke_lab.views.words import word_grid


def attention_view(clip: Clip, run: Run, step: int, layer: int, head: int | None) -> Picture:
    """Where one step looks, what it may look at, and the word it writes."""
    step = min(step, len(run.words) - 1)
    values = run.trace.attention[step][layer, :, 0]
    values = values.mean(0) if head is None else values[head]
    kept, waiting, back, merged = run.states(step)
    page = heading(f"Step {step}: “{run.words[step]}”", f"{int(kept.sum())} tokens in, {int(waiting.sum())} waiting, "
                   f"{int(back.sum())} just back, {int(merged.sum())} merged away")  # fmt: skip
    boxes = [(clip.named(step), TRUTH), (clip.grid(back), BACK)]
    light = (values / (float(values.max()) or 1.0)).sqrt()  # by its root, or only the strongest token would be seen
    mosaic(page, (LEFT, TOP, RIGHT - 20, BOTTOM), clip, weight=clip.grid(light),
           white=clip.grid(waiting * 0.7 + merged * 1.0), boxes=boxes)  # fmt: skip
    for number, (colour, text) in enumerate(((TRUTH, "shows what this word names"), (BACK, "just came back"),
                                             (WAITING, "faded: waiting; white: merged away"))):  # fmt: skip
        y = 22 + 30 * number
        page.box((RIGHT, y - 9, RIGHT + 18, y + 9), WAITING if colour == WAITING else None, colour, 3)
        page.text(RIGHT + 28, y, text)
    word_grid(page, (RIGHT, 104, WIDTH - 12, 284), run.words, clip.answer, step)
    share = clip.grid(values).sum((1, 2)) / max(float(values.sum()), 1e-12)
    here = clip.named(step).flatten(1).any(1).tolist()
    axes = _frame_axes(len(share))
    page.paste(RIGHT, CHART, axes.picture)
    page.text(RIGHT + 62, CHART + 16, f"layer {layer}, {'mean over heads' if head is None else f'head {head}'}")
    for number, value in enumerate(share.tolist()):
        left, top, right, floor = axes.x(number - 0.4), axes.y(value), axes.x(number + 0.4), axes.y(0)
        page.box((RIGHT + left, CHART + top, RIGHT + right, CHART + floor), fill=TRUTH if here[number] else "#999999")
    return page.picture


@lru_cache(32)
def _frame_axes(frames: int) -> Plot:
    def draw(ax: Any) -> None:
        ax.set(xlim=(-0.6, frames - 0.4), ylim=(0, 1))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("frame (green: shows it)", fontsize=POINTS + 3)
        ax.set_ylabel("attention", fontsize=POINTS + 3)
        ax.grid(visible=False)

    return small_plot(draw)
