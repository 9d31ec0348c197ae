"""Draw an answer, word by word."""

from __future__ import annotations

from collections.abc import Sequence

from dycoke_lab.evaluation.metrics import wrong_words
from dycoke_lab.viz.frames.page import LARGE, MEDIUM, SMALL, Box, Page, fitting
from dycoke_lab.viz.plots import CHANGED, WRONG

MARKS = {",": ",", "<|end|>": "."}  # narrow, unlike words
WIDEST = 150  # pixels of a word


def word_grid(
    page: Page,
    box: Box,
    words: Sequence[str],
    answer: Sequence[str],
    step: int | None = None,
    before: Sequence[str] | None = None,
) -> None:
    """Draw an answer, a row a scene: wrong words marked, the current one boxed. A click finds the step.

    answer: the right one. before: another answer of the model; words that differ from it are marked as
    changed, with what they were.
    """
    left, top, right, bottom = box
    rows, cols = shape(answer)
    wide, high = min(WIDEST, (right - left) / (cols + 0.25)), min(52.0, (bottom - top) / rows)
    written = [*words, *["–"] * max(0, len(answer) - len(words))]  # what was left out is wrong too
    wrong = wrong_words(written, list(answer))
    plain = fitting([word for word in written if word not in MARKS], wide - 12, LARGE - 3)
    changed = wrong_words(written, list(before)) if before is not None else [False] * len(written)
    for number, (row, col) in enumerate(grid_places(written, cols)):
        if row >= rows:
            break
        mark = MARKS.get(written[number])
        x, y = left + col * wide, top + row * high
        here = (x, y + 1, x + wide * (0.22 if mark else 1) - 2, y + high - 1)
        page.place(here, "step", number)
        if changed[number]:
            page.box(here, fill=CHANGED)
        if number == step:
            page.box(here, fill=None if changed[number] else "#fff2cc", outline="black", width=2)
        right_word = MARKS.get(answer[number], answer[number]) if number < len(answer) else "nothing"
        notes = [f"right: {right_word}"] if wrong[number] else []
        if changed[number] and before is not None:
            was = MARKS.get(before[number], before[number]) if number < len(before) else "nothing"
            notes = [f"was {was} ✓"] if was == right_word else [f"was {was}", *notes]
        text, room = mark or written[number], here[2] - here[0] - 10
        look = dict(bold=True, colour=WRONG) if wrong[number] else {}
        size = MEDIUM if notes else plain
        middle = y + high * (0.33 if notes else 0.5)
        page.fitted(x + 6, middle, f"✗ {text}" if wrong[number] else text, room, size, **look)
        page.fitted(x + 6, y + high * 0.75, ", ".join(notes), room, SMALL, colour="#404040")


def shape(answer: Sequence[str]) -> tuple[int, int]:
    """Return how many rows (scenes) an answer has, and how many words the longest has, without its mark."""
    lengths = [0]
    for word in answer:
        if word == ",":
            lengths.append(0)
        elif word not in MARKS:
            lengths[-1] += 1
    return len(lengths), max(1, *lengths)


def grid_places(words: Sequence[str], cols: int) -> list[tuple[int, int]]:
    """Return the row and the column of each word: a row ends after a comma, or where a word finds no room."""
    found = []
    row = col = 0
    for word in words:
        if col >= cols and word not in MARKS:
            row, col = row + 1, 0
        found.append((row, col))
        col += 1
        if word == ",":
            row, col = row + 1, 0
    return found
