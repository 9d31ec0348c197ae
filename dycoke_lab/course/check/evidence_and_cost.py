"""Exercises of notebooks 09 to 11."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from dycoke_lab.course.check.cost import close, kv_bytes, step_seconds, steps_to_pay
from dycoke_lab.course.check.own_methods import beats_fastv, every_second, running_sum
from dycoke_lab.course.check.verdict import WRITE, compare, hint, right

__all__ = [
    "beats_fastv",
    "every_second",
    "kv_bytes",
    "mcnemar_p",
    "paired_interval",
    "running_sum",
    "step_seconds",
    "steps_to_pay",
    "words_kept",
]


def paired_interval(yours: Any) -> bool:
    """Write `paired_interval(one, other)`: two lists, how many words two methods have right in each
    video, the same videos in the same order. Return (low, high): the 95 % bootstrap interval of the mean
    difference, one minus other, in words a video."""
    if not callable(yours):
        return hint(f"Give the function itself, not {type(yours).__name__}.")
    for one, other in _pairs_of_words():
        try:
            found = yours(list(one), list(other))
        except Exception as error:  # of any kind: it is the learner's
            return hint(f"Your function raises {type(error).__name__}: {error}")
        if found is None or found is ...:
            return hint(WRITE)
        try:
            low, high = map(float, found)
        except (TypeError, ValueError):
            return hint(f"Return two numbers, (low, high), not {found!r}.")
        differences = np.array(one, float) - np.array(other, float)
        lowest, highest = _bootstrap(differences)
        width = highest - lowest
        said = (
            f"For {len(one)} videos you found {low:.2f} to {high:.2f}; "
            f"expected about {lowest:.2f} to {highest:.2f}."
        )
        if abs(low - lowest) <= 0.15 * width + 1e-9 and abs(high - highest) <= 0.15 * width + 1e-9:
            continue
        apart = _apart(one, other)
        if abs((high - low) - (apart[1] - apart[0])) < 0.15 * (apart[1] - apart[0]):
            return hint(
                f"{said} You draw the videos of each method apart: draw a video, and take both from it."
            )
        if high - low < 0.2 * width:
            return hint(f"{said} Draw as many videos as there are, with replacement: one may come twice.")
        if high - low > 2 * width:
            return hint(f"{said} Take the interval of the mean of each draw, not of single videos.")
        if abs(low + highest) <= 0.2 * width and abs(high + lowest) <= 0.2 * width:
            return hint(f"{said} It is one minus other.")
        return hint(f"{said} Of the means of at least 2,000 draws, take the 2.5 % and the 97.5 % quantile.")
    return right("Pairs take out what makes a video hard for both methods, so the interval is narrow.")


def _pairs_of_words() -> Iterator[tuple[list[int], list[int]]]:
    draw = np.random.default_rng(3)
    for videos, lead in ((60, 0.5), (120, 0.0), (90, -1.5)):
        hard = draw.integers(2, 14, videos)
        yield (
            np.clip(hard + draw.normal(lead, 0.8, videos).round(), 0, 15).astype(int).tolist(),
            np.clip(hard + draw.normal(0, 0.8, videos).round(), 0, 15).astype(int).tolist(),
        )


def _bootstrap(values: Any, draws: int = 8000) -> tuple[float, float]:
    picks = np.random.default_rng(0).integers(len(values), size=(draws, len(values)))
    low, high = np.quantile(values[picks].mean(1), [0.025, 0.975])
    return float(low), float(high)


def _apart(one: list[int], other: list[int], draws: int = 8000) -> tuple[float, float]:
    random_ = np.random.default_rng(1)
    means = [np.array(v, float)[random_.integers(len(v), size=(draws, len(v)))].mean(1) for v in (one, other)]
    low, high = np.quantile(means[0] - means[1], [0.025, 0.975])
    return float(low), float(high)


def words_kept(yours: Any) -> bool:
    """Write `words_kept(full, compressed)`: two answers, as texts. Return how many per cent of the full
    cache's words stand at the same place in the other answer. A word that is missing there did not
    stay."""
    answers = [
        ("red blue green", "red blue green"),
        ("red blue green cyan", "red green blue cyan"),
        ("red red blue , cyan", "red red"),
        ("four nine", "four nine two two"),
        ("one two three four five", "two three four five one"),
    ]

    def reference(full: str, compressed: str) -> float:
        words, others = full.split(), compressed.split()
        kept = sum(place < len(others) and others[place] == word for place, word in enumerate(words))
        return 100 * kept / len(words)

    def hints(found: Any, expected: Any, case: Any) -> str:
        full, other = case
        said = f"“{full}” and “{other}”: you found {found!r}, expected {expected:.4g}."
        if close(found, expected / 100):
            return f"{said} It is in per cent."
        words, others = full.split(), other.split()
        if len(others) < len(words) and close(found, 100.0):
            return f"{said} Divide by the words of the full answer: what is missing did not stay."
        common = len(set(words) & set(others))
        if found is not None and any(close(found, 100 * common / n) for n in (len(set(words)), len(words))):
            return f"{said} A word must stand at the same place, not just anywhere."
        if close(found, 100 - expected):
            return f"{said} You count the words that changed."
        return f"{said} Compare word by word, by place, and divide by the number of the full answer's words."

    return compare(yours, reference, answers, hints, "No labels are needed: the full cache is the reference.")


def mcnemar_p(yours: Any) -> bool:
    """Write `mcnemar_p(one, other)`: two lists of 0 and 1, whether two methods have each video's whole
    answer right, the same videos in the same order. Return the two-sided p: how likely videos that only
    one method has right fall this unevenly, or more so, if each falls to either side as a coin does."""
    draw = random.Random(5)
    cases = [([1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1]), ([1, 0, 1], [0, 1, 1]), ([1, 0], [1, 0])]
    for size, first, second in ((40, 0.9, 0.7), (60, 0.5, 0.8), (30, 0.6, 0.6)):
        cases.append(
            (
                [int(draw.random() < first) for _ in range(size)],
                [int(draw.random() < second) for _ in range(size)],
            )
        )

    def hints(found: Any, expected: Any, case: Any) -> str:
        one, _ = case
        ahead, behind = (
            sum(a > b for a, b in zip(*case, strict=True)),
            sum(a < b for a, b in zip(*case, strict=True)),
        )
        said = (
            f"Only the first is right in {ahead} videos, only the second in {behind}: "
            f"you found {found!r}, expected p = {expected:.4g}."
        )
        if close(found, expected / 2) or (
            expected == 1 and close(found, _tail(ahead + behind, max(ahead, behind)))
        ):
            return (
                f"{said} Two-sided: such a result in favour of either counts, so double it, but to 1 at most."
            )
        if isinstance(found, float) and found > 1:
            return f"{said} A probability is at most 1."
        if ahead + behind == 0:
            return f"{said} Where the methods never differ, nothing speaks against chance."
        if close(found, _two_sided(len(one), max(ahead, behind))):
            return f"{said} Videos that both have right, or both wrong, say nothing: leave them out."
        heads = max(ahead, behind)
        return f"{said} Throw {ahead + behind} coins: how likely are {heads} heads or more, or tails?"

    def reference(one: list[int], other: list[int]) -> float:
        ahead = sum(a > b for a, b in zip(one, other, strict=True))
        behind = sum(a < b for a, b in zip(one, other, strict=True))
        return _two_sided(ahead + behind, max(ahead, behind))

    return compare(
        yours, reference, cases, hints, "With few videos that differ, even a clear lead may be chance."
    )


def _tail(throws: int, heads: int) -> float:
    return float(sum(Fraction(math.comb(throws, k), 2**throws) for k in range(heads, throws + 1)))


def _two_sided(throws: int, heads: int) -> float:
    return min(1.0, 2 * _tail(throws, heads))
