"""What commands have in common: options that say their defaults, and errors of one line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

THREADS = "of the CPU (default: torch's choice)"


def one_line(error: Exception) -> str:
    """Return an error for a terminal. Those of this library say what to do; others are named."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "out of memory" in text or "not enough memory" in text:
        return f"error: out of memory: take fewer --frames, a smaller --dtype, or another --device. {text}"
    if isinstance(error, OSError | ValueError | TypeError | NotImplementedError | RuntimeError):
        return f"error: {text}"
    return f"error: {type(error).__name__}: {text} (--debug shows where)"


def at_least(least: int) -> Callable[[str], int]:
    """Return argparse's type of a whole number from `least` on."""

    def whole(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} must be at least {least}")
        return int(text)

    whole.__name__ = "whole number"  # which argparse names in its message
    return whole


def add(parser: Any, name: str, default: Any, about: str, **how: Any) -> None:
    """Add an option that says its default: a value, or what None means as "(...)" at the end of `about`."""
    kind = {} if default is None or "choices" in how else {"type": type(default)}
    shown = "" if default is None else f" (default: {default})"
    parser.add_argument(f"--{name}", default=default, help=about + shown, **(kind | how))


def numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]
