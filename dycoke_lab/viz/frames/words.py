"""Draw an answer, word by word."""

from __future__ import annotations

from collections.abc import Sequence

from dycoke_lab.evaluation.metrics import wrong_words
from dycoke_lab.viz.frames.page import LARGE, MEDIUM, SMALL, Box, Page
from dycoke_lab.viz.plots import WRONG

MARKS = {",": ",", "<|end|>": "."}  # narrow, unlike words


def word_grid(
    page: Page, box: Box, words: Sequence[str], answer: Sequence[str], step: int | None = None
) -> None:
    """Draw an answer, a row a scene: wrong words marked, the right ones below, the current word boxed."""
    left, top, right, bottom = box
    wide, high = (right - left) / 4.2, (bottom - top) / 5
    row = col = 0
    written = [*words, *["–"] * max(0, len(answer) - len(words))]  # what was left out is wrong too
    for number, (word, bad) in enumerate(zip(written, wrong_words(written, list(answer)), strict=True)):
        mark = MARKS.get(word)
        if col > 3 and not mark:
            row, col = row + 1, 0
        if row > 4:
            break
        x, y = left + col * wide, top + row * high
        if number == step:
            here = (x, y + 1, x + wide * (0.2 if mark else 1), y + high - 1)
            page.box(here, fill="#fff2cc", outline="black", width=2)
        if bad:
            page.text(x + 8, y + high * 0.31, f"✗ {mark or word}", MEDIUM, bold=True, colour=WRONG)
            if number < len(answer):
                right_word = MARKS.get(answer[number], answer[number])
                page.text(x + 8, y + high * 0.73, f"right: {right_word}", SMALL - 2, colour="#404040")
        else:
            page.text(x + 8, y + high * 0.5, mark or word, LARGE - 3)
        col += 1
        if word == ",":
            row, col = row + 1, 0
