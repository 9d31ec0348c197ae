"""Exercises of notebooks 00 to 02."""

__all__: list[str] = []
