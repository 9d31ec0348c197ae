"""Draw which tokens several methods keep, side by side on the same frames."""

from __future__ import annotations

from collections.abc import Sequence

from PIL.Image import Image as Picture

from dycoke_lab.evaluation.metrics import count_wrong
from dycoke_lab.viz.clip_runs import Clip, ClipRun
from dycoke_lab.viz.frames.compare_view import scene_frames, verdict
from dycoke_lab.viz.frames.mosaic import BAR, LABEL, mosaic
from dycoke_lab.viz.frames.page import LEFT, SMALL, WIDTH, Page, fitting
from dycoke_lab.viz.frames.words import MARKS
from dycoke_lab.viz.plots import RIGHT_ANSWER, WRONG

SHAPES = {1: (1, 1), 2: (2, 1), 3: (3, 1), 4: (2, 2), 5: (3, 2), 6: (3, 2)}  # columns and rows of methods
MOST = max(SHAPES)
HEAD, TEXT, SPACE = 84, 54, 24  # pixels: above all methods, above the frames of one, between two
SIZES = {2: (4, 138), 3: (2, 180)}  # by columns: frames of a method, and about their size in pixels


def kept_view(
    clip: Clip, runs: Sequence[tuple[str, ClipRun]], step: int, frame: int | None = None
) -> Picture:
    """Draw 1 to 6 runs (label, run): the tokens that each keeps active at one step, on the same frames.

    frame: the first one shown; None for the first of the scene that the word names. Raises ValueError for
    another number of runs.
    """
    if len(runs) not in SHAPES:
        raise ValueError(f"{len(runs)} methods: choose from 1 to {MOST}")
    step = min(step, len(clip.answer) - 1)
    columns, rows = SHAPES[len(runs)]
    shown, size = SIZES[max(2, columns)]
    first = scene_frames(clip, step)[0] if frame is None else frame
    only = list(range(len(clip.pixels)))[first : first + shown]
    high = TEXT + LABEL + size + BAR
    page = Page(HEAD + rows * high)
    named = clip.named(step)
    there = int(named[only].sum())
    page.text(LEFT, 22, f"The right answer; step {step} is boxed", SMALL + 1, bold=True)
    page.box((WIDTH - 420, 13, WIDTH - 402, 31), outline=RIGHT_ANSWER, width=3)
    page.text(WIDTH - 394, 22, "shows what the word names; pale: not active", SMALL + 1)
    _line(page, clip.answer, step)
    wide = (WIDTH - LEFT) / columns
    for number, (name, run) in enumerate(runs):
        left, top = LEFT + number % columns * wide, HEAD + number // columns * high
        room = wide - SPACE
        active = clip.grid(run.states(min(step, len(run.words) - 1)).active)
        wrong = count_wrong(run.words, clip.answer)
        bad = run.words[step : step + 1] != clip.answer[step : step + 1]
        page.fitted(left, top + 14, name, room, bold=True)
        kept = f"{int((active & named)[only].sum())} of {there} green"
        sign = "✗ wrong here" if bad else "✓ right here"
        text = f"{sign}; {verdict(wrong)}; {kept}"
        page.fitted(left, top + 38, text, room, SMALL + 1, colour=WRONG if bad else "black")
        box = (left, top + TEXT - 4, left + room, top + high - 2)
        mosaic(page, box, clip, white=~active, boxes=[(named, RIGHT_ANSWER)], only=only, per_row=shown)
    return page.picture


def _line(page: Page, answer: Sequence[str], step: int) -> None:
    """Draw the right answer as one line; a click finds the step."""
    marks = sum(word in MARKS for word in answer)
    wide = (WIDTH - 2 * LEFT - 26 * marks) / max(1, len(answer) - marks)
    x, size = float(LEFT), fitting([word for word in answer if word not in MARKS], wide - 8)
    for number, word in enumerate(answer):
        width = 26 if word in MARKS else wide
        here = (x, 40, x + width - 2, 74)
        page.place(here, "step", number)
        if number == step:
            page.box(here, fill="#fff2cc", outline="black", width=2)
        page.text(x + width / 2, 57, MARKS.get(word, word), size, anchor="mm")
        x += width
