"""Draw which visual tokens are hidden, and what becomes of the answer."""

from __future__ import annotations

import torch
from PIL.Image import Image as Picture
from torch import Tensor

from dycoke_lab.attention.blocking import Block
from dycoke_lab.evaluation.metrics import count_wrong, wrong_words
from dycoke_lab.viz.clip_runs import Clip, ClipRun
from dycoke_lab.viz.frames.mosaic import HALF, layout, mosaic
from dycoke_lab.viz.frames.page import LEFT, MEDIUM, Box, Page, heading
from dycoke_lab.viz.frames.words import word_grid
from dycoke_lab.viz.plots import CHANGED, RIGHT_ANSWER, WRONG

KEY = 745  # where the key begins


def block_view(
    clip: Clip, run: ClipRun, blocked: ClipRun, block: Block | None, step: int, cursor: int | None = None
) -> Picture:
    """Draw the hidden tokens, and the answer without them: changed and wrong words marked.

    run: with nothing hidden. block: None if nothing is hidden; then `blocked` is `run`. step: the word whose
    tokens are outlined. cursor: a token to outline, (frame * rows + row) * cols + col.
    """
    hidden = hidden_tokens(clip, block)
    step = min(step, len(clip.answer) - 1)
    place = layout(clip)
    changed = _changed(blocked.words, run.words)
    wrong, before = count_wrong(blocked.words, clip.answer), count_wrong(run.words, clip.answer)
    if block is None:
        title = "Nothing is hidden"
        about = f"{_words(before)} wrong. Hide a part of the video: is what is attended to also used?"
    else:
        title = f"Hidden {_where(block)}: {_words(len(changed))} changed"
        about = f"{wrong} wrong ({before} before); {int(hidden.sum())} of {hidden.numel()} tokens hidden"
    page = heading(title, about, place.height, KEY - 30)
    boxes = [(clip.named(step), RIGHT_ANSWER)]
    if cursor is not None:
        at = torch.zeros(hidden.numel(), dtype=torch.bool)
        at[cursor] = True
        boxes.append((clip.grid(at), "#ffffff"))
    mosaic(page, place.frames, clip, black=hidden, boxes=boxes, per_row=8)
    _key(page)
    word_grid(page, place.below, blocked.words, clip.answer, step, run.words)
    if place.left:
        _by_scene(page, (LEFT, place.below[1], HALF - 40, place.below[3]), clip, hidden, changed)
    return page.picture


def hidden_tokens(clip: Clip, block: Block | None) -> Tensor:
    """Return (frames, rows, cols), boolean: which visual tokens a block hides."""
    hidden = torch.zeros(clip.features.shape[:2], dtype=torch.bool)
    if block is not None:
        hidden[list(block.frames)] = True
        hidden.view(-1)[list(block.tokens)] = True
        if not block.frames and not block.tokens:
            hidden[:] = True
    return clip.grid(hidden.flatten())


def _changed(words: list[str], before: list[str]) -> list[int]:
    """Return the places whose word differs from the answer with nothing hidden."""
    longest = max(len(words), len(before))
    padded = [[*answer, *["–"] * (longest - len(answer))] for answer in (words, before)]
    return [number for number, bad in enumerate(wrong_words(*padded)) if bad]


def _words(count: int) -> str:
    return f"{count} word{'s' * (count != 1)}"


def _where(block: Block) -> str:
    heads = "" if block.heads is None else f", head {', '.join(map(str, block.heads))}"
    last = block.from_layer + (block.layers or 1) - 1
    if block.layers is None:
        return f"from layer {block.from_layer} on{heads}"
    return f"in layers {block.from_layer} to {last}{heads}"


def _key(page: Page) -> None:
    page.box((KEY, 12, KEY + 18, 30), fill="#141414")
    page.line([(KEY + 3, 28), (KEY + 16, 14)], "#8c8c8c", 3)
    page.text(KEY + 26, 21, "hidden")
    page.box((KEY + 140, 12, KEY + 158, 30), outline=RIGHT_ANSWER, width=3)
    page.text(KEY + 166, 21, "shows what the boxed word names")
    page.box((KEY, 43, KEY + 18, 61), fill=CHANGED)
    page.text(KEY + 26, 52, "changed")
    page.text(KEY + 140, 52, "✗", bold=True, colour=WRONG)
    page.text(KEY + 166, 52, "wrong: differs from the truth")


def _by_scene(page: Page, box: Box, clip: Clip, hidden: Tensor, changed: list[int]) -> None:
    """Draw how many of each scene's words changed, and how much of it is hidden."""
    left, top, right, _ = box
    page.text(left, top + 14, "scene", MEDIUM, bold=True)
    page.text(left + 150, top + 14, "tokens hidden", MEDIUM, bold=True)
    page.text(left + 330, top + 14, "words changed", MEDIUM, bold=True)
    for scene in range(int(clip.scene.max()) + 1):
        y = top + 46 + 30 * scene
        share = float(hidden[clip.scene == scene].float().mean())
        steps = range(scene * (clip.places + 1), scene * (clip.places + 1) + clip.places)
        gone = sum(step in changed for step in steps)
        page.text(left, y, f"{scene + 1}", MEDIUM)
        page.text(left + 150, y, f"{100 * share:.0f} %", MEDIUM)
        page.text(left + 330, y, f"{gone} of {clip.places}", MEDIUM, bold=gone > 0)
        page.box((left + 430, y - 9, right, y + 9), fill="#eeeeee")
        page.box(
            (left + 430, y - 9, left + 430 + (right - left - 430) * gone / clip.places, y + 9), fill=CHANGED
        )
