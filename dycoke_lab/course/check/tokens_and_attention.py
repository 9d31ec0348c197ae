"""Exercises of notebooks 00 to 02."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dycoke_lab.course.check.attending import attend, frame_shares, short
from dycoke_lab.course.check.verdict import Case, compare, same

__all__ = [
    "attend",
    "columns_of_frame",
    "frame_shares",
    "place_of",
    "tokens_read",
    "wrong_count",
]


def tokens_read(yours: Any) -> bool:
    """`tokens_read(per_frame, merge_ratio, prune_ratio)`: a video of four frames, one window,
    `per_frame` visual tokens each. How many tokens do the layers from L on read at a step?"""
    cases = [(100, 0, 0), (100, 0.5, 0), (100, 0, 0.9), (40, 0.5, 0.7), (200, 0.7, 0.7)]
    done = "Frames that repeat are cheap, and most of what is left is not read at a step."
    return compare(yours, _tokens_read, cases, _about_tokens_read, done)


def _tokens_read(per_frame: int, merge_ratio: float, prune_ratio: float) -> int:
    retained = per_frame
    for _ in range(3):
        retained += round((1 - merge_ratio) * per_frame)
    return round((1 - prune_ratio) * retained)


def _about_tokens_read(found: Any, expected: Any, case: Case) -> str:
    per_frame, merge, prune = case
    total = 4 * per_frame
    what = f"Frames of {per_frame} tokens, K = {merge}, P = {prune}: you found {found}, not {expected}."
    if merge and same(found, total * (1 - merge) * (1 - prune)):
        return f"{what} The first frame stays whole: K is a part of the three others only."
    if prune and same(found, _tokens_read(per_frame, merge, 0) - round(prune * total)):
        return f"{what} P is a part of the tokens that merging left, not of all."
    if same(found, round(total * (1 - 0.75 * merge) * prune)) or same(found, total * 0.75 * merge):
        return f"{what} K and P are the parts that are taken away: count what is left."
    if isinstance(found, int) and found == expected - 1:
        return f"{what} `int` cuts off 0.999...: use `round`."
    return f"{what} One frame stays whole, 1 - K of the three others. Of all these, 1 - P is read."


def wrong_count(yours: Any) -> bool:
    """`wrong_count(words, answer)`: how many words are wrong in their place, left out, or too many? Both are
    lists of words."""
    cases = [
        (["two", "two", "four"], ["two", "two", "four"]),
        (["two", "nine", "four"], ["two", "two", "four"]),
        (["four", "two", "two"], ["two", "two", "four"]),
        (["two"], ["two", "two", "four"]),
        (["two", "two", "four", "one", "one"], ["two", "two", "four"]),
        ([], ["two"]),
    ]
    done = "Every word counts in its place, so a word that is left out makes all later ones wrong, too."
    return compare(yours, _wrong_count, cases, _about_wrong_count, done)


def _wrong_count(words: list[str], answer: list[str]) -> int:
    wrong = 0
    for place in range(max(len(words), len(answer))):
        if place >= len(words) or place >= len(answer) or words[place] != answer[place]:
            wrong += 1
    return wrong


def _about_wrong_count(found: Any, expected: Any, case: Case) -> str:
    words, answer = case
    what = f"{words} instead of {answer}: you found {found}, not {expected}."
    if len(words) < len(answer):
        return f"{what} Words that are left out are wrong, too: `zip` stops at the shorter list."
    if len(words) > len(answer):
        return f"{what} Words too many are wrong, too."
    return f"{what} Compare the words place by place, the first with the first."


def place_of(yours: Any) -> bool:
    """`place_of(column, start, rows, cols)`: which (frame, row, col) does this column of the prompt show? The
    video's first token stands at column `start`."""
    cases = [(2, 2, 2, 3), (4, 2, 2, 3), (5, 2, 2, 3), (8, 2, 2, 3), (19, 2, 2, 3), (577, 1, 6, 6)]
    done = "Frames come one after another; in a frame, rows from the top."
    return compare(yours, _place_of, cases, _about_place_of, done)


def _place_of(column: int, start: int, rows: int, cols: int) -> tuple[int, int, int]:
    at, frame, row, col = start, 0, 0, 0
    while at < column:
        at, col = at + 1, col + 1
        if col == cols:
            row, col = row + 1, 0
        if row == rows:
            frame, row = frame + 1, 0
    return frame, row, col


def _about_place_of(found: Any, expected: Any, case: Case) -> str:
    column, start, rows, cols = case
    what = f"column {column}, start {start}, frames of {rows} x {cols}: you found {found}, not {expected}."
    if same(found, _place_of(column + start, start, rows, cols)):
        return f"{what} The text before the video takes columns, too: subtract `start` first."
    if same(found, _place_of(column, start, cols, rows)):
        return f"{what} A row has `cols` tokens: divide by `cols` first."
    return f"{what} number = column - start; `divmod(number, rows * cols)` gives the frame and what is left."


def columns_of_frame(yours: Any) -> bool:
    """`columns_of_frame(number, columns, frames)`: the columns of the prompt that hold this frame. columns
    and frames: of each visual token its column, and its frame, counted over all videos."""
    one = (torch.tensor([1, 2, 3, 4, 5, 6]), torch.tensor([0, 0, 1, 1, 2, 2]))
    two = (torch.tensor([1, 2, 3, 4, 6, 7, 8, 9]), torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]))
    cases = [(0, *one), (2, *one), (1, *two), (2, *two), (3, *two)]
    done = "Asked like this, any number of videos is right, in any model's prompt."

    def hints(found: Any, expected: Any, case: Case) -> str:
        number, columns, frames = case
        what = f"frame {number} of columns {columns.tolist()}, frames {frames.tolist()}: "
        what += f"you found {short(found)}, not {expected.tolist()}."
        if same(found, (frames == number).nonzero()[:, 0]):
            return f"{what} You found which visual tokens they are: now take their columns."
        if columns[-1] - columns[0] >= len(columns) and number > 1:
            return f"{what} A line break stands between two videos: look the columns up."
        return f"{what} Take the columns of those tokens whose frame is {number}."

    return compare(yours, _columns_of_frame, cases, hints, done)


def _columns_of_frame(number: int, columns: Tensor, frames: Tensor) -> Tensor:
    pairs = zip(columns.tolist(), frames.tolist(), strict=True)
    return torch.tensor([column for column, frame in pairs if frame == number])
