"""How shapes in signatures are checked in tests: by beartype, as jaxtyping's import hook asks it to."""

from __future__ import annotations

from typing import Any

from beartype import BeartypeConf, beartype

_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int may stand where a float is asked for


def checked(function: Any) -> Any:
    """Check a function's arguments and results. A dataclass checks its own fields, with messages of its own."""
    return function if function.__name__ == "__init__" else _beartype(function)
