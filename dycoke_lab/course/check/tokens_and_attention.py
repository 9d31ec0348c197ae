"""Exercises of notebooks 00 to 02."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dycoke_lab.course.check.attending import attend, frame_shares, short, tokens_for
from dycoke_lab.course.check.verdict import Case, compare, same

__all__ = [
    "attend",
    "column_of",
    "columns_of_frame",
    "frame_shares",
    "place_of",
    "tokens_for",
    "tokens_read",
    "video_columns",
    "wrong_count",
]


def tokens_read(yours: Any) -> bool:
    """`tokens_read(frames, per_frame, merge_ratio, prune_ratio)`: how many visual tokens do the layers from L
    on read at a step? The number of frames is a multiple of four, and every part is a whole number."""
    cases = [(4, 100, 0, 0), (4, 100, 0.5, 0), (4, 100, 0, 0.9), (16, 40, 0.5, 0.7), (32, 200, 0.7, 0.7)]
    done = "Frames that repeat are cheap, and most of what is left is not read at a step."
    return compare(yours, _tokens_read, cases, _about_tokens_read, done)


def _tokens_read(frames: int, per_frame: int, merge_ratio: float, prune_ratio: float) -> int:
    retained = 0
    for frame in range(frames):
        retained += per_frame if frame % 4 == 0 else round((1 - merge_ratio) * per_frame)
    return round((1 - prune_ratio) * retained)


def _about_tokens_read(found: Any, expected: Any, case: Case) -> str:
    frames, per_frame, merge, prune = case
    total = frames * per_frame
    what = (
        f"{frames} frames of {per_frame} tokens, K = {merge}, P = {prune}: you found {found}, not {expected}."
    )
    if merge and same(found, total * (1 - merge) * (1 - prune)):
        return f"{what} A window's first frame is retained whole: K is a part of the three others only."
    if prune and same(found, _tokens_read(frames, per_frame, merge, 0) - round(prune * total)):
        return f"{what} P is a part of the retained tokens, not of all."
    if same(found, round(total * (1 - 0.75 * merge) * prune)) or same(found, total * 0.75 * merge):
        return f"{what} K and P are the parts that are taken away: count what is left."
    if isinstance(found, int) and found == expected - 1:
        return f"{what} `int` cuts off 0.999...: use `round`."
    return f"{what} One frame in four is retained whole, of the others 1 - K. 1 - P of all that is read."


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


def column_of(yours: Any) -> bool:
    """`column_of(frame, row, col, start, rows, cols)`: in which column of the prompt is this token?"""
    cases = [
        (0, 0, 0, 2, 2, 3),
        (0, 0, 2, 2, 2, 3),
        (0, 1, 1, 2, 2, 3),
        (2, 1, 0, 2, 2, 3),
        (9, 5, 4, 1, 6, 6),
    ]
    done = "It is the way back of `place_of`."

    def hints(found: Any, expected: Any, case: Case) -> str:
        frame, row, col, start, rows, cols = case
        what = f"frame {frame}, row {row}, col {col} of {rows} x {cols}, start {start}: "
        what += f"you found {found}, not {expected}."
        if same(found, expected - start):
            return f"{what} Add `start`: text stands before the video."
        return f"{what} Before it there are `frame` whole frames, then `row` whole rows, then `col` tokens."

    return compare(yours, _column_of, cases, hints, done)


def _column_of(frame: int, row: int, col: int, start: int, rows: int, cols: int) -> int:
    column = start
    while _place_of(column, start, rows, cols) != (frame, row, col):
        column += 1
    return column


def video_columns(yours: Any) -> bool:
    """`video_columns(frames, image_size, patch_size)`: how many columns of a LLaVA-OneVision prompt does a
    video take? 2 x 2 patches make a token (what is over at the edge counts as a whole one), and one line
    break ends the video."""
    cases = [(1, 60, 5), (16, 60, 5), (16, 32, 4), (32, 384, 14), (8, 42, 14)]
    done = "At the published size (384 pixels, patches of 14) a frame has 196 tokens, and 32 frames 6,272."
    return compare(yours, _video_columns, cases, _about_video_columns, done)


def _video_columns(frames: int, image_size: int, patch_size: int) -> int:
    side = math.ceil(image_size // patch_size / 2)
    return frames * side * side + 1


def _about_video_columns(found: Any, expected: Any, case: Case) -> str:
    frames, image, patch = case
    patches = image // patch
    what = f"{frames} frames of {image} pixels, patches of {patch}: you found {found}, not {expected}."
    if same(found, expected - 1) or same(found, expected - 1 + frames):
        return f"{what} One line break ends the video: it is one column more, once."
    if same(found, frames * patches**2 + 1) or same(found, frames * patches**2):
        return f"{what} These are patches: 2 x 2 of them make one token."
    if same(found, frames * (patches // 2) ** 2 + 1):
        return f"{what} {patches} patches a side: the last one, alone, makes a token, too. Round up."
    return f"{what} A frame has {patches} patches a side, and half as many tokens a side."


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
            return f"{what} These are numbers of visual tokens: which columns are theirs?"
        if columns[-1] - columns[0] >= len(columns) and number > 1:
            return f"{what} A second video begins after the first one's line break: look the columns up."
        return f"{what} Take the columns of those tokens whose frame is {number}."

    return compare(yours, _columns_of_frame, cases, hints, done)


def _columns_of_frame(number: int, columns: Tensor, frames: Tensor) -> Tensor:
    pairs = zip(columns.tolist(), frames.tolist(), strict=True)
    return torch.tensor([column for column, frame in pairs if frame == number])
