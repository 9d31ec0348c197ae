"""Draw two answers to one question, side by side."""

from __future__ import annotations

from collections.abc import Sequence

from PIL.Image import Image as Picture

from dycoke_lab.evaluation.metrics import count_wrong
from dycoke_lab.viz.clip_runs import Clip, ClipRun
from dycoke_lab.viz.frames.mosaic import mosaic
from dycoke_lab.viz.frames.page import HEIGHT, LARGE, LEFT, WIDTH, Page
from dycoke_lab.viz.frames.words import word_grid
from dycoke_lab.viz.plots import RIGHT_ANSWER, WRONG


def compare_view(clip: Clip, runs: Sequence[tuple[str, ClipRun]], step: int) -> Picture:
    """Draw two runs (label, run): answers with wrong words marked; below, the active tokens at one step."""
    page = Page()
    for place, (name, run) in enumerate(runs):
        left = LEFT + WIDTH / 2 * place
        here = min(step, len(run.words) - 1)
        count = count_wrong(run.words, clip.answer)
        verdict = "every word is right" if not count else f"{count} wrong word{'s' * (count > 1)}"
        page.text(left, 24, f"{name}: {verdict}", LARGE, bold=True, colour=WRONG if count else "black")
        word_grid(page, (left, 46, left + 590, 242), run.words, clip.answer, here)
        active = run.states(here).active
        there = int((clip.named(here).flatten() & active).sum())
        show = f"{there} of them show{'s' * (there == 1)} what it names (green)"
        page.text(left, 262, f"step {here}: {int(active.sum())} active tokens, {show}")
        frames = (left, 278, left + 590, HEIGHT - 2)
        mosaic(page, frames, clip, white=clip.grid(~active), boxes=[(clip.named(here), RIGHT_ANSWER)])
    return page.picture
