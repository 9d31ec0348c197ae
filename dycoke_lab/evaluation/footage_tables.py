"""Tables of the appendix on footage: every method, by motion of the camera, by position in the
answer."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from dycoke_lab.evaluation.tables import losses, means, paired, with_intervals
from dycoke_lab.methods import label_of

METHODS_SHOWN = (
    "dynamic", "layer_vote", "hindsight", "first_step", "last_query", "fastv", "random", "uniform",
    "keep_first", "keep_none",
)  # fmt: skip
OTHERS = ("last_query", "first_step", "fastv", "random", "uniform", "keep_first", "hindsight", "layer_vote")


def full_cache(evidence: pd.DataFrame) -> pd.DataFrame:
    """Return words right with the full cache, in %, with intervals over videos: specimen and seed x
    question."""
    full = evidence[(evidence["method"] == "full") & (evidence["merge_ratio"] == 0)]
    table = with_intervals(full, ["specimen", "question", "seed"])
    table["words right, %"] = [
        f"{100 * mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        for mean, low, high in table[["mean", "low", "high"]].to_numpy()
    ]
    return table.pivot(index=["specimen", "seed"], columns="question", values="words right, %")


def lost_words(
    rows: pd.DataFrame, layers: Sequence[int], prune: Sequence[float] = (0.7, 0.9)
) -> pd.DataFrame:
    """Return points of words lost without merging: method x (L, P, seed). rows: of one kind of
    specimen."""
    lost = losses(rows[rows["from_layer"].isin([0, *layers]) & rows["prune_ratio"].isin([0, *prune])])
    wide = lost.pivot_table(index="method", columns=["from_layer", "prune_ratio", "seed"], values="loss")
    return _named(100 * wide, ["L", "P", "seed"])


def against_dynamic(rows: pd.DataFrame, layer: int, prune: Sequence[float] = (0.7, 0.9)) -> pd.DataFrame:
    """Return dynamic pruning minus each other method on the same videos: points of words with intervals
    over videos; whole answers that only one has right, and McNemar's p."""
    pick = rows[rows["from_layer"].eq(layer) & rows["prune_ratio"].isin(prune)]
    there = [other for other in OTHERS if other in set(pick["method"])]
    tests = pd.concat([paired(pick, "dynamic", other) for other in there])
    tests["points of words"] = [
        f"{100 * d:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
        for d, low, high in tests[["difference", "low", "high"]].to_numpy()
    ]
    tests["other"] = tests["other"].map(label_of)
    return tests[["prune_ratio", "other", "seed", "points of words", "only_one", "only_other", "p"]]


def after_merging(evidence: pd.DataFrame, name: str, layer: int) -> pd.DataFrame:
    """Return words and whole descriptions right, in %, means over specimens: method x (measure, K,
    P)."""
    both = evidence[
        (evidence["specimen"] == name)
        & (evidence["question"] == "describe")
        & evidence["from_layer"].isin([0, layer])
        & evidence["prune_ratio"].isin([0, 0.7, 0.9])
        & evidence["method"].isin(["full", *METHODS_SHOWN])
    ]
    keys = ["merge_ratio", "prune_ratio", "method"]
    found = {"words": 100 * means(both, keys), "whole": 100 * both.groupby(keys)["exact"].mean()}
    wide = pd.DataFrame(found).unstack(["merge_ratio", "prune_ratio"]).sort_index(axis="columns")
    return _named(wide.dropna(axis="columns", how="all"), ["", "K", "P"], full=True)


def by_motion(
    rows: pd.DataFrame, layer: int, motions: Sequence[str], prune_ratio: float = 0.9
) -> pd.DataFrame:
    """Return points of words lost by pruning alone: method x motion of the camera, means over seeds."""
    there = rows[rows["from_layer"].isin([0, layer]) & rows["prune_ratio"].isin([0, prune_ratio])]
    there = there.assign(motion=there["motion"].map(dict(enumerate(motions))))
    lost = losses(there, ["motion", "seed", "method"])
    wide = 100 * lost.pivot_table(index="method", columns="motion", values="loss")
    return _named(wide[list(motions)], ["motion"])


def by_position(
    rows: pd.DataFrame, layer: int, methods: Sequence[str], scenes: int = 5, words: int = 3,
    prune_ratio: float = 0.9,
) -> pd.DataFrame:  # fmt: skip
    """Return words right by method, seed and scene being described, of videos of so many scenes."""
    there = rows[rows["from_layer"].isin([0, layer]) & rows["prune_ratio"].isin([0, prune_ratio])]
    there = there[(there["scenes"] == scenes) & there["method"].isin(methods)]
    parts = pd.concat([
        there.assign(scene=n + 1, count=there["right"].str[n].astype(int), words=words) for n in range(scenes)
    ])  # fmt: skip
    return means(parts, ["method", "seed", "scene"]).reset_index()


def _named(wide: pd.DataFrame, columns: list[str], full: bool = False) -> pd.DataFrame:
    """Return a table by methods in their order, with their labels."""
    order = [name for name in (*(["full"] if full else []), *METHODS_SHOWN) if name in wide.index]
    return wide.reindex(order).rename(index=label_of).rename_axis(columns=columns)
