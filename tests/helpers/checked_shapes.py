"""How shapes in signatures are checked in tests: by beartype, as jaxtyping's import hook asks it to."""

from __future__ import annotations

from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray


def checked(function: Any) -> Any:
    """Check the shapes that a function is given and returns. Other parameters it checks itself."""
    hints = function.__annotations__
    function.__annotations__ = {name: hint for name, hint in hints.items() if _has_shapes(hint)}
    return beartype(function)


def _has_shapes(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(map(_has_shapes, get_args(hint)))
