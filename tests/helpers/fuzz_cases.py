"""What the fuzz draws: a composition of methods, a family, prompts, what is wrong with them, and a call."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from helpers.families import FAMILIES
from helpers.fuzz_damage import DAMAGE
from helpers.vocabulary import SIDE

NOTHING = 1e-9  # a ratio so small that no token goes
BY_IMAGES = ("internvl", "smolvlm", "gemma3")  # whose videos are images in a row
SELECTORS = (
    "dynamic", "layer_vote", "reference_code", "last_query", "first_step", "random", "uniform", "keep_first",
    "keep_none",
)  # fmt: skip
WEIRD = (
    1, 1.0, -0.1, 1 + 1e-9, float("nan"), float("inf"), "0.5", None, True, 1e300, Fraction(1, 2),
    np.float32(0.5), np.float64(0.3), np.array([0.5]), torch.tensor(0.5), 1j, [],
)  # fmt: skip
WEIRD_NUMBERS = (0, -1, 2.0, "2", None, True, np.int64(2), 10**20, float("nan"))
SIZES = ((33, 31), (1, 1), (8, 8), (7, 50), (100, 10), (64, 48), (9, 200))


@dataclass(frozen=True)
class Call:
    """kind: "forward", "greedy", "sample", "beams", or "turn", which is a greedy one and a second on its
    cache. free: the answer may end early, and hold tokens that stand for pictures."""

    kind: str
    steps: int = 3
    answers: int = 1
    cached: bool = True
    keep: int = 0
    hidden: bool = False
    attentions: bool = False
    gradients: str = "no_grad"
    free: bool = False
    more: int = 4


@dataclass(frozen=True)
class Case:
    """parts: (name, fields) of each method. prompts: parts of text, ("video", frames, height, width, seed,
    kind) and ("image", height, width, seed). capture: where attention is captured, if it is. damage: what
    is wrong with the inputs."""

    family: str
    parts: tuple[tuple[str, dict[str, Any]], ...]
    prompts: tuple[tuple[Any, ...], ...]
    call: Call
    kernel: str = "sdpa"
    capture: str = ""
    damage: tuple[str, ...] = ()
    seed: int = 0


def often(usual: Any, seldom: Any, one_in: int = 30) -> st.SearchStrategy[Any]:
    """Mostly one of the usual values."""
    many = st.sampled_from(usual) if isinstance(usual, tuple) else usual
    few = st.sampled_from(seldom) if isinstance(seldom, tuple) else seldom
    # not the last number: hypothesis draws it more often than others
    return st.integers(1, one_in).flatmap(lambda n: few if n == one_in // 2 + 1 else many)


@st.composite
def mergers(draw: Any) -> tuple[str, dict[str, Any]]:
    fields: dict[str, Any] = {}
    if draw(st.integers(0, 2)):
        fields["merge_ratio"] = draw(often((0, NOTHING, 0.3, 0.5, 0.7, 0.7, 0.999, 1), WEIRD))
    else:
        fields["threshold"] = draw(often((-1, 0, 0.3, 0.7, 0.9, 0.999, 1), (*WEIRD, -1.1)))
    if draw(st.booleans()):
        fields["window"] = draw(often((2, 3, 4, 5, 1000), WEIRD_NUMBERS))
    fields["combine"] = draw(often(("drop", "drop", "average"), ("x", None, []), 40))
    fields["positions"] = draw(often(("original", "original", "repacked"), ("x", None, []), 40))
    return "ttm", fields


@st.composite
def prunings(draw: Any, names: tuple[str, ...], lowest: int = 1) -> tuple[str, dict[str, Any]]:
    name = draw(st.sampled_from(names))
    usual = (1, 2, 2, 2, 3) if lowest < 2 else (2, 2, 3)
    fields: dict[str, Any] = {
        "prune_ratio": draw(often((0, NOTHING, 0.3, 0.5, 0.7, 0.7, 0.9, 0.999), WEIRD)),
        "from_layer": draw(often(usual, (*range(-1, 10), *WEIRD_NUMBERS), 15)),
    }
    if name in ("dynamic", "layer_vote", "reference_code"):
        fields["inactive"] = draw(often(("device", "offload", "evict"), ("disk", None, []), 40))
        fields["reselect_below"] = draw(often((-1, 0.5, 0.9, 0.97, 2), WEIRD))
    if name == "layer_vote":
        fields["sharpness"] = draw(often((0, 1, 2.0, 20), WEIRD))
    if name == "random":
        fields["seed"] = draw(often((0, 1, 12345), (-1, 2**63, 2**70, "a", None, 1.5, True, [])))
    return name, fields


@st.composite
def compositions(draw: Any, family: str) -> tuple[tuple[str, dict[str, Any]], ...]:
    lowest = 2 if family in ("gemma3", "qwen3_vl") else 1
    select, reduce = prunings(SELECTORS, lowest), prunings(("fastv",), lowest)
    kinds = draw(
        often(("m", "m", "s", "s", "ms", "ms", "ms", "r", "mr", ""), ("rs", "mrs", "mm", "ss", "sm", "x"), 6)
    )
    wrong = st.just(("wrong", {}))
    parts = {"m": mergers(), "s": select, "r": reduce, "x": wrong}
    return tuple(draw(parts[kind]) for kind in kinds)


@st.composite
def prompts(draw: Any, family: str) -> tuple[tuple[Any, ...], ...]:
    about = FAMILIES[family]
    paired = about.paired
    batch = draw(often((1, 1, 2), (3,), 5))
    size = draw(often(((SIDE, SIDE),), SIZES, 5))
    few = st.integers(1, 9).map(lambda count: count * paired)
    count = draw(often(few, often(few, st.sampled_from((1, 3, 13, 40, 300)), 4), 4))
    equal = draw(st.integers(0, 9 if about.equal else 3)) > 0
    usual, seldom = ("v", "v", "v", "vv", "v", "iv"), ("", "i", "vi", "ii", "vvv", "v-v", "i-v")
    if not about.both:  # its processor loses one of the two
        usual, seldom = ("v", "vv"), ("", "i", "iv", "vvv")
    found = []
    for number in range(batch):
        kinds = draw(often(usual, seldom, 4))
        parts: list[Any] = [draw(st.sampled_from(("user\n", "Here is ", "", "question:")))]
        for kind in kinds:
            seed = draw(st.integers(0, 9))
            if kind == "v":
                frames = count if equal else draw(few)
                how = draw(often(("moving",), ("still", "black", "noise"), 6))
                parts.append(("video", frames if count < 100 or not number else 3, *size, seed, how))
            elif kind == "i":
                parts.append(("image", *size, seed))
            if kind != "-" and "-" not in kinds:
                parts.append(draw(st.sampled_from(("then", " what happens? ", "with the question"))))
        if draw(st.integers(0, 40)) == 0:
            parts.append(draw(st.sampled_from((FAMILIES[family].video, FAMILIES[family].placeholder, "é\0"))))
        found.append(
            (*parts, draw(st.sampled_from(("?", "what image happens first then?", "1.5 seconds\n"))))
        )
    return tuple(found)


@st.composite
def calls(draw: Any) -> Call:
    kind = draw(st.sampled_from(("forward", "greedy", "greedy", "sample", "beams", "turn", "turn")))
    call = Call(
        kind,
        steps=draw(st.integers(1, 4)),
        cached=draw(st.integers(0, 6)) > 0,
        hidden=draw(st.integers(0, 8)) == 0,
        attentions=draw(st.integers(0, 8)) == 0,
        more=draw(st.integers(1, 5)),
    )
    if kind == "forward":
        how = draw(often(("no_grad",), ("inference", "grad"), 4))
        return replace(call, keep=draw(often((0,), (1, 3, 10_000, -1), 4)), gradients=how)
    answers = draw(often((1,), (2, 3), 3)) if kind in ("sample", "beams") else 1
    return replace(call, free=draw(st.integers(0, 9)) == 0, answers=min(answers, 2 if kind == "beams" else 3))


@st.composite
def cases(draw: Any) -> Case:
    family = draw(st.sampled_from(tuple(FAMILIES)))
    asked = draw(prompts(family))
    long = any(
        part[0] == "video" and part[1] > 99 for row in asked for part in row if not isinstance(part, str)
    )
    number = draw(often((0,), (1, 1, 1, 2), 4))
    return Case(
        family,
        draw(compositions(family)),
        asked,
        draw(calls()),
        kernel="sdpa" if long else draw(often(("sdpa",), ("eager",), 5)),  # eager holds the square of it
        capture=draw(often(("",), ("inside", "outside", "inside, all heads", "twice"), 3)),
        damage=tuple(draw(st.sampled_from(tuple(DAMAGE))) for _ in range(number)),
        seed=draw(st.integers(0, 3)),
    )
