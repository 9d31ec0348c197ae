"""Exercises of notebook 10: what a compression buys."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from dycoke_lab.course.check.verdict import compare

__all__ = ["kv_bytes", "step_seconds", "steps_to_pay"]


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
            if factor != 1 and close(found, float(expected * factor)):
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
            if close(found, value):
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
        if close(found, cost / saved) or close(found, cost // saved):
            return f"{said} The number must be whole, and it must have paid by then: round up."
        if close(found, cost // saved + 1):
            return f"{said} Equal is enough: it has paid when it has saved what it cost."
        return f"{said} After n steps, n * saved must be at least the cost."

    def reference(cost: float, saved: float) -> float:
        if saved <= 0:
            return math.inf
        return next(float(n) for n in range(10_000) if n * saved >= cost - 1e-9)

    return compare(
        yours, reference, cases, hints, "If every step selects anew, this number must be 1 at most."
    )


def close(found: Any, value: float) -> bool:
    """Return whether an answer is this number."""
    return isinstance(found, int | float) and math.isclose(found, value, rel_tol=1e-6, abs_tol=1e-12)
