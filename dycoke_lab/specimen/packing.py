"""Several questions about each video in one row of tokens, for training.

They share the video's tokens and do not attend to each other, so the loss is that of separate prompts at a
fraction of their cost.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dycoke_lab.specimen.specimens import Specimen
from dycoke_lab.specimen.world import Turn, Videos


@dataclass(frozen=True)
class Packed:
    """ids: (batch, length), the shared prompt, then the questions with their answers. targets: (batch, what
    follows the prompt), -100 where nothing is asked. positions: (axes, length). mask: (1, 1, length, length),
    additive. describe: the columns of `targets` that hold the description's words."""

    ids: Tensor
    targets: Tensor
    positions: Tensor
    mask: Tensor
    describe: Tensor


def pack(videos: Videos, specimen: Specimen, positions: Tensor, generator: torch.Generator) -> Packed:
    """Return a prompt with the video, then questions that do not attend to each other: describe, one about
    each place in a random scene, compare.

    positions: (axes, tokens), position ids of the prompt up to the question.
    """
    scenes, world, ids = videos.scenes, specimen.world, specimen.ids
    asked = torch.randint(scenes, (world.places,), generator=generator).tolist()
    pair = torch.randperm(scenes, generator=generator)
    first, second = int(pair[0]), int(pair[-1])
    where = int(torch.randint(world.places, (1,), generator=generator))
    rows = []
    for shown in world.shown(videos):
        turns = [
            world.ask("describe", shown, 0, 0, 0),
            *(world.ask("actor", shown, scene, 0, place) for place, scene in enumerate(asked)),
            world.ask("compare", shown, first, second, where),
        ]
        rows.append([_encode(turn, specimen) for turn in turns])
    shared = [ids[word] for word in specimen.family.prompt(world, videos.scene.shape[1])]
    n = len(shared)
    together = torch.tensor([[*shared, *(t for q, r in row for t in (*q, *r))] for row in rows])
    targets = torch.tensor([[t for q, r in row for t in (*[-100] * (len(q) - 1), *r, -100)] for row in rows])
    length = together.shape[1]
    mask = torch.full((length, length), -1e4).triu(1)
    after = int(positions[:, -1].max()) + 1
    places, start = [positions], n
    for q, r in rows[0]:
        mask[start : start + len(q) + len(r), n:start] = -1e4
        start += len(q) + len(r)
        places.append(torch.arange(after, after + len(q) + len(r)).expand(len(positions), -1))
    parts = world.ask("describe", world.shown(videos)[0], 0, 0, 0).parts
    describe = torch.tensor([word for part in parts for word in part]) + len(rows[0][0][0]) - 1
    return Packed(together, targets, torch.cat(places, 1), mask[None, None], describe)


def _encode(turn: Turn, specimen: Specimen) -> tuple[list[int], list[int]]:
    return specimen.encode(f"{turn.question} <|assistant|>"), specimen.encode(f"{turn.answer} <|end|>")
