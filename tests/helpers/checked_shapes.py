"""How shapes in signatures are checked in tests: by beartype, as jaxtyping's import hook asks it to."""

from __future__ import annotations

from typing import Any, get_args

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray

_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int may stand where a float is asked for


def checked(function: Any) -> Any:
    """Check what a function is given and returns, if its signature has shapes. What has none checks its own
    parameters, and names them."""
    return _beartype(function) if any(map(_has_shapes, function.__annotations__.values())) else function


def _has_shapes(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, AbstractArray):
        return True
    return any(map(_has_shapes, get_args(annotation)))
