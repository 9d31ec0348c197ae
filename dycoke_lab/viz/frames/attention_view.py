"""Draw where one step's attention goes, and where it may go."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from matplotlib.ticker import MaxNLocator
from PIL.Image import Image as Picture
from torch import Tensor

from dycoke_lab.viz.clip_runs import Clip, ClipRun
from dycoke_lab.viz.frames.mosaic import mosaic
from dycoke_lab.viz.frames.page import (
    BOTTOM,
    CHART,
    LEFT,
    POINTS,
    RIGHT,
    TOP,
    WIDTH,
    Page,
    Plot,
    heading,
    small_plot,
)
from dycoke_lab.viz.frames.words import word_grid
from dycoke_lab.viz.plots import INACTIVE, RETURNED, RIGHT_ANSWER


def attention_view(clip: Clip, run: ClipRun, step: int, layer: int, head: int | None) -> Picture:
    """Draw the attention of one step in one layer, the tokens' states, and the word that the step writes.

    head: None for the mean over heads.
    """
    step = min(step, len(run.words) - 1)
    values = run.trace.attention[step][layer, :, 0]
    values = values.mean(0) if head is None else values[head]
    states = run.states(step)
    active, inactive, returned, merged_away = (int(tokens.sum()) for tokens in states)
    counts = f"{active} active ({returned} just returned), {inactive} inactive, {merged_away} merged away"
    page = heading(f"Step {step}: “{run.words[step]}”", f"visual tokens: {counts}")
    boxes = [(clip.named(step), RIGHT_ANSWER), (clip.grid(states.returned), RETURNED)]
    light = (values / (float(values.max()) or 1.0)).sqrt()  # else only the strongest token would be visible
    white = clip.grid(states.inactive * 0.7 + states.merged_away * 1.0)
    mosaic(page, (LEFT, TOP, RIGHT - 20, BOTTOM), clip, weight=clip.grid(light), white=white, boxes=boxes)
    _key(page)
    word_grid(page, (RIGHT, 104, WIDTH - 12, 284), run.words, clip.answer, step)
    name = f"layer {layer}, {'mean over heads' if head is None else f'head {head}'}"
    _chart(page, clip.grid(values).sum((1, 2)), clip.named(step).flatten(1).any(1), name)
    return page.picture


def _key(page: Page) -> None:
    key = (
        (RIGHT_ANSWER, "shows what this word names"),
        (RETURNED, "just returned"),
        (INACTIVE, "faded: inactive; white: merged away"),
    )
    for number, (colour, text) in enumerate(key):
        y = 22 + 30 * number
        page.box((RIGHT, y - 9, RIGHT + 18, y + 9), INACTIVE if colour == INACTIVE else None, colour, 3)
        page.text(RIGHT + 28, y, text)


def _chart(page: Page, per_frame: Tensor, named: Tensor, name: str) -> None:
    """Draw a bar a frame: its share of the attention; green where it shows what the word names."""
    share = 100 * per_frame / max(float(per_frame.sum()), 1e-12)
    axes = _frame_axes(len(share))
    page.paste(RIGHT, CHART, axes.picture)
    page.text(RIGHT + 62, CHART + 16, name)
    for number, (value, here) in enumerate(zip(share.tolist(), named.tolist(), strict=True)):
        left, top, right, floor = axes.x(number - 0.4), axes.y(value), axes.x(number + 0.4), axes.y(0)
        bar = (RIGHT + left, CHART + top, RIGHT + right, CHART + floor)
        page.box(bar, fill=RIGHT_ANSWER if here else "#999999")


@lru_cache(32)
def _frame_axes(frames: int) -> Plot:
    def draw(ax: Any) -> None:
        ax.set(xlim=(-0.6, frames - 0.4), ylim=(0, 100))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("frame (green: shows it)", fontsize=POINTS + 3)
        ax.set_ylabel("attention, %", fontsize=POINTS + 3)
        ax.grid(visible=False)

    return small_plot(draw)
