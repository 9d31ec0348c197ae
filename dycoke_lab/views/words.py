"""An answer, word by word."""

from __future__ import annotations

from collections.abc import Sequence

from dycoke_lab.explore import wrong_words
from dycoke_lab.plots import WRONG
from dycoke_lab.views.page import LARGE, MEDIUM, SMALL, Box, Page

MARKS = {",": ",", "<|end|>": "."}  # narrow, unlike words


def word_grid(page: Page, box: Box, words: Sequence[str], answer: Sequence[str], step: int | None = None) -> None:
    """An answer, a row for each scene; wrong words are crossed out, with the right one behind; the current word is boxed."""
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
            page.box((x, y + 1, x + wide * (0.2 if mark else 1), y + high - 1), fill="#fff2cc", outline="black", width=2)
        shown = f"✗ {mark or word}" if bad else mark or word
        page.text(x + 8, y + high * (0.31 if bad else 0.5), shown, MEDIUM if bad else LARGE - 3, bad, WRONG if bad else "black")
        if bad and number < len(answer):
            page.text(x + 8, y + high * 0.73, f"right: {MARKS.get(answer[number], answer[number])}", SMALL - 2, colour="#404040")
        col += 1
        if word == ",":
            row, col = row + 1, 0
