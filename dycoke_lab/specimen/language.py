"""What the specimen is asked, what it should answer, and the words it knows."""

from __future__ import annotations

from dycoke_lab.specimen.world import COLOUR_NAMES

NUMBERS = ("one", "two", "three", "four", "five")
PLACES = ("first", "second", "third", "fourth")
SPECIAL = ("<pad>", "<unk>", "<|end|>", "<|user|>", "<|assistant|>", "<image>", "<video>")
WORDS = (
    *SPECIAL,
    *COLOUR_NAMES,
    *("zero", *NUMBERS),
    *PLACES,
    *("describe", "the", "scene", "scenes", "what", "is", "in", "of", "compare", "and"),
    *(",", "?", "share"),
)
ID = {word: index for index, word in enumerate(WORDS)}
Scene = list[str]  # the colours of its four actors, in reading order


def describe_question(scenes: int) -> str:
    return f"describe the {NUMBERS[scenes - 1]} scenes"


def describe_answer(shown: list[Scene]) -> str:
    return " , ".join(" ".join(scene) for scene in shown)


def actor_question(actor: int, scene: int, scenes: int) -> str:
    """Ask for one word about one scene. `actor` and `scene` count from 0."""
    return f"what is {PLACES[actor]} in scene {NUMBERS[scene]} of {NUMBERS[scenes - 1]} ?"


def actor_answer(shown: list[Scene], actor: int, scene: int) -> str:
    return shown[scene][actor]


def compare_question(first: int, second: int, scenes: int) -> str:
    """Ask to compare two scenes; `first` and `second` count from 0."""
    return f"compare scenes {NUMBERS[first]} and {NUMBERS[second]} of {NUMBERS[scenes - 1]}"


def compare_answer(shown: list[Scene], first: int, second: int) -> str:
    """Name both scenes' actors, then how many kept their colour: the verdict needs both scenes."""
    a, b = shown[first], shown[second]
    same = sum(x == y for x, y in zip(a, b, strict=True))
    return f"{' '.join(a)} , {' '.join(b)} share {('zero', *NUMBERS)[same]}"


def encode(text: str) -> list[int]:
    return [ID[word] for word in text.split()]
