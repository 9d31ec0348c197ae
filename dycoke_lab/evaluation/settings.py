"""Settings of the grids: which method, at which ratios and layer, on which specimen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from dycoke_lab.methods import METHODS, PUBLISHED, Compression, Dynamic, Merger, PrefillReducer, compose
from dycoke_lab.specimen.specimens import specimen_named

SWEEP_PRUNE = 0.7  # P of the runs over similarity thresholds
RESELECT_BELOW = (-1.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 2.0)  # never again, ..., at every step
RESELECT_LAYERS = (3, 7, 8)  # the paper's; the last of much reading; the one recommended
FUTURES = ("above", "scoring")  # layers that hindsight may know
SWEEP_THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999)


@dataclass(frozen=True, order=True)
class EvaluationConfig:
    """One setting on one specimen. method: a name of METHODS, or "full", the full cache after merging.
    future_of: the layers whose attention hindsight knows, "above" for those from L on, or "scoring" for
    layer L - 1, by which dynamic pruning chooses."""

    seed: int
    question: str
    merge_ratio: float
    prune_ratio: float
    from_layer: int
    method: str
    reselect_below: float = Dynamic.reselect_below
    merge_threshold: float | None = None
    specimen: str = "constructed"
    future_of: str = "above"

    def __post_init__(self) -> None:
        if not isinstance(self.method, str):
            raise TypeError(
                f"method={self.method!r} must be a name, which rows can hold: add yours to dycoke_lab.METHODS"
            )

    @property
    def prefill(self) -> tuple[Any, ...]:
        """What settings have in common that can share a prefill."""
        return self.specimen, self.seed, self.question, self.merge_ratio, self.merge_threshold

    def compression(self, **fields: Any) -> Compression:
        """Return what to switch on. fields: further parameters of the method."""
        if hasattr(METHODS.get(self.method), "reselect_below"):
            fields["reselect_below"] = self.reselect_below
        return compose(
            self.method, self.merge_ratio, self.prune_ratio, self.from_layer, self.merge_threshold, **fields
        )


def combinations(
    seeds: Iterable[int], questions: Iterable[str] = ("describe",), merge: Iterable[float] = (0.0, 0.5, 0.7),
    prune: Iterable[float] = (0.7, 0.9), layers: Iterable[int] = (3,), methods: Iterable[str] | None = None,
    specimen: str = "constructed",
) -> list[EvaluationConfig]:  # fmt: skip
    """Return all combinations, and the full cache at each merge ratio. methods: None for all that prune."""
    if methods is None:
        methods = [n for n, cls in METHODS.items() if n not in PUBLISHED and not issubclass(cls, Merger)]
    configs = [
        EvaluationConfig(seed, question, k, p, layer, method, specimen=specimen)
        for seed in seeds for question in questions for k in merge for layer in layers for p in prune
        for method in methods
    ]  # fmt: skip
    full = {replace(config, prune_ratio=0.0, from_layer=0, method="full") for config in configs}
    return sorted([*full, *configs])


def evidence_grid(seed: int, specimen: str = "constructed") -> list[EvaluationConfig]:
    """Return the grid of the committed evidence: of the constructed specimens, all methods at L = 3, the main
    ones at other L and questions; of the others, what data/results/PROTOCOL.md says."""
    if specimen != "constructed":
        return _protocol_grid(seed, specimen)
    main = ("dynamic", "last_query", "random", "uniform")
    short, more = ("actor", "compare"), ("fastv", "keep_first")
    return sorted({
        *combinations([seed]),
        *combinations([seed], prune=(0.95,), methods=(*main, *more, "keep_none")),
        *combinations([seed], merge=(0.5,), prune=(0.9,), layers=(1, 2, 4, 5), methods=(*main, "keep_none")),
        *combinations([seed], short, merge=(0.0, 0.5), prune=(0.9,), methods=(*main, *more)),
    })  # fmt: skip


def _protocol_grid(seed: int, specimen: str) -> list[EvaluationConfig]:
    known = {name: cls for name, cls in METHODS.items() if name not in PUBLISHED}
    every = [name for name, cls in known.items() if not issubclass(cls, Merger | PrefillReducer)]
    layers, some = range(1, specimen_named(specimen).size.layers), (3, 5, 6, 7, 8)
    prune = (0.5, 0.7, 0.9, 0.95)
    main = specimen == "footage"  # the other family has less after merging
    merged = prune if (specimen, seed) == ("footage", 0) else (0.7, 0.9)  # P after merging
    found = [
        *combinations([seed], merge=(0.0,), prune=prune, layers=layers, methods=every),
        *combinations([seed], merge=(0.5,), prune=merged, layers=layers if main else some, methods=every),
        *combinations([seed], merge=(0.3, 0.7) if main else (), prune=merged, layers=some, methods=every),
        *combinations([seed], ("actor", "compare"), (0.0, 0.5), layers=some, methods=every),
        *combinations([seed], merge=(0.0, 0.5), layers=some, methods=("fastv",)),
    ]
    # what keeps nothing keeps nothing at any P
    once = [c for c in found if c.method != "keep_none" or c.prune_ratio == 0.9]
    return sorted({replace(config, specimen=specimen) for config in once})


def sweep_grid(seed: int, specimen: str = "constructed") -> list[EvaluationConfig]:
    """Return the grid to choose thresholds by: of the constructed specimens dynamic pruning over K x P, and
    over the similarity; of the others K alone, how often dynamic pruning selects anew, and what hindsight
    knows by which layers."""
    if specimen != "constructed":
        return _reselect_grid(seed, specimen)
    ratios = [round(0.1 * k, 1) for k in range(10)]
    prune = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
    configs = combinations([seed], merge=ratios, prune=prune, methods=("dynamic",), specimen=specimen)
    for threshold in SWEEP_THRESHOLDS:
        full = replace(configs[0], merge_ratio=0.0, method="full", merge_threshold=threshold)
        full = replace(full, prune_ratio=0.0, from_layer=0)
        configs += [full, replace(full, prune_ratio=SWEEP_PRUNE, from_layer=3, method="dynamic")]
    return configs


def _reselect_grid(seed: int, specimen: str) -> list[EvaluationConfig]:
    merging = [EvaluationConfig(seed, "describe", k / 10, 0.0, 0, "full") for k in range(10)]
    dynamic = combinations([seed], merge=(0.0,), layers=RESELECT_LAYERS, methods=("dynamic",))
    anew = [replace(c, reselect_below=x) for c in dynamic if c.method != "full" for x in RESELECT_BELOW]
    layers = range(1, specimen_named(specimen).size.layers)
    known = combinations([seed], merge=(0.0,), prune=(0.9, 0.95), layers=layers, methods=("hindsight",))
    known = [replace(c, future_of=which) for c in known if c.method != "full" for which in FUTURES]
    return sorted(replace(config, specimen=specimen) for config in [*merging, *anew, *known])
