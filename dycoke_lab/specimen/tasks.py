"""Held-out questions for the specimen, with the right answers and the place in the video that each word
names."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dycoke_lab.specimen import language as lang
from dycoke_lab.specimen.world import ACTORS, CADENCE, COLOUR_NAMES, GRID, SCENES, Videos, make_videos

QUESTIONS = ("describe", "actor", "compare")
HELD_OUT = 10**12  # generator seeds from here on are never used in training


@dataclass(frozen=True)
class Task:
    """A batch of prompts of one length with their answers.

    ids: (batch, prompt). answer: (batch, words), ending with the end token. scene, actor: (batch, words),
    which scene and actor each word of the answer names, -1 where it names none. parts: columns of `answer`
    that count as words, grouped by position in the answer (a scene each; the last group of `compare` is its
    verdict).
    """

    question: str
    videos: Videos
    ids: Tensor
    answer: Tensor
    scene: Tensor
    actor: Tensor
    parts: list[list[int]]

    def tokens_of(self, sample: int) -> tuple[Tensor, Tensor]:
        """Return two (words, visual): the tokens of the scene that a word names, and of its actor in that
        scene."""
        scenes = self.videos.scene[sample].repeat_interleave(GRID**2)
        actors = self.videos.actor[sample].flatten()
        in_scene = self.scene[sample][:, None] == scenes
        return in_scene, in_scene & (self.actor[sample][:, None] == actors) & (actors >= 0)


def make_task(question: str, count: int, scenes: int, batch: int = 0) -> Task:
    """Return `count` held-out videos of `scenes` scenes; the same arguments always give the same task."""
    if question not in QUESTIONS:
        raise ValueError(f"question={question!r} must be one of {', '.join(QUESTIONS)}")
    if scenes not in SCENES:
        raise ValueError(f"scenes={scenes} must be one of {SCENES}")
    generator = torch.Generator().manual_seed(HELD_OUT + batch * 10 + scenes)
    videos = make_videos(count, scenes, generator)
    prompts, answers, where = [], [], []
    for colours in videos.colour.tolist():
        shown = [[COLOUR_NAMES[x] for x in scene] for scene in colours]
        first, second = torch.randperm(scenes, generator=generator)[:2].tolist()
        actor = int(torch.randint(ACTORS, (1,), generator=generator))
        if question == "describe":
            prompts.append(lang.describe_question(scenes))
            answers.append(lang.describe_answer(shown))
            where.append(_places(range(scenes)))
        elif question == "actor":
            prompts.append(lang.actor_question(actor, first, scenes))
            answers.append(lang.actor_answer(shown, actor, first))
            where.append([(first, actor), (-1, -1)])
        else:
            prompts.append(lang.compare_question(first, second, scenes))
            answers.append(lang.compare_answer(shown, first, second))
            where.append([*_places([first, second])[:-1], (-1, -1), (-1, -1), (-1, -1)])
    video = ["<video>"] * (scenes * CADENCE * GRID**2 + 1)
    ids = torch.tensor(
        [[lang.ID[w] for w in ("<|user|>", *video, *p.split(), "<|assistant|>")] for p in prompts]
    )
    answer = torch.tensor([lang.encode(f"{a} <|end|>") for a in answers])
    places = torch.tensor(where)
    return Task(question, videos, ids, answer, places[..., 0], places[..., 1], _parts(question, scenes))


def _places(scenes: range | list[int]) -> list[tuple[int, int]]:
    """Return (scene, actor) of each word of a list of scenes, with its commas and the token after it."""
    return [place for scene in scenes for place in (*((scene, a) for a in range(ACTORS)), (-1, -1))]


def _parts(question: str, scenes: int) -> list[list[int]]:
    if question == "actor":
        return [[0]]
    listed = scenes if question == "describe" else 2
    parts = [[part * (ACTORS + 1) + a for a in range(ACTORS)] for part in range(listed)]
    return parts if question == "describe" else [*parts, [parts[-1][-1] + 2]]
