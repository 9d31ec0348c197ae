"""Rank methods of one's own: words lost at one budget, in both worlds, beside FastV and the controls.

`python -m dycoke_lab.course.leaderboard FOLDER` ranks a folder of files with one method class each.
Their code is run: take files from people you know.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from dycoke_lab.course.own_files import methods_in, said
from dycoke_lab.methods import METHODS, Compression, Merger, Method, PrefillReducer, label_of
from dycoke_lab.methods.scores import retained_budget
from dycoke_lab.models import decoder_of
from dycoke_lab.models.loading import load_model
from dycoke_lab.runtime.compat import CACHE
from dycoke_lab.runtime.session import generation_of
from dycoke_lab.runtime.shared_prefill import SharedPrefill
from dycoke_lab.specimen.tasks import make_task

LAYERS = {"constructed": 3, "footage": 8}  # L: the paper's, and what `diagnose` chose on footage
CONTROLS = ("random", "uniform", "keep_first", "keep_none")
SCENES = 4
Methods = Path | str | Mapping[str, type[Method]] | Iterable[type[Method]]


@dataclass(frozen=True)
class Found:
    """What a method did in one world. right: how many of each video's words are right, (videos,). most:
    the largest number of visual tokens that a layer from L on attended to at a step, and budget: how
    many it may, (videos,). once: whether the tokens of its first decoding step stayed."""

    right: Tensor
    most: Tensor
    budget: Tensor
    once: bool


class World:
    """One world's specimen and videos, on which methods are run at one P, from one L on."""

    def __init__(self, name: str, videos: int, prune_ratio: float, split: str, seed: int = 0) -> None:
        self.layer, self.prune_ratio = LAYERS[name], prune_ratio
        self.model, _ = load_model(name, seed)
        self.task = make_task("describe", videos, SCENES, specimen=name, split=split)
        ids = self.task.ids
        self.inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **self.task.inputs}
        self.columns = [column for part in self.task.parts for column in part]
        self.known: dict[str, Found] = {}

    @cached_property
    def shared(self) -> SharedPrefill:
        return SharedPrefill(self.model, self.inputs)

    def shipped(self, name: str) -> Found:
        """Run a method of the library, or "full", only once."""
        if name not in self.known:
            self.known[name] = self.run(METHODS.get(name))
        return self.known[name]

    @torch.inference_mode()
    def run(self, kind: type[Method] | None) -> Found:
        """Decode under a method; None is the full cache. Raises what the method raises."""
        if kind is not None and issubclass(kind, Merger):
            raise TypeError(f"{kind.__name__} is a Merger: what is ranked prunes (Selector, PrefillReducer)")
        method: Method | None = None
        if kind is not None:
            method = kind(prune_ratio=self.prune_ratio, from_layer=self.layer)  # type: ignore[call-arg]
        shared = self.shared
        if not isinstance(method, PrefillReducer):
            with shared.start(method) as cache:
                return self._decode(cache, shared.logits)
        cache = DynamicCache(config=decoder_of(self.model).config)
        with Compression.of(method)(self.model):
            out = self.model(**self.inputs, use_cache=True, logits_to_keep=1, **{CACHE: cache})
            return self._decode(cache, out.logits[:, -1])

    def _decode(self, cache: DynamicCache, logits: Tensor) -> Found:
        generation = generation_of(self.model, cache)
        assert generation is not None
        pruned = range(self.layer, len(decoder_of(self.model).layers))
        written, counts, once = [logits.argmax(-1)], [], True
        first: list[Tensor] = []
        for _ in range(self.task.answer.shape[1] - 1):
            written.append(self.shared.step(cache, written[-1], len(written)).argmax(-1))
            kept = [attended(generation, layer) for layer in pruned]
            counts += [layer.sum(-1).amax(1) for layer in kept]
            first = first or kept
            once = once and all(map(torch.equal, first, kept))
        right = (torch.stack(written, 1) == self.task.answer)[:, self.columns].sum(1)
        everything = generation.layout.real
        return Found(right, torch.stack(counts).amax(0), retained_budget(everything, self.prune_ratio), once)


def attended(generation: Any, layer: int) -> Tensor:
    """Return the visual tokens that each key head of a layer attends to, (batch, heads or 1, visual)."""
    selection = generation.selection_for(layer)
    kept: Tensor = selection.present()[1] if selection else generation.columns_at(layer).retained[:, None]
    return kept.clone()


@lru_cache(maxsize=4)
def world(name: str, videos: int, prune_ratio: float, split: str) -> World:
    return World(name, videos, prune_ratio, split)


def rank(
    methods: Methods, videos: int = 24, prune_ratio: float = 0.9, split: str = "test",
    worlds: Iterable[str] = tuple(LAYERS), beside: Iterable[str] = ("fastv", *CONTROLS),
) -> pd.DataFrame:  # fmt: skip
    """Return a table of methods, the one that loses fewest points of words first.

    methods: a folder of files with one method class in each; or classes, by names or not. They are run
    as `Class(prune_ratio=..., from_layer=...)` on descriptions of four scenes, one specimen of each
    world; lost: against the full cache, the mean of the worlds. kept, %: the most visual tokens that a
    layer from L on attended to at any step, measured. chooses: "once", or "again" where a later step
    attended to other tokens than the first. loses less than: which of the controls. ahead of FastV, low,
    high: points on the same videos, with a 95 % interval over videos. A method that raises, or attends
    to more tokens than the others may, has no place, and its `note` says why. split: "validation" has
    other videos, to try things on.
    """
    named, wrong = _named(methods)
    places = {name: world(name, videos, prune_ratio, split) for name in worlds}
    rows = [_row(name, label_of(name), {w: at.shipped(name) for w, at in places.items()}, places, "")
            for name in beside]  # fmt: skip
    for name, kind in named.items():
        try:
            found = {w: at.run(kind) for w, at in places.items()}
        except Exception as error:  # of any kind: it is the method's
            wrong[name] = said(error)
            continue
        rows.append(_row(name, name, found, places, _too_many(found)))
    table = pd.DataFrame([*rows, *({"method": name, "note": why} for name, why in wrong.items())])
    lost = {row["method"]: row["points lost"] for row in rows}
    controls = [label_of(name) for name in CONTROLS if name in beside]
    table["loses less than"] = [
        ", ".join(control for control in controls if row.get("points lost", np.inf) < lost[control])
        for row in table.to_dict("records")
    ]
    table = table.assign(out=table["note"] != "").sort_values(["out", "points lost"], ignore_index=True)
    table.insert(0, "place", [str(n + 1) if not out else "" for n, out in enumerate(table.pop("out"))])
    return table


def _named(methods: Methods) -> tuple[dict[str, type[Method]], dict[str, str]]:
    if isinstance(methods, Path | str):
        return methods_in(Path(methods))
    if isinstance(methods, Mapping):
        return dict(methods), {}
    return {kind.label or kind.__name__: kind for kind in methods}, {}


def _too_many(found: Mapping[str, Found]) -> str:
    for name, one in found.items():
        if bool((one.most > one.budget).any()):
            return f"attends to {int(one.most.max())} tokens ({name}): {int(one.budget.max())} are allowed"
    return ""


def _row(
    name: str, label: str, found: Mapping[str, Found], places: Mapping[str, World], note: str
) -> dict[str, Any]:
    words = {w: len(at.columns) for w, at in places.items()}
    lost = {w: _points(places[w].shipped("full"), one, words[w]).mean() for w, one in found.items()}
    visual = {w: at.shared.retained.shape[1] for w, at in places.items()}
    kept = max(float((one.most / visual[w]).max()) for w, one in found.items())
    ahead = [_points(one, places[w].shipped("fastv"), words[w]) for w, one in found.items()]
    return {
        "method": label,
        "points lost": float(np.mean(list(lost.values()))),
        **{f"{w}, points": float(value) for w, value in lost.items()},
        **dict(
            zip(
                ("ahead of FastV", "low", "high"),
                _interval(ahead) if name != "fastv" else [np.nan] * 3,
                strict=True,
            )
        ),
        "kept, %": 100 * kept,
        "chooses": "once" if all(one.once for one in found.values()) else "again",
        "note": note,
    }


def _points(one: Found, other: Found, words: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return how many points of words one has right more than another, by video."""
    return 100 * (one.right - other.right).double().numpy() / words


def _interval(parts: list[Any], draws: int = 2000) -> tuple[float, float, float]:
    """Return the mean over worlds of these differences, and its 95 % interval over videos."""
    random = np.random.default_rng(0)
    drawn = [part[random.integers(len(part), size=(draws, len(part)))].mean(1) for part in parts]
    low, high = np.quantile(np.mean(drawn, 0), [0.025, 0.975])
    return float(np.mean([part.mean() for part in parts])), float(low), float(high)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m dycoke_lab.course.leaderboard FOLDER")
    print(rank(Path(sys.argv[1])).round(1).to_string(index=False, na_rep=""))
