"""The specimens by name: a world, a model family, and how it is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dycoke_lab.models.loading import SPECIMENS as FOLDERS
from dycoke_lab.specimen.constructed import CONSTRUCTED
from dycoke_lab.specimen.constructed.model import restrict
from dycoke_lab.specimen.families import LLAVA_ONEVISION, QWEN2_5_VL, Family, Size
from dycoke_lab.specimen.footage import FOOTAGE
from dycoke_lab.specimen.world import World


@dataclass(frozen=True)
class Stage:
    """A part of the curriculum: numbers of scenes drawn from, videos a step, frames a scene (None: the
    world's). It ends when the running share of right words exceeds pass_mark."""

    scenes: tuple[int, ...]
    batch: int = 16
    cadence: int | None = None
    pass_mark: float = 0.9


@dataclass(frozen=True)
class Recipe:
    """How specimens of one kind are trained."""

    stages: tuple[Stage, ...]  # the last one favours long videos, which are learned last
    steps: int = 1300
    muon_lr: float = 4e-3
    adam_lr: float = 1.5e-3
    warmup: int = 100
    patience: int = 1200  # steps after which a stage ends all the same


@dataclass(frozen=True)
class Specimen:
    """A kind of trained model. restrict: changes a new model before it is trained; None: stock."""

    name: str
    world: World
    family: Family
    size: Size
    recipe: Recipe
    restrict: Callable[[Any], None] | None = None
    ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        words = (*self.family.special, *self.world.words)
        object.__setattr__(self, "ids", {word: index for index, word in enumerate(words)})

    @property
    def words(self) -> list[str]:
        """The vocabulary, in the order of its ids."""
        return list(self.ids)

    def encode(self, text: str) -> list[int]:
        return [self.ids[word] for word in text.split()]

    def build(self) -> Any:
        """Return the model with random weights from torch's current seed."""
        return self.family.build(self.world, self.size, self.ids)

    def processor(self) -> Any:
        """Return its processor, a stock one."""
        return self.family.processor(self.world, self.ids)

    def folder(self, seed: int) -> Path:
        return FOLDERS / self.name / f"seed-{seed}"


CURRICULUM = (Stage((1,), 32), Stage((2,)), Stage((3,)), Stage((2, 3, 4, 4, 5, 5)))
_STILLS = Recipe((Stage((1,), 64, cadence=1), *CURRICULUM), steps=3300, muon_lr=2e-3, patience=3000)
SPECIMENS = {
    specimen.name: specimen
    for specimen in (
        Specimen("constructed", CONSTRUCTED, LLAVA_ONEVISION, Size(), Recipe(CURRICULUM), restrict),
        Specimen("footage", FOOTAGE, LLAVA_ONEVISION, Size(3, 12, tied=False), _STILLS),
        Specimen("footage-qwen2.5-vl", FOOTAGE, QWEN2_5_VL, Size(3, 12, tied=False), _STILLS),
    )
}


def specimen_named(name: str) -> Specimen:
    """Return the specimen of this name. Raises ValueError for another."""
    if name not in SPECIMENS:
        raise ValueError(f"specimen={name!r} must be one of {', '.join(SPECIMENS)}")
    return SPECIMENS[name]
