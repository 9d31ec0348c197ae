"""How much of what the layers from L on attend to is among the tokens that a selector keeps.

Measured on a trace with the full cache, so that it needs no labels, and no run under the selector.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dycoke_lab.attention.trace import Trace
from dycoke_lab.methods.base import Selector
from dycoke_lab.methods.interface import Place, Step
from dycoke_lab.methods.scores import retained_budget, top
from dycoke_lab.models.token_layout import lay_out


def chosen(selector: Selector, trace: Trace) -> Bool[Tensor, "steps batch visual"]:
    """Return what a selector would keep at each decoding step (step 0, the prompt's last token, is left out).

    It is given the scores of the full cache's run, of the layers that score for it. Raises
    ValueError for a selector that chooses for each layer or head, and for one that needs what a trace does
    not have: keys, queries, or the attention of more than the last query.
    """

    def unknown() -> Tensor:
        raise ValueError(
            f"{selector!r} needs keys and queries, or a window of them: a trace has attention only"
        )

    if selector.scope != "shared":
        raise ValueError(f"{selector!r} chooses for each {selector.scope}: only a shared choice is simulated")
    layer, one_query = selector.from_layer - 1, selector.window == 1
    candidates, place = trace.attended[0][layer], place_of(trace)
    whole = [n for n, there in enumerate(trace.attended[0]) if torch.equal(there, candidates)]  # not windowed
    scoring = [n for n in selector.scoring if n in whole]
    budget, above = (
        selector.budget(candidates),
        trace.attention[0][[n for n in whole if n > layer]].mean((0, 1)),
    )
    selected: Tensor | None = None
    previous: Tensor | None = None
    memory: dict[str, Any] = {}
    found = []
    for number, attention in enumerate(trace.attention):
        scores = attention[scoring].mean((0, 1))
        by_layer = attention[scoring].mean(1).transpose(0, 1) if len(scoring) > 1 else None
        step = Step(
            number, layer, scores, previous, candidates, budget, selected, place, memory,
            above if number else None, by_layer,
            (lambda heads=attention[layer]: heads.transpose(0, 1)[:, :, None]) if one_query else unknown,
            unknown, unknown,
        )  # fmt: skip
        if selected is None or selector.every_step:
            choice = selector.select(step)
            selected = selected if choice is None else choice
        previous = scores
        found.append(candidates if selected is None else selected)
    return torch.stack(found[1:])


def looked(trace: Trace, by_head: bool = False) -> Float[Tensor, "steps layers batch visual"]:
    """Return what each layer attends to at each decoding step, as shares of what the video gets. by_head: the
    mean of each head's own shares; else the shares of the mean over heads."""
    found = []
    for step in trace.attention[1:]:
        attention = step if by_head else step.mean(1, keepdim=True)
        found.append((attention / attention.sum(-1, keepdim=True).clamp(min=1e-12)).mean(1))
    return torch.stack(found)


def aimed(
    looked: Float[Tensor, "steps batch visual"], written: Bool[Tensor, "steps batch"]
) -> Float[Tensor, "steps batch visual"]:
    """Return what each step attends to more than the answer's other steps do on average. A token that gets
    the same at every step, a sink, tells nothing of what this step needs.

    written: the steps that count, of each batch element.
    """
    real = looked * written[..., None]
    others = (written.sum(0) - 1).clamp(min=1)[:, None]
    excess = (looked - (real.sum(0) - real) / others).clamp(min=0)
    return excess / excess.sum(-1, keepdim=True).clamp(min=1e-12)


def coverage(
    kept: Bool[Tensor, "steps batch visual"], looked: Float[Tensor, "steps batch visual"]
) -> Float[Tensor, "steps batch"]:
    """Return the share of the attention that falls on the tokens kept, at each decoding step."""
    return (looked * kept).sum(-1)


def best(
    looked: Float[Tensor, "steps batch visual"], candidates: Bool[Tensor, "batch visual"], prune_ratio: float
) -> Bool[Tensor, "steps batch visual"]:
    """Return the tokens that get most at each decoding step: as many as a selector of this ratio keeps."""
    budget = retained_budget(candidates, prune_ratio)
    return torch.stack([top(step, candidates, budget) for step in looked])


def place_of(trace: Trace) -> Place:
    """Return where each visual token of a trace lies."""
    samples = [[(grid, torch.arange(grid.tokens)) for grid in grids] for grids in trace.videos]
    return lay_out(samples, 0, torch.device("cpu")).place()
