"""Benchmark configurations, and lists of them to measure together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

from dycoke_lab.methods import METHODS, PUBLISHED, Compression, Dynamic, Merger, compose

NAMES = {"dycoke": "dynamic", "one-shot": "last_query"}  # as papers call them
UNCOMPRESSED = ("vision", "full", "full-in-place", "capture")
MERGING_ALONE = ("merge", "truncated", "truncated-stock")
METHODS_TO_MEASURE = (
    *UNCOMPRESSED,
    *MERGING_ALONE,
    *NAMES,
    *(
        name
        for name, method in METHODS.items()
        if name not in (*NAMES.values(), *PUBLISHED, "hindsight") and not issubclass(method, Merger)
    ),
)
EVERY_STEP = 2.0  # no cosine reaches it, so that each step selects anew
WARM_UP = 6  # decoding steps before the measured ones of a config with `graph`
Inactive = Literal["device", "offload", "evict"]


@dataclass(frozen=True)
class BenchmarkConfig:
    """What one timed run does.

    method: "vision" encodes the frames and nothing else.
        "full" is stock transformers, whose cache copies all keys and values at each step to add one.
        "full-in-place" is the same model with its cache written in place, to compare compression with.
        "capture" is the full cache under `capture_attention`.
        "merge" is DyCoke's merging alone.
        "truncated" is that, then a stock model on caches truncated by hand to DyCoke's lengths and written in
        place: the least that a decoding step with as many tokens can cost. "truncated-stock" is the same with
        stock's copying caches.
        Otherwise "dycoke", "one-shot" (last query), or a name in METHODS.
    whole_logits: compute logits for the whole prompt, as old stacks did.
    graph: decode in steps of static shapes, on a GPU as one CUDA graph (`StaticSteps`).
    """

    shape: str
    frames: int
    batch: int
    new_tokens: int
    method: str
    merge_ratio: float = 0.0
    prune_ratio: float = 0.0
    reselect_below: float = Dynamic.reselect_below
    inactive: Inactive = Dynamic.inactive
    from_layer: int = Dynamic.from_layer
    whole_logits: bool = False
    graph: bool = False

    @property
    def registered(self) -> str:
        """The method's name in METHODS, "full" where nothing is pruned."""
        return (
            "full" if self.method in (*UNCOMPRESSED, *MERGING_ALONE) else NAMES.get(self.method, self.method)
        )

    def compression(self) -> Compression | None:
        """Return what to apply to the model; None where it stays as it is. Raises ValueError for ratios out
        of range.
        """
        if self.method in UNCOMPRESSED:
            return None
        fields = {name: getattr(self, name) for name in dynamic_fields(self.method)}
        return compose(self.registered, self.merge_ratio, self.prune_ratio, self.from_layer, **fields)

    @property
    def label(self) -> str:
        """Name the setting in short; what has its default is left out."""
        parts = [self.method]
        if self.method not in UNCOMPRESSED:
            parts += [f"K={self.merge_ratio:g}"] + [f"P={self.prune_ratio:g}"] * (self.method != "merge")
        if self.reselect_below != Dynamic.reselect_below:
            parts += ["every step" if self.reselect_below > 1 else f"below {self.reselect_below:g}"]
        parts += [self.inactive] if self.inactive != Dynamic.inactive else []
        parts += ["all logits"] if self.whole_logits else []
        parts += ["graph"] if self.graph else []
        return " ".join(parts)

    @property
    def can_return(self) -> bool:
        """Whether tokens that were not selected can be selected later."""
        method = METHODS.get(self.registered)
        return bool(getattr(method, "can_return", False) and self.prune_ratio and self.inactive != "evict")

    @property
    def job(self) -> tuple[str, int, int, int]:
        """What configs must share to be comparable."""
        return self.shape, self.frames, self.batch, self.new_tokens


def dynamic_fields(method: str) -> tuple[str, ...]:
    """Return which of `reselect_below` and `inactive` a method has."""
    fields = getattr(METHODS.get(NAMES.get(method, method)), "__dataclass_fields__", {})
    return tuple(name for name in ("reselect_below", "inactive") if name in fields)


def configs(
    shape: str,
    frames: int,
    batch: int,
    new_tokens: int,
    methods: Sequence[str],
    merge: Sequence[float],
    prune: Sequence[float],
    reselect_below: Sequence[float] = (Dynamic.reselect_below,),
    inactive: Inactive = Dynamic.inactive,
    graph: bool = False,
) -> list[BenchmarkConfig]:
    """Return one config for each method and each combination of the parameters it has.

    "dycoke", "merge" and "truncated" merge; every other method is measured alone, on unmerged tokens.
    Raises ValueError for counts below 1.
    """
    for name, count in (("frames", frames), ("batch", batch), ("new_tokens", new_tokens)):
        if count < 1:
            raise ValueError(f"{name}={count} must be at least 1")
    options: dict[str, Sequence[Any]] = {"reselect_below": reselect_below, "inactive": [inactive]}
    found: list[BenchmarkConfig] = []
    for method in methods:
        ratios: dict[str, Sequence[Any]] = {}
        if method not in UNCOMPRESSED:
            ratios["merge_ratio"] = merge if method in ("dycoke", *MERGING_ALONE) else [0.0]
            ratios["prune_ratio"] = prune if method != "merge" else [0.0]
        own = ratios | {name: options[name] for name in dynamic_fields(method)}
        for values in product(*own.values()):
            settings = dict(zip(own, values, strict=True))
            found.append(BenchmarkConfig(shape, frames, batch, new_tokens, method, **settings, graph=graph))
    return found


def gpu_plan(shape: str) -> Iterator[BenchmarkConfig]:
    """Yield what one GPU is asked in one run of nine minutes, the most important first.

    Larger batches come after smaller ones, and what has run out of memory is not tried with more.
    """
    k, p, again = [0.7], [0.7], [Dynamic.reselect_below, EVERY_STEP]
    full, pruned = ["full", "full-in-place"], ["merge", "truncated", "dycoke"]
    one_shot = ["fastv", "one-shot"]
    for frames in (32, 64, 128):
        yield from configs(shape, frames, 1, 64, ["vision"], k, p)

    yield from configs(shape, 32, 1, 64, [*full, *one_shot], k, p)
    yield from configs(shape, 32, 1, 64, pruned, [0.3, 0.5, 0.7], p)
    yield from configs(shape, 32, 1, 64, ["dycoke"], k, p, again[1:])
    for config in configs(shape, 32, 1, 64, ["full", "dycoke"], k, p):
        yield replace(config, whole_logits=True)
    yield from configs(shape, 32, 1, 64, ["full", *pruned], k, p, again, graph=True)

    yield from configs(shape, 128, 1, 64, [*full, *pruned, *one_shot], k, p)
    yield from configs(shape, 128, 8, 32, ["full", *pruned], k, p, again, graph=True)
    for frames, batch in ((128, 8), (128, 4), (32, 8), (32, 16)):
        yield from configs(shape, frames, batch, 32, [*full, "merge", "dycoke"], k, p)
        yield from _inactive_elsewhere(shape, frames, batch)
    yield from configs(shape, 32, 1, 256, [*full, "merge", "dycoke"], k, p)
    for frames, batch in ((32, 32), (128, 16), (32, 64), (128, 32)):
        yield from configs(shape, frames, batch, 32, [*full, "merge", "dycoke"], k, p)
        yield from _inactive_elsewhere(shape, frames, batch)


def _inactive_elsewhere(shape: str, frames: int, batch: int) -> Iterator[BenchmarkConfig]:
    places: tuple[Inactive, ...] = ("offload", "evict")
    for inactive in places:
        yield from configs(shape, frames, batch, 32, ["dycoke"], [0.7], [0.7], inactive=inactive)
