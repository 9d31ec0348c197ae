"""Draw where one step's attention goes, and where it may go."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL.Image import Image as Picture
from torch import Tensor

from dycoke_lab.viz.clip_runs import Clip, ClipRun, TokenStates, aim
from dycoke_lab.viz.frames.mosaic import HALF, LOOKS, PER_ROW, layout, mosaic
from dycoke_lab.viz.frames.page import LEFT, SMALL, Box, Page, as_picture, fitting, heading, to_bytes
from dycoke_lab.viz.frames.words import MARKS, word_grid
from dycoke_lab.viz.plots import INACTIVE, RETURNED, RIGHT_ANSWER

KEY = 745  # pixels from the left, where the key begins


def attention_view(clip: Clip, run: ClipRun, step: int, layer: int, head: int | None) -> Picture:
    """Draw the attention of one step in one layer, the tokens' states, and the word that the step writes.

    head: None for the mean over heads.
    """
    step = min(step, len(run.words) - 1)
    values = attention_of(run, step, layer, head)
    states = run.states(step)
    place = layout(clip)
    active, inactive, returned, merged_away = (int(tokens.sum()) for tokens in states)
    counts = f"{active} active ({returned} just returned), {inactive} inactive, {merged_away} merged away"
    if not inactive + merged_away:
        counts = f"all {active} visual tokens are read"
    shares = aim(clip, run, mean=head is None)[:, layer, head or 0]
    page = heading(_title(run, step, layer, head, shares), counts, place.height, KEY - 25)
    _key(page, bool(returned), bool(inactive), bool(merged_away))
    light_frames(page, place.frames, clip, values, clip.named(step), states)
    word_grid(page, place.below, run.words, clip.answer, step)
    if place.left:
        _step_bars(page, (LEFT, place.below[1], HALF - 30, place.below[3]), run.words, shares, step)
    return page.picture


def attention_of(run: ClipRun, step: int, layer: int, head: int | None) -> Tensor:
    """Return (visual,), the attention of one step in one layer; head: None for the mean over heads."""
    values = run.trace.attention[step][layer, :, 0]
    return values.mean(0) if head is None else values[head]


def light_frames(
    page: Page, box: Box, clip: Clip, values: Tensor, named: Tensor, states: TokenStates
) -> None:
    """Draw attention (visual,) as a colour over grey frames, with each frame's share of it.

    The colours' scale is the root of attention: else only the strongest token would be visible.
    """
    light = (values / (float(values.max()) or 1.0)).sqrt()
    per_frame = clip.grid(values).sum((1, 2))
    mosaic(
        page,
        box,
        clip,
        light=clip.grid(light),
        grey=True,
        white=clip.grid(states.inactive * 0.6 + states.merged_away * 1.0),
        boxes=[(named, RIGHT_ANSWER), (clip.grid(states.returned), RETURNED)],
        shares=per_frame / max(float(per_frame.sum()), 1e-12),
        per_row=PER_ROW,
    )


def colour_bar(page: Page, x: float, y: float, width: int) -> None:
    """Draw the colours of attention, from none to the most that a token of this picture gets."""
    shown = np.repeat(LOOKS[np.linspace(0, 255, width).astype(int)][None], 16, 0)
    page.paste(x, y - 8, as_picture(to_bytes(shown)))


def _title(run: ClipRun, step: int, layer: int, head: int | None, shares: Tensor) -> str:
    who = f"layer {layer}, {'mean of heads' if head is None else f'head {head}'}"
    word = MARKS.get(run.words[step], run.words[step])
    found = "" if torch.isnan(shares[step]) else f": {100 * float(shares[step]):.0f} % on what it names"
    return f"Step {step} “{word}”, {who}{found}"


def _key(page: Page, returned: bool, inactive: bool, merged_away: bool) -> None:
    colour_bar(page, KEY, 21, 60)
    page.text(KEY + 70, 21, "attention")
    page.box((KEY + 185, 12, KEY + 203, 30), outline=RIGHT_ANSWER, width=3)
    page.text(KEY + 211, 21, "shows what the word names")
    if returned:
        page.box((KEY, 43, KEY + 18, 61), outline=RETURNED, width=3)
        page.text(KEY + 26, 52, "just returned")
    if inactive:
        page.box((KEY + 185, 43, KEY + 203, 61), fill="#b5b0b8")
        page.text(KEY + 211, 52, "inactive")
    if merged_away:
        page.box((KEY + 320, 43, KEY + 338, 61), fill="#ececec", outline=INACTIVE)
        page.text(KEY + 346, 52, "merged away")


def _step_bars(page: Page, box: Box, words: Sequence[str], shares: Tensor, step: int) -> None:
    """Draw a bar for each word: how much of the attention on the video was on what it names."""
    left, top, right, bottom = box
    page.text(
        left, top + 12, "attention on what each word names, % of that on the video", SMALL + 1, bold=True
    )
    floor, wide = bottom - 46, (right - left) / max(1, len(words))
    size = fitting(list(words[:-1]), wide - 3, SMALL, bold=True)
    for number, share in enumerate(shares.tolist()):
        x = left + number * wide
        here = (x + 2, floor - 116 * share, x + wide - 3, floor)
        page.place((x, top + 24, x + wide, bottom), "step", number)
        if number == step:
            page.box((x, top + 26, x + wide, floor + 3), fill="#fff2cc")
        if share == share:  # not NaN
            page.box(here, fill=RIGHT_ANSWER)
            page.text(x + wide / 2, here[1] - 9, f"{100 * share:.0f}", SMALL - 1, anchor="mm")
        label = MARKS.get(words[number], words[number]) if size > 11 else f"{number}"
        bold = number == step
        page.text(x + wide / 2, floor + 16, label, max(size, 12), bold=bold, anchor="mm")
    page.line([(left, floor), (right, floor)], "black", 1)
    page.text(left, bottom - 10, "step", SMALL)
    page.text(right, bottom - 10, f"0 to {len(words) - 1}; click a word to go there", SMALL, anchor="rm")
