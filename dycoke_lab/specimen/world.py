"""What a world of synthetic videos is: how they are drawn, what is asked about them, and in which words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

QUESTIONS = ("describe", "actor", "compare")  # long; one place in one scene; two scenes
SPLITS = ("train", "validation", "test")
Scene = list[str]  # the names of what stands at its places, in order
NOWHERE = (-1, -1)  # a word that names nothing


@dataclass(frozen=True)
class Videos:
    """A batch of videos that have the same number of scenes.

    pixels: (videos, frames, 3, height, width), 0 to 1. label: (videos, scenes, places), what stands at each
    place, indices into the world's things. scene: (videos, frames), which scene each frame shows. actor:
    (videos, frames, tokens), the place whose thing a visual token shows, -1 for none. motion: (videos,), of
    the camera, an index into the world's motions.
    """

    pixels: Tensor
    label: Tensor
    scene: Tensor
    actor: Tensor
    motion: Tensor

    @property
    def scenes(self) -> int:
        return self.label.shape[1]

    def __len__(self) -> int:
        return self.pixels.shape[0]


@dataclass(frozen=True)
class Turn:
    """A question with its right answer.

    named: (scene, place) that each word of the answer names, NOWHERE for none, without the end token. parts:
    which words count, grouped by position in the answer.
    """

    question: str
    answer: str
    named: list[tuple[int, int]]
    parts: list[list[int]]


@dataclass(frozen=True)
class World:
    """A kind of synthetic videos.

    size: pixels a side. grid: visual tokens a side. places: where a thing can stand in a scene. things: their
    names. cadence: frames a scene, before jitter. scenes: numbers of scenes that a video may have. words: all
    that questions and answers consist of. draw(count, scenes, generator, split, motion, cadence): videos.
    ask(question, shown, first, second, place): a turn about the scenes `shown`.
    """

    name: str
    size: int
    grid: int
    places: int
    things: tuple[str, ...]
    cadence: int
    scenes: tuple[int, ...]
    motions: tuple[str, ...]
    words: tuple[str, ...]
    draw: Callable[..., Videos]
    ask: Callable[[str, list[Scene], int, int, int], Turn]

    @property
    def tokens(self) -> int:
        """Visual tokens of a frame."""
        return self.grid**2

    def shown(self, videos: Videos) -> list[list[Scene]]:
        """Return the names of what each video shows, scene by scene."""
        return [[[self.things[x] for x in scene] for scene in video] for video in videos.label.tolist()]


def integers(generator: torch.Generator, low: int, high: int, *shape: int) -> Tensor:
    return torch.randint(low, high, shape, generator=generator)


def cuts(
    count: int, scenes: int, cadence: int, jitter: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the frame with which each scene begins, (count, scenes), and the scene of each frame."""
    start = torch.arange(scenes) * cadence + integers(generator, -jitter, jitter + 1, count, scenes)
    start[:, 0] = 0
    frames = torch.arange(scenes * cadence)
    return start, (frames[None, :, None] >= start[:, None, 1:]).sum(-1)


def listed(shown: list[Scene], scenes: list[int]) -> Turn:
    """Return the answer that lists what these scenes show, with commas between; a part is a scene."""
    places = range(len(shown[0]))
    named: list[tuple[int, int]] = []
    parts = []
    for scene in scenes:
        named += [NOWHERE] if named else []
        parts.append([len(named) + place for place in places])
        named += [(scene, place) for place in places]
    return Turn("", " , ".join(" ".join(shown[scene]) for scene in scenes), named, parts)
