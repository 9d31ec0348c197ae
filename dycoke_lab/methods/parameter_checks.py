"""Checks of methods' parameters: an error names the argument, its value and what is allowed."""

from __future__ import annotations

from numbers import Real
from typing import Any


def check_whole(name: str, value: Any, least: int) -> None:
    """Raise ValueError for what is no whole number from `least`."""
    if type(value) is not int or value < least:
        raise ValueError(f"{name}={value!r} must be a whole number from {least}")


def check_share(name: str, value: Any) -> None:
    """Raise ValueError for what is no share above 0 and at most 1."""
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 < float(value) <= 1:
        raise ValueError(f"{name}={value!r} must be a share above 0 and at most 1")


def check_between(name: str, value: Any, low: int = 0) -> None:
    """Raise ValueError for what is no number between `low` and 1, both allowed.

    >>> check_between("tau", 2, low=-1)
    Traceback (most recent call last):
    ValueError: tau=2 must lie between -1 and 1
    """
    if not isinstance(value, Real) or not low <= float(value) <= 1:
        raise ValueError(f"{name}={value!r} must lie between {low} and 1")


def check_positions(value: Any) -> None:
    """Raise ValueError for an unknown way to number positions."""
    if value not in ("original", "repacked"):
        raise ValueError(f"positions={value!r} must be 'original' or 'repacked'")
