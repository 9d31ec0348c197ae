"""What the specimen is asked, what it should answer, and the words it knows."""

from __future__ import annotations

from dycoke_lab.specimen.world import COLOUR_NAMES, SHAPE_NAMES

NUMBERS = ("one", "two", "three", "four", "five")
SPECIAL = ("<pad>", "<unk>", "<|end|>", "<|user|>", "<|assistant|>", "<image>", "<video>")
WORDS = (
    *SPECIAL,
    *COLOUR_NAMES,
    *SHAPE_NAMES,
    *NUMBERS,
    *("describe", "the", "scene", "scenes", "what", "is", "in", "of", "compare", "and"),
    *(",", "?", "share", "colour", "shape", "both", "nothing"),
)
ID = {word: index for index, word in enumerate(dict.fromkeys(WORDS))}
Actor = tuple[str, str]


def describe_question(scenes: int) -> str:
    return f"describe the {NUMBERS[scenes - 1]} scenes"


def describe_answer(actors: list[Actor]) -> str:
    return " , ".join(f"{colour} {shape}" for colour, shape in actors)


def scene_question(scene: int, scenes: int) -> str:
    """`scene` counts from 0."""
    return f"what is in scene {NUMBERS[scene]} of {NUMBERS[scenes - 1]} ?"


def scene_answer(actor: Actor) -> str:
    return " ".join(actor)


def compare_question(first: int, second: int, scenes: int) -> str:
    """`first` and `second` count from 0."""
    return f"compare scenes {NUMBERS[first]} and {NUMBERS[second]} of {NUMBERS[scenes - 1]}"


def compare_answer(first: Actor, second: Actor) -> str:
    """Names both actors, then says what they share: the verdict needs both scenes."""
    colour, shape = first[0] == second[0], first[1] == second[1]
    verdict = "both" if colour and shape else "colour" if colour else "shape" if shape else "nothing"
    return f"{first[0]} {first[1]} , {second[0]} {second[1]} share {verdict}"


def encode(text: str) -> list[int]:
    return [ID[word] for word in text.split()]
