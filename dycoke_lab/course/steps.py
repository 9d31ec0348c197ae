"""Steps made by hand, to ask a selector on numbers that one can follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dycoke_lab.methods import Place, Selector, Step


def step_by_hand(
    scores: Sequence[float] | Tensor, prune_ratio: float = 0.5,
    candidates: Sequence[bool] | Tensor | None = None, frames: int = 1, number: int = 0,
    selected: Tensor | None = None, previous: Tensor | None = None,
    memory: dict[str, Any] | None = None,
) -> Step:  # fmt: skip
    """Return the step that a selector with this P gets for these scores, of a batch of one: a number for
    each visual token, in order of frames of equal size. candidates: which tokens there are; None: all.
    The others are as in `Step`, without the batch."""
    values = torch.as_tensor(scores, dtype=torch.float32)[None]
    there = torch.ones_like(values, dtype=torch.bool)
    if candidates is not None:
        there = torch.as_tensor(candidates, dtype=torch.bool)[None]
    tokens = torch.arange(values.shape[1])[None]
    size = values.shape[1] // frames
    place = Place(tokens // size, torch.zeros_like(tokens), tokens % size)
    budget = _Any(prune_ratio).budget(there)
    earlier, chosen = (None if part is None else part[None] for part in (previous, selected))
    return Step(
        number, 0, values * there, earlier, there, budget, chosen, place, {} if memory is None else memory
    )


def ask(
    selector: Selector, attention: Tensor, candidates: Tensor | None = None, frames: int = 1
) -> list[Tensor | None]:
    """Ask a selector at each step of one answer, as a generation does: attention is (steps, visual),
    step 0 is the prompt's last token. Returns what it returned, a mask (visual,) or None, at each
    step."""
    memory: dict[str, Any] = {}
    selected: Tensor | None = None
    found: list[Tensor | None] = []
    for number, scores in enumerate(attention):
        if selected is not None and not selector.every_step:
            found.append(None)
            continue
        before = attention[number - 1] if number else None
        step = step_by_hand(
            scores, selector.prune_ratio, candidates, frames, number, selected, before, memory
        )
        choice: Any = selector.select(step)
        if isinstance(choice, Tensor):
            choice = selected = choice[0]
        found.append(choice)
    return found


class _Any(Selector):
    def select(self, step: Step) -> None: ...
