"""Exercises of notebooks 03 to 05."""

__all__: list[str] = []
