"""On which families `make test` tries a method; `make test-all` tries it on all."""

from __future__ import annotations

from typing import Any

import pytest

from dycoke_lab import METHODS
from dycoke_lab.methods import Compression, Method, PrefillReducer
from helpers.families import FAMILIES


def can_run(family: str, kind: type[Method]) -> bool:
    """Say whether a family has what a method needs; if not, it is refused, as other tests say."""
    if family == "qwen2_5_vl":  # its vision tower reorders patches
        return not any(need.startswith("vision_") for need in kind.needs)
    return family != "gemma3" or not issubclass(kind, PrefillReducer)  # a sliding window


def two_families(kind: type[Method]) -> tuple[str, str]:
    """Choose families in turn: for the nth method of METHODS the nth of those that can run it, and the
    one half the list further on."""
    able = [family for family in FAMILIES if can_run(family, kind)]
    number = [*METHODS.values(), kind].index(kind)
    return able[number % len(able)], able[(number + len(able) // 2) % len(able)]


def across_families(cases: list[Any]) -> list[Any]:
    """Return a test's parameters: each family with each case that it can run, marked `matrix` unless it
    is one of the method's two.

    cases: each a method, or a tuple that begins with one. A method is a class or an object; of several
    joined by +, the last counts.
    """
    params = []
    for family in FAMILIES:
        for case in cases:
            values = case if isinstance(case, tuple) else (case,)
            method = values[0].parts[-1] if isinstance(values[0], Compression) else values[0]
            kind = method if isinstance(method, type) else type(method)
            marks = [] if family in two_families(kind) else [pytest.mark.matrix]
            if can_run(family, kind):
                params.append(pytest.param(family, *values, marks=marks))
    return params
