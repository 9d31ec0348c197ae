"""Exercises of notebooks 09 to 11."""

__all__: list[str] = []
