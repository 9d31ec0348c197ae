"""What the bench can measure: one setting a case, and lists of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from dycoke_lab.config import DyCokeConfig
from dycoke_lab.methods import METHODS

NAMES = {"dycoke": "dynamic", "one-shot": "last_query"}  # as papers say it
UNTOUCHED = ("vision", "full", "capture")  # nothing merged, nothing pruned
UNPRUNED = ("merge", "cut")  # DyCoke only merges
METHODS_TO_MEASURE = (*UNTOUCHED, *UNPRUNED, *NAMES, *(name for name in METHODS if name not in (*NAMES.values(), "oracle")))


@dataclass(frozen=True)
class Case:
    """One setting. method: "vision" only encodes frames; "full" is the full cache; "capture" that, with `capture_attention`
    looking on; "merge" is DyCoke's merging alone; "cut" is that, and then stock transformers on caches that were cut by hand to the
    lengths that DyCoke's have, the least that a stock decoding step can cost; else "dycoke", "one-shot", or a method's name.
    whole_logits: for all of the prompt, as old stacks had them. graph: decode in steps of static shapes, on a GPU as one CUDA
    graph."""

    shape: str
    frames: int
    batch: int
    new_tokens: int
    method: str
    merge_ratio: float = 0.0
    prune_ratio: float = 0.0
    gate: float = DyCokeConfig.gate
    waiting: Literal["device", "host", "nowhere"] = "device"
    score_layer: int = DyCokeConfig.score_layer
    whole_logits: bool = False
    graph: bool = False

    def config(self) -> DyCokeConfig | None:
        """None: the model is as it was."""
        if self.method in UNTOUCHED:
            return None
        if self.method in UNPRUNED:
            return DyCokeConfig(merge_ratio=self.merge_ratio, prune_ratio=0.0)
        return DyCokeConfig(
            merge_ratio=self.merge_ratio, prune_ratio=self.prune_ratio, gate=self.gate, waiting=self.waiting,
            score_layer=self.score_layer, method=NAMES.get(self.method, self.method),
        )  # fmt: skip

    @property
    def label(self) -> str:
        """Short; what is as usual is left out."""
        parts = [self.method]
        if self.method not in UNTOUCHED:
            parts += [f"K={self.merge_ratio:g}"] + [f"P={self.prune_ratio:g}"] * (self.method != "merge")
        if self.method not in (*UNTOUCHED, *UNPRUNED):
            parts += [f"gate {self.gate:g}"] if self.gate != DyCokeConfig.gate else []
            parts += [self.waiting] if self.waiting != "device" else []
        parts += ["all logits"] if self.whole_logits else []
        parts += ["graph"] if self.graph else []
        return " ".join(parts)

    @property
    def returns(self) -> bool:
        """Whether tokens that were left out can be selected later."""
        method = METHODS.get(NAMES.get(self.method, self.method))
        return bool(method and method.returns and self.prune_ratio and self.waiting != "nowhere")

    @property
    def job(self) -> tuple[str, int, int, int]:
        """Cases that have this in common do the same job, and can be compared."""
        return self.shape, self.frames, self.batch, self.new_tokens


def cases(
    shape: str, frames: int, batch: int, new_tokens: int, methods: Sequence[str], merge: Sequence[float], prune: Sequence[float],
    gates: Sequence[float] = (DyCokeConfig.gate,), waiting: Literal["device", "host", "nowhere"] = "device",
) -> list[Case]:  # fmt: skip
    """The full cache; DyCoke at each K, P and gate, its merging alone at each K, and caches cut by hand; and methods of one choice,
    which merge nothing. Raises ValueError for counts below 1."""
    for name, count in (("frames", frames), ("batch", batch), ("new_tokens", new_tokens)):
        if count < 1:
            raise ValueError(f"{name}={count} must be at least 1")
    found: list[Case] = []
    for method in methods:
        if method in UNTOUCHED:
            found.append(Case(shape, frames, batch, new_tokens, method))
        else:
            settings = product(
                merge if method in ("dycoke", *UNPRUNED) else [0.0],
                prune if method != "merge" else [0.0],
                gates if method == "dycoke" else gates[:1],
            )
            found += [Case(shape, frames, batch, new_tokens, method, *setting, waiting) for setting in settings]
    return found


def gpu_plan(shape: str) -> Iterator[Case]:
    """What one GPU is asked in ten minutes, the most important first; every batch is tried after the smaller ones."""
    methods, k, p = ["full", "dycoke", "fastv", "one-shot"], [0.7], [0.7]
    for frames in (32, 64, 128):
        yield from cases(shape, frames, 1, 64, ["vision"], k, p)
    yield from cases(shape, 32, 1, 64, [*methods, "merge", "cut"], [0.3, 0.5, 0.7], p)
    full, dycoke = cases(shape, 32, 1, 64, ["full", "dycoke"], k, p)
    yield from (replace(case, whole_logits=True) for case in (full, dycoke))
    graphs = [full, *cases(shape, 32, 1, 64, ["cut", "dycoke"], k, p, (DyCokeConfig.gate, 2.0))]
    yield from (replace(case, graph=True) for case in graphs)
    for frames in (64, 128):
        yield from cases(shape, frames, 1, 64, methods, k, p)
    yield from cases(shape, 32, 1, 256, methods, [0.3, 0.5, 0.7], p)
    yield from cases(shape, 128, 4, 64, ["dycoke"], k, p, waiting="host")
    yield from cases(shape, 128, 4, 64, ["dycoke"], k, p, waiting="nowhere")
    for batch in (4, 8, 16, 32, 64):
        yield from cases(shape, 32, batch, 64, methods, k, p)
        yield from cases(shape, 128, batch, 64, ["full", "dycoke"], k, p)
