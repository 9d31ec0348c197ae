"""What the specimen is asked, what it should answer, and the words it knows."""

from __future__ import annotations

from dycoke_lab.specimen.world import COLOUR_NAMES, SHAPE_NAMES, Videos

NUMBERS = ("one", "two", "three", "four", "five")
SIDES = ("left", "right")
SPECIAL = ("<pad>", "<unk>", "<|end|>", "<|user|>", "<|assistant|>", "<image>", "<video>")
WORDS = (
    *SPECIAL,
    *COLOUR_NAMES,
    *SHAPE_NAMES,
    *("zero", *NUMBERS),
    *SIDES,
    *("describe", "the", "scene", "scenes", "what", "is", "in", "of", "compare", "and"),
    *(",", "?", "share"),
)
ID = {word: index for index, word in enumerate(WORDS)}
Scene = list[str]  # colour and shape of the left actor, then of the right one


def scenes_of(videos: Videos) -> list[list[Scene]]:
    """What each scene of each video shows, in words."""
    pairs = zip(videos.colour.tolist(), videos.shape.tolist(), strict=True)
    return [
        [[name for i, j in zip(c, s, strict=True) for name in (COLOUR_NAMES[i], SHAPE_NAMES[j])] for c, s in zip(*pair, strict=True)]
        for pair in pairs
    ]


def describe_question(scenes: int) -> str:
    return f"describe the {NUMBERS[scenes - 1]} scenes"


def describe_answer(shown: list[Scene]) -> str:
    return " , ".join(" ".join(scene) for scene in shown)


def actor_question(actor: int, scene: int, scenes: int) -> str:
    """One actor of one scene. `actor` and `scene` count from 0."""
    return f"what is {SIDES[actor]} in scene {NUMBERS[scene]} of {NUMBERS[scenes - 1]} ?"


def actor_answer(shown: list[Scene], actor: int, scene: int) -> str:
    return " ".join(shown[scene][2 * actor : 2 * actor + 2])


def compare_question(first: int, second: int, scenes: int) -> str:
    """`first` and `second` count from 0."""
    return f"compare scenes {NUMBERS[first]} and {NUMBERS[second]} of {NUMBERS[scenes - 1]}"


def compare_answer(shown: list[Scene], first: int, second: int) -> str:
    """Names both scenes, then how many of their four words are the same: the verdict needs both."""
    a, b = shown[first], shown[second]
    same = sum(x == y for x, y in zip(a, b, strict=True))
    return f"{' '.join(a)} , {' '.join(b)} share {('zero', *NUMBERS)[same]}"


def encode(text: str) -> list[int]:
    return [ID[word] for word in text.split()]
