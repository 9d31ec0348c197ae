"""Draw two answers to one question, side by side."""

from __future__ import annotations

from collections.abc import Sequence

from PIL.Image import Image as Picture
from torch import Tensor

from dycoke_lab.evaluation.metrics import count_wrong
from dycoke_lab.viz.clip_runs import Clip, ClipRun
from dycoke_lab.viz.frames.mosaic import mosaic
from dycoke_lab.viz.frames.page import LEFT, SMALL, WIDTH, Page
from dycoke_lab.viz.frames.words import word_grid
from dycoke_lab.viz.plots import ACTIVE, RIGHT_ANSWER, WRONG

SHOWN = 4  # frames of a scene
HIGH = 506


def compare_view(clip: Clip, runs: Sequence[tuple[str, ClipRun]], step: int) -> Picture:
    """Draw two runs (label, run): answers with wrong words marked; below, the active tokens at one step, how
    many each frame has, and which they are in the scene that the word names."""
    page = Page(HIGH)
    for place, (name, run) in enumerate(runs):
        left = LEFT + WIDTH / 2 * place
        here = min(step, len(run.words) - 1)
        count = count_wrong(run.words, clip.answer)
        page.fitted(
            left, 22, f"{name}: {verdict(count)}", 600, 24, bold=True, colour=WRONG if count else "black"
        )
        word_grid(page, (left, 42, left + 600, 246), run.words, clip.answer, here)
        active = run.states(here).active
        there = int((clip.named(here).flatten() & active).sum())
        show = f"{there} of them show{'s' * (there == 1)} what it names (green)"
        page.fitted(left, 262, f"step {here}: {int(active.sum())} active tokens, {show}", 600)
        per_frame = clip.grid(active).sum((1, 2))
        count_bars(page, (left, 276, left + 600, 326), clip, per_frame)
        boxes = [(clip.named(here), RIGHT_ANSWER)]
        only = scene_frames(clip, here)[:SHOWN]
        box = (left, 334, left + 600, HIGH)
        mosaic(page, box, clip, white=clip.grid(~active), boxes=boxes, only=only, per_row=SHOWN)
    return page.picture


def verdict(count: int) -> str:
    """Return how many words are wrong, in words."""
    return "every word is right" if not count else f"{count} wrong word{'s' * (count > 1)}"


def scene_frames(clip: Clip, step: int) -> list[int]:
    """Return the frames of the scene that the right answer's word at `step` belongs to."""
    scene = min(step // (clip.places + 1), int(clip.scene.max()))
    return [int(frame) for frame in (clip.scene == scene).nonzero()[:, 0]]


def count_bars(page: Page, box: tuple[float, float, float, float], clip: Clip, counts: Tensor) -> None:
    """Draw how many tokens each frame has active. counts: (frames,)."""
    left, top, right, bottom = box
    wide, most, side = (right - left) / len(counts), clip.side**2, 24
    for frame, count in enumerate(counts.tolist()):
        x = left + frame * wide
        high = (bottom - side - top) * count / most
        page.box((x + 2, top, x + wide - 2, bottom - side), fill="#eeeeee")
        page.box((x + 2, bottom - side - high, x + wide - 2, bottom - side), fill=ACTIVE)
        page.fitted(x + wide / 2, bottom - 12, f"{count}", wide, SMALL, anchor="mm")
