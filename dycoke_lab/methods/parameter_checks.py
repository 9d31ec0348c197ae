"""Checks of methods' parameters: an error names the argument, its value and what is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any


def check_fields(
    method: Any,
    shares: Sequence[str] = (),
    positive: Sequence[str] = (),
    cosines: Sequence[str] = (),
    counts: Sequence[str] = (),
) -> None:
    """Raise ValueError for a field that is no share (0 to 1), no positive share (above 0, at most 1), no
    cosine (-1 to 1) or no count (a whole number from 1), and for `positions` that a merger does not
    know.

    >>> from types import SimpleNamespace
    >>> check_fields(SimpleNamespace(r=0), positive=["r"])
    Traceback (most recent call last):
    ValueError: r=0 must be a number above 0 and at most 1
    """
    for names, low, allowed in (
        (shares, 0, "between 0 and 1"),
        (positive, 0, "above 0 and at most 1"),
        (cosines, -1, "between -1 and 1"),
    ):
        for name in names:
            value: Any = getattr(method, name)
            inside = isinstance(value, Real) and low <= float(value) <= 1
            if not inside or (names is positive and value == 0):
                raise ValueError(f"{name}={value!r} must be a number {allowed}")
    for name in counts:
        if type(value := getattr(method, name)) is not int or value < 1:
            raise ValueError(f"{name}={value!r} must be a whole number from 1")
    if (value := getattr(method, "positions", "original")) not in ("original", "repacked"):
        raise ValueError(f"positions={value!r} must be 'original' or 'repacked'")
