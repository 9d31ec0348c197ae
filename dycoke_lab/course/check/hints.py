"""What hints are made of: which known mistake was made, and numbers written shortly."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from dycoke_lab.course.check.verdict import same


def first_known(found: Any, *known: tuple[Any, str]) -> str:
    """Return the text beside the first value that was found, if any."""
    return next((text for value, text in known if same(found, value)), "")


def highest(values: list[float], budget: int) -> set[int]:
    return set(sorted(range(len(values)), key=lambda token: -values[token])[:budget])


def product(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def cosine(one: list[float], other: list[float]) -> float:
    return product(one, other) / math.sqrt(product(one, one) * product(other, other))


def listed(values: list[float]) -> str:
    return "[" + ", ".join(f"{value:.3g}" for value in values) + "]"


def shown(found: Any) -> str:
    """Write what was found, shortly."""
    if isinstance(found, Tensor):
        found = found.tolist()
    text = f"{found:.4g}" if isinstance(found, float) else str(found)
    return text if len(text) <= 60 else text[:57] + "..."


def as_set(yours: Any) -> Any:
    """Wrap a function, so that token numbers in a list or a tensor count as a set, too."""
    if not callable(yours):
        return yours

    def asked(*case: Any) -> Any:
        found = yours(*case)
        if isinstance(found, Tensor):
            found = found.flatten().tolist()
        return {int(token) for token in found} if isinstance(found, list | tuple | set) else found

    return asked


def as_sets(yours: Any) -> Any:
    """Wrap a function that returns three sets, so that a hint can tell which of them is wrong."""
    if not callable(yours):
        return yours

    def asked(*case: Any) -> Any:
        found = yours(*(set(value) if isinstance(value, set) else value for value in case))
        if not isinstance(found, tuple | list) or len(found) != 3:
            return found
        return {name: set(part) for name, part in zip(("active", "left", "came"), found, strict=True)}

    return asked
