"""The matrix: which methods are compared, alone and composed, at equal numbers of surviving tokens.

A line of the matrix names its methods and the share of visual tokens that is to survive: that the layers
from L on attend to at a decoding step, their mean. Each method has one field that decides it, its knob,
which is solved on validation videos.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

from dycoke_lab.methods import METHODS, Compression, Merger, Selector
from dycoke_lab.runtime.vision_attention import VisionAttention

SHARES = (0.5, 0.25, 0.1)
AS_MANY_READ = 0.7  # before the LLM: as many keys and values are read as with 10 % from layer 8 of 12 on
LAYERS = {"constructed": 3, "footage": 8, "footage-qwen2.5-vl": 3}  # L, chosen on validation videos
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
OWN_LAYERS = ("pyramiddrop", "framefusion", "sttm")  # which their papers give, not one L
# lines more: for methods whose defaults do not leave the share, whatever the knob, or number positions anew
OTHERWISE: dict[str, tuple[tuple[str, Any], ...]] = {
    "prunevid": (("tau", 1.0),), "holitom": (("tau", 1.0),),  # nothing is static
    "visionzip": (("positions", "original"),), "prumerge": (("positions", "original"),),
    "sttm": (("tau_t", None), ("root_level", 0)),  # one threshold for space and time, from whole frames on
    # no token leaves for one of the answer
    "tova": (("answer_counts", False),), "h2o": (("answer_counts", False),),
    "streamingllm": (("answer_counts", False),),
}  # fmt: skip
GROUPS = {
    "before the LLM": BEFORE, "inside the prefill": INSIDE, "on the KV cache": CACHE, "control": CONTROLS,
}  # fmt: skip
ABLATED_AT = (0.25, 0.1)
TOGETHER, ABLATION = "two stages", "ablation of DyCoke"


@dataclass(frozen=True)
class Part:
    """One method of a line. share: of the tokens that it is given, what it leaves; None: its fields say it.
    fields: pairs of name and value. solved: the field that is solved, if not the method's knob, and its
    range."""

    method: str
    share: float | None = None
    fields: tuple[tuple[str, Any], ...] = ()
    solved: tuple[str, float, float] | None = None

    @property
    def says(self) -> list[Any]:
        return [self.method, self.share, dict(self.fields), *(self.solved[:1] if self.solved else ())]

    @property
    def knob(self) -> tuple[str, float, float]:
        kind = METHODS[self.method]
        return self.solved or (kind.knob, *kind.knob_range)


@dataclass(frozen=True)
class Line:
    """group: where its methods act. share: of the visual tokens, what is to survive; 1 for the full cache."""

    group: str
    parts: tuple[Part, ...]
    share: float

    @property
    def key(self) -> str:
        """A name that says everything, for rows."""
        return json.dumps([self.group, self.share, [p.says for p in self.parts]])


FULL = Line("control", (), 1.0)


def plan() -> list[Line]:
    """Return all lines, share by share."""
    more = [line for line in plan_at(AS_MANY_READ) if is_before(line)]
    changed = [line for share in ABLATED_AT for line in ablations(share)]
    return [*(line for share in SHARES for line in plan_at(share)), *more, *changed]


def ablations(share: float) -> list[Line]:
    """Return DyCoke with one of its choices made otherwise, each stage leaving the root of the share."""
    half = sqrt(share)
    ttm, dynamic = Part("ttm", half), Part("dynamic", half)
    mergers = [
        *(replace(ttm, fields=(("window", window),)) for window in (2, 8, 16)),
        *(replace(ttm, fields=(("reference", name),)) for name in ("first", "previous")),
        replace(ttm, fields=(("combine", "average"),)),
        replace(ttm, fields=(("positions", "repacked"),)),
        replace(ttm, solved=("threshold", -1.0, 1.0)),
    ]
    selectors = [
        *(replace(dynamic, fields=(("reselect_below", x),)) for x in (-1.0, 0.3, 2.0)),
        *(replace(dynamic, fields=(("from_layer", layer),)) for layer in (1, 3, 5)),
        Part("dynamic_ablation", half, (("heads", "max"),)),
        *(Part("dynamic_ablation", half, (("reselect_every", n),)) for n in (2, 4)),
        Part("dynamic_mass", half),
    ]
    pairs = [*((merger, dynamic) for merger in mergers), *((ttm, selector) for selector in selectors)]
    return [Line(ABLATION, pair, share) for pair in pairs]


def is_before(line: Line) -> bool:
    """Whether all of its methods act before the LLM."""
    return all(issubclass(METHODS[part.method], Merger) for part in line.parts)


def plan_at(share: float) -> list[Line]:
    """Return the lines at one share: each method alone, and two stages that leave the same share each."""
    alone = [
        Line(group, (Part(name, share),), share)
        for group, names in GROUPS.items() for name in names if name in METHODS
    ]  # fmt: skip
    alone += [
        Line(group, (Part(name, share, fields),), share)
        for name, fields in OTHERWISE.items() for group, names in GROUPS.items() if name in names
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
    takes_layer = "from_layer" in kind.__dataclass_fields__  # type: ignore[attr-defined]
    if takes_layer and part.method not in OWN_LAYERS and "from_layer" not in fields:
        fields["from_layer"] = from_layer
    if value is not None:
        fields[part.knob[0]] = value
    return kind(**fields)


def refused(model: Any, line: Line, from_layer: int) -> str | None:
    """Return why a model cannot run a line (its vision tower does not give what a merger needs), or None."""
    for part in line.parts:
        if issubclass(METHODS[part.method], Merger):
            method = made(part, from_layer, sum(part.knob[1:]) / 2)
            try:
                VisionAttention(model, method)
            except ValueError as error:
                return str(error)
    return None


def solve(
    part: Part, from_layer: int, survivors: Callable[[Compression], float], tries: int = 12,
    near: float = 0.003,
) -> dict[str, Any]:  # fmt: skip
    """Return the part's fields with the knob at which its share survives, by bisection.

    survivors: returns the share of tokens that survives a compression. near: how near is near enough. A
    selector with a fixed budget needs no tries: its knob is P.
    """
    kind, (name, low, high) = METHODS[part.method], part.knob
    if part.share is None:
        return dict(part.fields)
    if issubclass(kind, Selector) and kind.fixed_budget and name == "prune_ratio":
        return dict(part.fields) | {name: round(1 - part.share, 6)}

    def at(value: float) -> float:
        return survivors(Compression.of(made(part, from_layer, value)))

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
