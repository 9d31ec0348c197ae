"""Exercises of notebooks 06 to 08."""

__all__: list[str] = []
