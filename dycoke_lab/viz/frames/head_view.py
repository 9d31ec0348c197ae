"""Draw which heads aim: how much of each head's attention on the video falls on what a word names."""

from __future__ import annotations

import matplotlib
import torch
from PIL.Image import Image as Picture
from torch import Tensor

from dycoke_lab.viz.clip_runs import Clip, ClipRun, aim
from dycoke_lab.viz.frames.attention_view import attention_of, colour_bar, light_frames
from dycoke_lab.viz.frames.mosaic import HALF, layout
from dycoke_lab.viz.frames.page import LEFT, MEDIUM, SMALL, Box, Page, heading
from dycoke_lab.viz.frames.words import MARKS, word_grid
from dycoke_lab.viz.plots import RIGHT_ANSWER

KEY = 745
_MAP = matplotlib.colormaps["viridis"]


def head_view(clip: Clip, run: ClipRun, step: int, layer: int, head: int, mean: bool = False) -> Picture:
    """Draw a map of heads and layers, and over the frames the attention of the chosen one at this step.

    A cell is a head's aim: the share of its attention on the video that falls on the tokens which the word
    names. mean: over all words that name something, instead of this step's.
    """
    step = min(step, len(run.words) - 1)
    place, found = layout(clip), aim_map(clip, run, step, mean)
    word = MARKS.get(run.words[step], run.words[step])
    what = "the words name" if mean else f"“{word}” names"
    share = float(found[layer, head])
    if share != share:
        title = f"“{word}” names nothing: choose a word"
    else:
        title = f"Layer {layer}, head {head}: {100 * share:.0f} % on what {what}"
    about = f"frames: its attention at step {step}; map: {'mean of all words' if mean else 'this step'}"
    page = heading(title, about, place.height, KEY - 25)
    colour_bar(page, KEY, 21, 60)
    page.text(KEY + 70, 21, "attention")
    page.box((KEY + 185, 12, KEY + 203, 30), outline=RIGHT_ANSWER, width=3)
    page.text(KEY + 211, 21, "shows what the word names")
    page.text(KEY, 52, "a click on the map shows that head")
    values = attention_of(run, step, layer, head)
    light_frames(page, place.frames, clip, values, clip.named(step), run.states(step))
    left, top, right, bottom = place.below
    words = place.below
    if place.left:
        box = (LEFT, top, HALF - 30, bottom)
    else:
        box, words = (left, top, left + 270, bottom), (left + 280, top, right, bottom)
    _map(page, box, found, layer, head)
    word_grid(page, words, run.words, clip.answer, step)
    return page.picture


def aim_map(clip: Clip, run: ClipRun, step: int, mean: bool) -> Tensor:
    """Return (layers, heads), `aim` of one step, or its mean over all steps whose word names something."""
    found = aim(clip, run)
    return found[~torch.isnan(found[:, 0, 0])].mean(0) if mean else found[step]


def _map(page: Page, box: Box, found: Tensor, layer: int, head: int) -> None:
    """Draw (layers, heads), 0 to 1, a column a layer."""
    left, top, right, bottom = box
    layers, heads = found.shape
    most = max(0.01, float(found.nan_to_num(0.0).max()))
    wide, high = (right - left - 62) / layers, (bottom - top - 62) / heads
    page.text(left, top + 10, "aim, %", SMALL + 1, bold=True)
    for number, share in enumerate(found.flatten().tolist()):
        column, row = divmod(number, heads)
        x, y = left + 62 + column * wide, top + 24 + row * high
        cell = (x, y, x + wide - 1, y + high - 1)
        known = share == share
        page.place(cell, "cell", number)
        red, green, blue, _ = _MAP(share / most if known else 0.0, bytes=True)
        page.box(cell, fill=f"#{red:02x}{green:02x}{blue:02x}" if known else "#dddddd")
        text = f"{100 * share:.0f}" if known else "–"
        colour = "black" if known and share > 0.6 * most else "white"
        page.fitted(x + wide / 2, y + high / 2, text, wide - 4, MEDIUM - 1, anchor="mm", colour=colour)
        if (column, row) == (layer, head):
            page.box(cell, outline="white", width=5)
            page.box(cell, outline="#d40000", width=3)
    for row in range(heads):
        page.text(left + 54, top + 24 + (row + 0.5) * high, f"{row}", SMALL + 1, anchor="rm")
    for column in range(layers):
        page.text(left + 62 + (column + 0.5) * wide, bottom - 28, f"{column}", SMALL + 1, anchor="mm")
    page.text(left, top + 24 + heads * high / 2, "head", SMALL + 1)
    page.text((left + 62 + right) / 2, bottom - 9, "layer", SMALL + 1, anchor="mm")
