"""Several questions about each video in one row of tokens, for training.

They share the video's tokens and do not attend to each other, so the loss is that of separate prompts at a
fraction of their cost.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dycoke_lab.specimen import language as lang
from dycoke_lab.specimen.world import ACTORS, CADENCE, COLOUR_NAMES, GRID, Videos


@dataclass(frozen=True)
class Packed:
    """ids: (batch, length), the shared prompt, then the questions with their answers. targets: (batch, what
    follows the prompt), -100 where nothing is asked. positions: (1, length). mask: (1, 1, length, length),
    additive.
    describe: the columns of `targets` that hold the description."""

    ids: Tensor
    targets: Tensor
    positions: Tensor
    mask: Tensor
    describe: slice


def pack(videos: Videos, generator: torch.Generator) -> Packed:
    """Return a prompt with the video, then six questions that do not attend to each other: describe, one
    about each actor in a random scene, compare."""
    scenes = videos.scenes
    asked = torch.randint(scenes, (ACTORS,), generator=generator).tolist()
    pair = torch.randperm(scenes, generator=generator)
    c, d = int(pair[0]), int(pair[-1])
    rows = []
    for colours in videos.colour.tolist():
        shown = [[COLOUR_NAMES[x] for x in scene] for scene in colours]
        turns = [
            (lang.describe_question(scenes), lang.describe_answer(shown)),
            *(
                (lang.actor_question(i, k, scenes), lang.actor_answer(shown, i, k))
                for i, k in enumerate(asked)
            ),
            (lang.compare_question(c, d, scenes), lang.compare_answer(shown, c, d)),
        ]
        rows.append(
            [
                ([lang.ID[w] for w in (*q.split(), "<|assistant|>")], lang.encode(f"{r} <|end|>"))
                for q, r in turns
            ]
        )
    shared = [lang.ID["<|user|>"]] + [lang.ID["<video>"]] * (scenes * CADENCE * GRID**2 + 1)
    n = len(shared)
    ids = torch.tensor([[*shared, *(t for q, r in row for t in (*q, *r))] for row in rows])
    targets = torch.tensor([[t for q, r in row for t in (*[-100] * (len(q) - 1), *r, -100)] for row in rows])
    length = ids.shape[1]
    mask = torch.full((length, length), -1e4).triu(1)
    positions, start = torch.arange(length), n
    for q, r in rows[0]:
        end = start + len(q) + len(r)
        mask[start:end, n:start] = -1e4
        positions[start:end] = torch.arange(n, n + end - start)
        start = end
    first = len(rows[0][0][0]) - 1
    return Packed(ids, targets, positions[None], mask[None, None], slice(first, first + len(rows[0][0][1])))
