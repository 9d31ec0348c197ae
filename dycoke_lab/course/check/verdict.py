"""Say whether an exercise's answer is right, or give a hint."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

Case = tuple[Any, ...]  # arguments of a call
WRITE = "Write your own in place of `...`, and run the cell again."


def right(what: str) -> bool:
    """Print that it is right, and what follows from it."""
    print(f"Right. {what}".strip())
    return True


def hint(text: str) -> bool:
    """Print a hint."""
    print(f"Not yet. {text}")
    return False


def same(found: Any, expected: Any, tolerance: float = 1e-4) -> bool:
    """Return whether two answers are alike: numbers, lists and arrays up to a tolerance; words, sets and
    truth values exactly."""
    if isinstance(expected, str | bool | set | dict | None):
        return bool(found == expected)
    try:
        one, other = (np.asarray(_plain(value), dtype=float) for value in (found, expected))
    except (TypeError, ValueError):
        return False
    return one.shape == other.shape and bool(np.allclose(one, other, atol=tolerance, rtol=tolerance))


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().double().numpy()
    return list(value) if isinstance(value, tuple | range) else value


def compare(
    yours: Any,
    reference: Callable[..., Any],
    cases: Iterable[Case],
    hints: Callable[[Any, Any, Case], str] | str,
    done: str = "",
) -> bool:
    """Call a learner's function and a reference on each case, and print a verdict.

    hints: what to say where they differ, or a function of (found, expected, case) that says it. done: what to
    say when all is right.
    """
    if not callable(yours):
        return hint(f"Give the function itself, not {type(yours).__name__}.")
    for case in cases:
        copies = [value.clone() if isinstance(value, torch.Tensor) else value for value in case]
        try:
            found = yours(*copies)
        except Exception as error:  # of any kind: it is the learner's
            return hint(f"Your function raises {type(error).__name__}: {error}")
        if found is None or found is ...:
            return hint(WRITE)
        expected = reference(*case)
        if not same(found, expected):
            return hint(hints if isinstance(hints, str) else hints(found, expected, case))
    return right(done)
