"""Two answers to one question, side by side."""

from __future__ import annotations

from collections.abc import Sequence

from PIL.Image import Image as Picture

from dycoke_lab.explore import Clip, Run, count_wrong
from dycoke_lab.plots import TRUTH, WRONG
from dycoke_lab.views.mosaic import mosaic
from dycoke_lab.views.page import HEIGHT, LARGE, LEFT, WIDTH, Page
from dycoke_lab.views.words import word_grid


def compare_view(clip: Clip, runs: Sequence[tuple[str, Run]], step: int) -> Picture:
    """Answers under two methods side by side, wrong words marked; below, what the pruned layers may look at."""
    page = Page()
    for place, (name, run) in enumerate(runs):
        left = LEFT + WIDTH / 2 * place
        here = min(step, len(run.words) - 1)
        count = count_wrong(run.words, clip.answer)
        verdict = "every word is right" if not count else f"{count} wrong word{'s' * (count > 1)}"
        page.text(left, 24, f"{name}: {verdict}", LARGE, bold=True, colour=WRONG if count else "black")
        word_grid(page, (left, 46, left + 590, 242), run.words, clip.answer, here)
        kept = run.states(here)[0]
        there = int((clip.named(here).flatten() & kept).sum())
        page.text(
            left,
            262,
            f"step {here}: {int(kept.sum())} tokens in, {there} of them show{'s' * (there == 1)} what it names (green)",
        )
        mosaic(page, (left, 278, left + 590, HEIGHT - 2), clip, white=clip.grid(~kept), boxes=[(clip.named(here), TRUTH)])
    return page.picture
