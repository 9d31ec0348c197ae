"""The matrix: which methods are compared, alone and composed, at equal numbers of surviving tokens.

A line of the matrix names its methods and the share of visual tokens that is to survive: that the layers
from L on attend to at a decoding step, their mean. Each method has one field that decides it, its knob,
which is solved on validation videos.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Any

from dycoke_lab.methods import METHODS, Compression, Selector

SHARES = (0.5, 0.25, 0.1)
LAYERS = {"constructed": 3, "footage": 8, "footage-qwen2.5-vl": 5}  # L, chosen on validation videos
BEFORE = (
    "ttm", "visionzip", "prumerge", "vidcom2", "evs", "divprune", "tome", "fastvid", "prunevid", "holitom",
)  # fmt: skip
INSIDE = ("fastv", "pyramiddrop", "framefusion", "holitom_inner", "prunevid_inner", "sttm")
CACHE = (
    "dynamic", "layer_vote", "reference_code", "first_step", "last_query", "snapkv", "tova", "h2o",
    "streamingllm", "pyramidkv", "quest",
)  # fmt: skip
CONTROLS = (
    "fewer_frames", "smaller_frames", "random_tokens", "every_nth", "first_tokens", "random", "uniform",
    "keep_first", "keep_none", "hindsight",
)  # fmt: skip
FIRST_MERGED = ("ttm", "visionzip", "fastvid", "holitom", "every_nth")  # and then pruned on the KV cache
THEN_PRUNED = ("dynamic", "last_query")
GROUPS = {
    "before the LLM": BEFORE, "inside the prefill": INSIDE, "on the KV cache": CACHE, "control": CONTROLS,
}  # fmt: skip
TOGETHER, ABLATION = "two stages", "ablation of DyCoke"


@dataclass(frozen=True)
class Part:
    """One method of a line. share: of the tokens that it is given, what it leaves; None: its fields say it.
    fields: pairs of name and value."""

    method: str
    share: float | None = None
    fields: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Line:
    """group: where its methods act. share: of the visual tokens, what is to survive; 1 for the full cache."""

    group: str
    parts: tuple[Part, ...]
    share: float

    @property
    def key(self) -> str:
        """A name that says everything, for rows."""
        return json.dumps([self.group, self.share, [[p.method, p.share, dict(p.fields)] for p in self.parts]])


FULL = Line("control", (), 1.0)


def plan(share: float) -> list[Line]:
    """Return the lines at one share: each method alone, and two stages that leave the same share each."""
    alone = [
        Line(group, (Part(name, share),), share)
        for group, names in GROUPS.items() for name in names if name in METHODS
    ]  # fmt: skip
    half = sqrt(share)
    two = [
        Line(TOGETHER, (Part(first, half), Part(then, half)), share)
        for first in FIRST_MERGED for then in THEN_PRUNED if first in METHODS
    ]  # fmt: skip
    return [*alone, *two]


def made(part: Part, from_layer: int, value: float | None = None) -> Any:
    """Return a method with its fields, from layer L on if it prunes, its knob at this value."""
    kind, fields = METHODS[part.method], dict(part.fields)
    if "from_layer" in kind.__dataclass_fields__ and "from_layer" not in fields:  # type: ignore[attr-defined]
        fields["from_layer"] = from_layer
    if value is not None:
        fields[kind.knob] = value
    return kind(**fields)


def solve(
    part: Part, from_layer: int, survivors: Callable[[Compression], float], tries: int = 12,
    near: float = 0.003,
) -> dict[str, Any]:  # fmt: skip
    """Return the part's fields with the knob at which its share survives, by bisection.

    survivors: returns the share of tokens that survives a compression. near: how near is near enough. A
    selector with a fixed budget needs no tries: its knob is P.
    """
    kind = METHODS[part.method]
    name = kind.knob
    if part.share is None:
        return dict(part.fields)
    if issubclass(kind, Selector) and kind.fixed_budget and name == "prune_ratio":
        return dict(part.fields) | {name: round(1 - part.share, 6)}

    def at(value: float) -> float:
        return survivors(Compression.of(made(part, from_layer, value)))

    low, high = kind.knob_range
    rises = at(high) > at(low)
    best, distance = low, float("inf")
    for _ in range(tries):
        middle = (low + high) / 2
        found = at(middle)
        if abs(found - part.share) < distance:
            best, distance = middle, abs(found - part.share)
        if distance <= near:
            break
        if (found > part.share) == rises:
            high = middle
        else:
            low = middle
    return dict(part.fields) | {name: round(best, 6)}
