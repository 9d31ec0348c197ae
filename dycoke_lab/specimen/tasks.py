"""Held-out questions for a specimen, with the right answers and the place in the video that each word
names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dycoke_lab.specimen.specimens import Specimen, specimen_named
from dycoke_lab.specimen.world import NOWHERE, QUESTIONS, Videos

HELD_OUT = {"test": 10**12, "validation": 2 * 10**12}  # generator seeds from here on are not used in training


@dataclass(frozen=True)
class Task:
    """A batch of prompts of one length with their answers.

    ids: (batch, prompt). answer: (batch, words), ending with the end token. scene, actor: (batch, words),
    which scene and place each word of the answer names, -1 where it names none. parts: columns of `answer`
    that count as words, grouped by position in the answer.
    """

    specimen: Specimen
    question: str
    videos: Videos
    ids: Tensor
    answer: Tensor
    scene: Tensor
    actor: Tensor
    parts: list[list[int]]

    @property
    def inputs(self) -> dict[str, Any]:
        """What the model gets of the videos, besides the ids."""
        family = self.specimen.family
        inputs = family.inputs(self.specimen.world, self.videos.pixels)
        if "video_grid_thw" in inputs:  # a family whose position ids depend on which tokens are video
            inputs["mm_token_type_ids"] = 2 * (self.ids == self.specimen.ids[family.token]).long()
        return inputs

    def tokens_of(self, sample: int) -> tuple[Tensor, Tensor]:
        """Return two (words, visual): the tokens of the scene that a word names, and of its thing in that
        scene."""
        scenes = self.videos.scene[sample].repeat_interleave(self.specimen.world.tokens)
        actors = self.videos.actor[sample].flatten()
        in_scene = self.scene[sample][:, None] == scenes
        return in_scene, in_scene & (self.actor[sample][:, None] == actors) & (actors >= 0)


def make_task(
    question: str, count: int, scenes: int, batch: int = 0, specimen: str = "constructed",
    split: str = "test", motion: str | None = None,
) -> Task:  # fmt: skip
    """Return `count` held-out videos of `scenes` scenes; the same arguments always give the same task.

    motion: of the camera, if the world has several; None: each video has its own.
    """
    kind = specimen_named(specimen)
    world = kind.world
    if question not in QUESTIONS:
        raise ValueError(f"question={question!r} must be one of {', '.join(QUESTIONS)}")
    if scenes not in world.scenes:
        raise ValueError(f"scenes={scenes} must be one of {world.scenes}")
    if split not in HELD_OUT:
        raise ValueError(f"split={split!r} must be one of {', '.join(HELD_OUT)}")
    generator = torch.Generator().manual_seed(HELD_OUT[split] + batch * 10 + scenes)
    chosen = {} if motion is None else {"motion": motion}
    videos = world.draw(count, scenes, generator, split, **chosen)
    turns = []
    for shown in world.shown(videos):
        first, second = torch.randperm(scenes, generator=generator)[:2].tolist()
        place = int(torch.randint(world.places, (1,), generator=generator))
        turns.append(world.ask(question, shown, first, second, place))
    before = kind.family.prompt(world, videos.scene.shape[1])
    prompts = [[*before, *turn.question.split(), "<|assistant|>"] for turn in turns]
    ids = torch.tensor([[kind.ids[word] for word in words] for words in prompts])
    answer = torch.tensor([kind.encode(f"{turn.answer} <|end|>") for turn in turns])
    named = torch.tensor([[*turn.named, NOWHERE] for turn in turns])
    return Task(kind, question, videos, ids, answer, named[..., 0], named[..., 1], turns[0].parts)
