"""Exercises of notebooks 09 to 11."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

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
        if _close(found, expected / 100):
            return f"{said} It is in per cent."
        words, others = full.split(), other.split()
        if len(others) < len(words) and _close(found, 100.0):
            return f"{said} Divide by the words of the full answer: what is missing did not stay."
        common = len(set(words) & set(others))
        if found is not None and any(_close(found, 100 * common / n) for n in (len(set(words)), len(words))):
            return f"{said} A word must stand at the same place, not just anywhere."
        if _close(found, 100 - expected):
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
        if _close(found, expected / 2) or (
            expected == 1 and _close(found, _tail(ahead + behind, max(ahead, behind)))
        ):
            return (
                f"{said} Two-sided: such a result in favour of either counts, so double it, but to 1 at most."
            )
        if isinstance(found, float) and found > 1:
            return f"{said} A probability is at most 1."
        if ahead + behind == 0:
            return f"{said} Where the methods never differ, nothing speaks against chance."
        if _close(found, _two_sided(len(one), max(ahead, behind))):
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


def kv_bytes(yours: Any) -> bool:
    """Write `kv_bytes(layers, kv_heads, head_dim, tokens, element)`: the bytes of a KV cache, where a
    number has `element` bytes."""
    cases = [(3, 5, 4, 7, 6), (28, 4, 128, 6272, 2), (24, 2, 64, 100, 4), (1, 1, 1, 1, 1)]

    def hints(found: Any, expected: Any, case: Any) -> str:
        layers, heads, dim, tokens, element = case
        said = (
            f"{layers} layers, {heads} heads of {dim}, {tokens} tokens, {element} bytes: "
            f"you found {found!r}, expected {expected:,}."
        )
        for factor, why in (
            (Fraction(1, 2), "A token has a key and a value."),
            (Fraction(1, layers), "Every layer has its own keys and values."),
            (Fraction(1, element), "Count bytes, not numbers."),
            (Fraction(1, heads), "Every key head has its own keys and values."),
        ):
            if factor != 1 and _close(found, float(expected * factor)):
                return f"{said} {why}"
        return f"{said} Multiply: layers, heads, numbers in a head, tokens, bytes, and two for key and value."

    return compare(
        yours, lambda layers, heads, dim, tokens, element: 2 * layers * heads * dim * tokens * element, cases,
        hints, "Nothing but the shape decides it.",
    )  # fmt: skip


def step_seconds(yours: Any) -> bool:
    """Write `step_seconds(weights, kv, batch, operations, bandwidth, peak)`: the least time of a
    decoding step. The weights (bytes) are read once, the keys and values (bytes) and the operations are
    of each prompt of the batch; a device reads `bandwidth` bytes and does `peak` operations a second,
    both at the same time."""
    cases = [
        (100.0, 10.0, 1, 40.0, 10.0, 100.0),
        (100.0, 10.0, 4, 40.0, 10.0, 100.0),
        (100.0, 10.0, 4, 4000.0, 10.0, 100.0),
        (15e9, 3.7e8, 1, 1.5e10, 3.35e12, 9.89e14),
        (15e9, 1.4e9, 32, 1.5e10, 3.35e12, 9.89e14),
    ]

    def reference(
        weights: float, kv: float, batch: int, operations: float, bandwidth: float, peak: float
    ) -> float:
        return max((weights + batch * kv) / bandwidth, batch * operations / peak)

    def hints(found: Any, expected: Any, case: Any) -> str:
        weights, kv, batch, operations, bandwidth, peak = case
        said = (
            f"weights {weights:g}, kv {kv:g}, batch {batch}, operations {operations:g}, bandwidth "
            f"{bandwidth:g}, peak {peak:g}: you found {found!r}, expected {expected:.4g}."
        )
        reading, doing = (weights + batch * kv) / bandwidth, batch * operations / peak
        for value, why in (
            (
                reading + doing,
                "Reading and computing happen at the same time: the slower of the two decides.",
            ),
            (reading, "With enough operations, arithmetic takes longer than reading."),
            (min(reading, doing), "The slower of the two decides, not the quicker."),
            (
                max(batch * (weights + kv) / bandwidth, doing),
                "The weights are read once for the whole batch.",
            ),
            (
                max((weights + kv) / bandwidth, doing),
                "Each prompt of the batch has keys and values of its own.",
            ),
            (max(reading, operations / peak), "Each prompt of the batch has operations of its own."),
        ):
            if _close(found, value):
                return f"{said} {why}"
        return f"{said} Seconds to read: bytes / bandwidth. Seconds to compute: operations / peak."

    def unscaled(found: Any, expected: Any, case: Any) -> str:
        return hints(found / 1e6 if isinstance(found, float) else found, expected / 1e6, case)

    done = "One prompt: the weights decide. A large batch of long videos: keys and values do."
    return compare(_precise(yours), lambda *case: 1e6 * reference(*case), cases, unscaled, done)


def _precise(yours: Any) -> Any:
    """Return a function that answers in microseconds, so that small numbers are told apart."""
    if not callable(yours):
        return yours

    def scaled(*case: float) -> Any:
        found = yours(*case)
        return found if found is None or found is ... else 1e6 * float(found)

    return scaled


def steps_to_pay(yours: Any) -> bool:
    """Write `steps_to_pay(cost, saved)`: a selection costs so many ms once, and saves so many ms at each
    step that uses it. Return the least whole number of steps after which it has paid; math.inf if it
    never does."""
    cases = [(4.0, 2.0), (4.1, 6.5), (10.0, 3.0), (5.0, 0.0), (5.0, -1.0), (0.0, 2.0), (3.0, 0.5)]

    def hints(found: Any, expected: Any, case: Any) -> str:
        cost, saved = case
        said = f"Costs {cost:g} ms, saves {saved:g} ms a step: you found {found!r}, expected {expected!r}."
        if saved <= 0:
            return f"{said} What saves nothing never pays: math.inf."
        if _close(found, cost / saved) or _close(found, cost // saved):
            return f"{said} The number must be whole, and it must have paid by then: round up."
        if _close(found, cost // saved + 1):
            return f"{said} Equal is enough: it has paid when it has saved what it cost."
        return f"{said} After n steps, n * saved must be at least the cost."

    def reference(cost: float, saved: float) -> float:
        if saved <= 0:
            return math.inf
        return next(float(n) for n in range(10_000) if n * saved >= cost - 1e-9)

    return compare(
        yours, reference, cases, hints, "If every step selects anew, this number must be 1 at most."
    )


def _close(found: Any, value: float) -> bool:
    return isinstance(found, int | float) and math.isclose(found, value, rel_tol=1e-6, abs_tol=1e-12)
