"""What a specimen is asked about footage, what it should answer, and the words it knows."""

from __future__ import annotations

from dataclasses import replace

from dycoke_lab.specimen.footage.videos import PLACES
from dycoke_lab.specimen.world import NOWHERE, Scene, Turn, listed

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDS = (
    *DIGITS,
    *("1", "2", "3", "4", "5"),
    *PLACES,
    *("describe", "the", "number", "numbers", "in", "scene", "scenes", "of", "and"),
    *("rising", "falling", "equal", ",", "?"),
)


def ask(question: str, shown: list[Scene], first: int, second: int, place: int) -> Turn:
    """Ask for all scenes, for one place in the scene `first`, or for one place in two scenes. All count from
    0."""
    scenes, where = len(shown), PLACES[place]
    if question == "describe":
        return replace(listed(shown, list(range(scenes))), question=f"describe the {scenes} scenes")
    if question == "actor":
        text = f"{where} number in scene {first + 1} of {scenes} ?"
        return Turn(text, shown[first][place], [(first, place)], [[0]])
    a, b = shown[first][place], shown[second][place]
    change = DIGITS.index(b) - DIGITS.index(a)
    return Turn(
        f"{where} numbers in scenes {first + 1} and {second + 1} of {scenes} ?",
        f"{a} {b} {'rising' if change > 0 else 'falling' if change < 0 else 'equal'}",
        [(first, place), (second, place), NOWHERE],
        [[0], [1], [2]],
    )
