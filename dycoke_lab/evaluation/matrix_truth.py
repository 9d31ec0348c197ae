"""What if a merger knew which tokens show something? A control that only specimens can have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch
from torch import Tensor

from dycoke_lab.evaluation.grids import ended
from dycoke_lab.evaluation.matrix_runs import Batch
from dycoke_lab.methods import Assignment, Compression, Merger, VideoTokens
from dycoke_lab.models.loading import load_model
from dycoke_lab.specimen.tasks import make_task

BACKGROUND, SWAPPED = (0.1, 0.3), 0.2


@dataclass(frozen=True, eq=False)
class Given(Merger):
    """Keep the tokens that are given. keep: (videos, tokens)."""

    keep: Tensor

    label: ClassVar[str] = "given tokens"
    __eq__, __hash__ = object.__eq__, object.__hash__  # else two are equal whatever they keep

    def merge(self, video: VideoTokens) -> Assignment:
        return Assignment.keep(self.keep)


def things_and_background(specimen: str, seed: int = 0, videos: int = 32) -> pd.DataFrame:
    """Return words right, in %, and tokens left, in %, on validation videos of four scenes: of the whole
    video, of the tokens that show a thing, of these and a random share of the others, of as many tokens with
    some exchanged for others, and of a random choice. another scene: % of an answer's scenes whose words are
    more like another scene of the video."""
    model, _ = load_model(specimen, seed)
    task = make_task("describe", videos, 4, 1, specimen, split="validation")
    batch, shows = Batch(model, task), (task.videos.actor >= 0).flatten(1)
    random = torch.Generator().manual_seed(seed)
    drawn = torch.rand(shows.shape, generator=random)
    kept = {"all tokens": torch.ones_like(shows), "tokens that show a thing": shows}
    for share in BACKGROUND:
        kept[f"these, and {100 * share:.0f} % of the others"] = shows | (drawn < share)
    gone = shows & (torch.rand(shows.shape, generator=random) < SWAPPED)
    in_place = drawn < gone.float().mean() / (~shows).float().mean()
    kept[f"{100 - 100 * SWAPPED:.0f} % of these, and others for the rest"] = (shows & ~gone) | (
        in_place & ~shows
    )
    as_many = shows | (drawn < BACKGROUND[0])
    kept[f"random, as many as with {100 * BACKGROUND[0]:.0f} % of the others"] = (
        drawn < as_many.float().mean()
    )
    table = []
    for name, keep in kept.items():
        found = batch.decode(Compression.of(Given(keep)), task.answer.shape[1])
        ids = ended(found.ids, task)
        same = torch.stack([  # videos, scene of the answer, scene of the video: share of words that are its
            torch.stack([(ids[:, here] == task.answer[:, there]).float().mean(1) for there in task.parts], 1)
            for here in task.parts
        ], 1)  # fmt: skip
        own = same.diagonal(dim1=1, dim2=2)
        other = same.diagonal_scatter(torch.zeros_like(own), dim1=1, dim2=2).amax(2)
        about = {"specimen": specimen, "kept": name, "left": 100 * float(keep.float().mean())}
        said = {"words": 100 * float(own.mean()), "another scene": 100 * float((other > own).float().mean())}
        table.append(about | said)
    return pd.DataFrame(table)
