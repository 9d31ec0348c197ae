"""The lab's own selector: three layers below L score, each with the weight that it has earned in the prompt.

DyCoke takes the attention of layer L - 1 for what the layers above will attend to. Which of the layers below
tells that best differs from model to model. Here each of three is compared, at the prompt's last token, where
every layer still attends to everything, with what the layers from L on attend to on average.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dycoke_lab.methods.base import ABOVE
from dycoke_lab.methods.dynamic_pruning import Dynamic
from dycoke_lab.methods.interface import Step


@dataclass(frozen=True)
class LayerVote(Dynamic):
    """Keep at every step the tokens that three layers below L attend to, in a weighted mean; the others can
    return.

    sharpness: a layer's weight is its cosine with the layers above, at the prompt's last token, to this
        power; 0 weights all layers alike. Costs what reading the scores of two more layers costs.
    """

    sharpness: float = 2.0

    label: ClassVar[str] = "layer vote (this lab's)"
    colour: ClassVar[str] = "#6a3d9a"
    paper: ClassVar[str] = "this lab"
    needs: ClassVar[frozenset[str]] = frozenset({"attention", ABOVE})
    layers_below: ClassVar[int] = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.sharpness, Real) or not 0 <= self.sharpness < math.inf:
            raise ValueError(f"sharpness={self.sharpness!r} must be a number from 0")

    def rank(self, step: Step) -> Tensor:
        if step.by_layer is None or step.above is None:  # from_layer=1: one layer is below
            return step.scores
        if "weights" not in step.memory:
            layers = step.memory["prompt"]
            close = F.cosine_similarity(layers, step.above[:, None], dim=-1).clamp(min=0)
            step.memory["weights"] = weights_of(close, float(self.sharpness))
        return (within(step.by_layer) * step.memory["weights"][..., None]).sum(1)

    def select(self, step: Step) -> Tensor | None:
        if step.number == 0 and step.by_layer is not None:
            step.memory["prompt"] = step.by_layer
        return super().select(step)


def weights_of(close: Tensor, sharpness: float) -> Tensor:
    """(batch, layers): each layer's cosine to this power. Where all of these are too small for the precision,
    they are taken relative to the largest; where there is none, layers count alike."""
    weights, largest = close**sharpness, close.amax(-1, keepdim=True)
    relative = torch.where(largest > 0, close / largest, 1.0) ** sharpness
    return torch.where(weights.any(-1, keepdim=True), weights, relative)


def within(attention: Tensor) -> Tensor:
    """Attention as shares of what the video gets."""
    return attention / attention.sum(-1, keepdim=True).clamp(min=1e-12)
