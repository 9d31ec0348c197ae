"""What the constructed specimen is asked, what it should answer, and the words it knows."""

from __future__ import annotations

from dataclasses import replace

from dycoke_lab.specimen.constructed.videos import COLOUR_NAMES
from dycoke_lab.specimen.world import NOWHERE, Scene, Turn, listed

NUMBERS = ("one", "two", "three", "four", "five")
PLACES = ("first", "second", "third", "fourth")
WORDS = (
    *COLOUR_NAMES,
    *("zero", *NUMBERS),
    *PLACES,
    *("describe", "the", "scene", "scenes", "what", "is", "in", "of", "compare", "and"),
    *(",", "?", "share"),
)


def ask(question: str, shown: list[Scene], first: int, second: int, place: int) -> Turn:
    """Ask for all scenes, for one place in the scene `first`, or to compare two scenes. All count from 0."""
    scenes = NUMBERS[len(shown) - 1]
    if question == "describe":
        return replace(listed(shown, list(range(len(shown)))), question=f"describe the {scenes} scenes")
    if question == "actor":
        text = f"what is {PLACES[place]} in scene {NUMBERS[first]} of {scenes} ?"
        return Turn(text, shown[first][place], [(first, place)], [[0]])
    both = listed(shown, [first, second])  # then how many kept their colour: the verdict needs both scenes
    same = sum(a == b for a, b in zip(shown[first], shown[second], strict=True))
    return Turn(
        f"compare scenes {NUMBERS[first]} and {NUMBERS[second]} of {scenes}",
        f"{both.answer} share {('zero', *NUMBERS)[same]}",
        [*both.named, NOWHERE, NOWHERE],
        [*both.parts, [len(both.named) + 1]],
    )
