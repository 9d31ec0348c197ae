"""The committed evidence as tables for notebooks, README and tests."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import pandas as pd

from dycoke_lab.evaluation.diagnosis import recommended
from dycoke_lab.evaluation.grids import read_grid
from dycoke_lab.evaluation.predictions import CELL, FOUND, read_diagnoses
from dycoke_lab.evaluation.settings import RESELECT_BELOW
from dycoke_lab.evaluation.tables import counted, losses, means
from dycoke_lab.methods import label_of
from dycoke_lab.results.folders import DIAGNOSES, EVIDENCE, SWEEP
from dycoke_lab.specimen.specimens import specimen_named

PAPER_LAYER = 3
LAYER_METHODS = ("full", "dynamic", "layer_vote", "hindsight", "last_query", "uniform", "keep_none")
README_METHODS = ("full", "dynamic", "hindsight", "last_query", "uniform", "keep_none")


def names_in(folder: object = EVIDENCE) -> list[str]:
    """Return the kinds of specimens that a folder of results holds."""
    return sorted(path.name for path in folder.glob("*/") if any(path.glob("seed-*")))  # type: ignore[attr-defined]


@lru_cache(maxsize=1)
def load_evidence() -> pd.DataFrame:
    """Return the rows of all specimens, with the number of right words as `count`, and `kept`: % of retained
    tokens that the pruned layers attend to."""
    rows = pd.concat([counted(read_grid(EVIDENCE / name)) for name in names_in()], ignore_index=True)
    return rows.assign(kept=(100 * (1 - rows["prune_ratio"])).round().astype(int))


@lru_cache(maxsize=1)
def load_diagnoses() -> pd.DataFrame:
    """Return what was diagnosed on validation videos, with a column `specimen`."""
    tables = [read_diagnoses(DIAGNOSES / name).assign(specimen=name) for name in names_in(DIAGNOSES)]
    return pd.concat(tables, ignore_index=True)


def chosen_layers(prune_ratio: float = 0.7) -> dict[str, int]:
    """Return, for each kind of specimen, the L that `diagnose` recommends on validation videos: one for all
    specimens of a kind, by the mean over them."""
    rows = load_diagnoses()
    rows = rows[rows["prune_ratio"] == prune_ratio]
    return {str(name): recommended(group) for name, group in rows.groupby("specimen")}


def own_layers(specimen: str, prune_ratio: float = 0.7) -> dict[int, int]:
    """Return, by seed, the L that `diagnose` recommends for this one specimen."""
    rows = load_diagnoses()
    rows = rows[(rows["prune_ratio"] == prune_ratio) & (rows["specimen"] == specimen)]
    return {int(seed): recommended(group) for seed, group in rows.groupby("seed")}


def at_layer(evidence: pd.DataFrame, specimen: str, layer: int, methods: Sequence[str]) -> pd.DataFrame:
    """Return words right in descriptions without merging, by seed, method and share kept. What keeps no video
    has the same at every share."""
    rows = unmerged(evidence, specimen)
    rows = rows[(rows["from_layer"] == layer) & rows["method"].isin(methods)]
    table = means(rows, ["method", "seed", "kept"]).reset_index()
    none = table[table["method"] == "keep_none"].drop(columns="kept").drop_duplicates(["method", "seed"])
    kept = pd.DataFrame({"kept": sorted(table["kept"].unique())})
    return pd.concat(
        [table[table["method"] != "keep_none"], none.merge(kept, how="cross")], ignore_index=True
    )


def by_layer(specimen: str, prune_ratio: float = 0.9, methods: Sequence[str] = LAYER_METHODS) -> pd.DataFrame:
    """Return words right in descriptions without merging, by method, seed and L; the full cache's at each."""
    rows = unmerged(load_evidence(), specimen)
    rows = rows[rows["method"].isin(methods)]
    keys = ["method", "seed", "from_layer"]
    pruned = means(rows[rows["prune_ratio"] == prune_ratio], keys).reset_index()
    full = means(rows[rows["method"] == "full"], keys[:2]).reset_index()
    layers = pruned[["from_layer"]].drop_duplicates()
    return pd.concat([full.merge(layers, how="cross"), pruned], ignore_index=True)


def unmerged(evidence: pd.DataFrame, specimen: str, question: str = "describe") -> pd.DataFrame:
    """Return the rows of one kind of specimen and question without merging."""
    return evidence[
        (evidence["specimen"] == specimen)
        & (evidence["question"] == question)
        & (evidence["merge_ratio"] == 0)
    ]


def reselection(layer: int, specimen: str = "footage") -> pd.DataFrame:
    """Return words right, and selections at a step, by P and `reselect_below`, mean over seeds."""
    rows = counted(read_grid(SWEEP.parent / specimen))
    rows = rows[(rows["method"] == "dynamic") & (rows["from_layer"] == layer)]
    rows = rows[rows["reselect_below"].isin(RESELECT_BELOW)]
    keys = ["prune_ratio", "reselect_below"]
    made = rows.groupby(keys)["selections"].mean()
    return pd.concat([means(rows, keys), made], axis=1).reset_index()


def hindsights(layer: int, specimen: str = "footage") -> pd.DataFrame:
    """Return words right by hindsight, by seed, P and which layers it knows."""
    rows = counted(read_grid(SWEEP.parent / specimen))
    rows = rows[(rows["method"] == "hindsight") & (rows["from_layer"] == layer)]
    return means(rows, ["seed", "prune_ratio", "future_of"]).reset_index()


def merging(specimen: str = "footage") -> pd.DataFrame:
    """Return words right with merging alone, by seed, motion of the camera and K, and how `unlike` merged
    tokens are to what stands for them, on validation videos."""
    motions = specimen_named(specimen).world.motions
    rows = counted(read_grid(SWEEP.parent / specimen))
    rows = rows[rows["method"] == "full"].assign(motion=lambda t: t["motion"].map(dict(enumerate(motions))))
    found = means(rows, ["motion", "seed", "merge_ratio"]).reset_index()
    diagnosed = load_diagnoses()
    diagnosed = diagnosed[(diagnosed["specimen"] == specimen) & diagnosed["unlike"].notna()]
    unlike = diagnosed.groupby(["motion", "seed", "merge_ratio"])["unlike"].mean().reset_index()
    table = found.merge(unlike, on=["motion", "seed", "merge_ratio"], how="left").fillna({"unlike": 0.0})
    order = {name: number for number, name in enumerate(motions)}
    return table.sort_values(
        ["motion", "merge_ratio"], key=lambda c: c.map(order) if c.name == "motion" else c
    )


def predicted_losses(by_motion: bool = False) -> pd.DataFrame:
    """Return, for each specimen, seed, L, P and method, without merging, what was diagnosed on validation
    videos and the `loss` of words then measured on test videos. plain: unread x (1 - coverage), of the mean
    over heads or by head."""
    keys = ["specimen", "seed", *CELL]
    evidence = load_evidence()
    rows = evidence[(evidence["question"] == "describe") & (evidence["merge_ratio"] == 0)]
    diagnosed = load_diagnoses()
    diagnosed = diagnosed[diagnosed["method"].notna()]
    if by_motion:
        keys.append("motion")
        names = {name: dict(enumerate(specimen_named(name).world.motions)) for name in names_in()}
        rows = rows.assign(
            motion=[names[s][m] for s, m in zip(rows["specimen"], rows["motion"], strict=True)]
        )
    found = diagnosed.groupby(keys)[FOUND].mean().reset_index()
    found["plain"] = found["unread"] * (1 - found["coverage"])
    found["plain_by_head"] = found["unread"] * (1 - found["coverage_by_head"])
    return losses(rows, keys).merge(found, on=keys)


def readme_table(prune_ratio: float = 0.9) -> str:
    """Return the README's table, as Markdown: words right in descriptions without merging, the mean of the
    seeds (lowest-highest), at the paper's L and at the one that was chosen on validation videos."""
    evidence = load_evidence()
    evidence = evidence[(evidence["question"] == "describe") & (evidence["merge_ratio"] == 0)]
    columns = [
        ("constructed", PAPER_LAYER),
        ("footage", PAPER_LAYER),
        ("footage", chosen_layers()["footage"]),
    ]
    lines = [
        "| words right, % | " + " | ".join(f"{name}, L={layer}" for name, layer in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for method in README_METHODS:
        cells = []
        for name, layer in columns:
            rows = evidence[(evidence["specimen"] == name) & (evidence["method"] == method)]
            if method != "full":
                rows = rows[(rows["from_layer"] == layer) & (rows["prune_ratio"] == prune_ratio)]
            found = 100 * means(rows, ["seed"])
            cells.append(f"{found.mean():.1f} ({found.min():.1f}-{found.max():.1f})")
        label = f"**{label_of(method)}**" if method == "dynamic" else label_of(method)
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def findings(name: str = "footage") -> dict[str, str]:
    """Return the README's findings, a sentence each: points of words lost in descriptions against the full
    cache without merging, mean over seeds."""
    layer, rows = chosen_layers()[name], load_evidence()
    rows = rows[(rows["specimen"] == name) & (rows["question"] == "describe")]
    keys = ["method", "merge_ratio", "from_layer", "prune_ratio"]
    words = 100 * means(rows, [*keys, "seed"]).groupby(keys).mean()

    def lost(method: str, merge: float = 0.0, at: int = layer, prune: float = 0.9) -> str:
        here = ("full", merge, 0, 0.0) if method == "full" else (method, merge, at, prune)
        return f"{words['full', 0.0, 0, 0.0] - words[here]:.1f}"

    again = hindsights(layer, name)
    again = again[(again["prune_ratio"] == 0.9) & (again["future_of"] == "scoring")]
    alone = ", ".join(map(str, own_layers(name).values()))
    known = words["full", 0.0, 0, 0.0] - 100 * again["mean"].mean()
    return {
        "moment": f"At L = {layer} a choice at every step loses {lost('dynamic')} points, the prompt's "
        f"choice {lost('last_query')}, uniform {lost('uniform')}. One choice that knows the whole answer's "
        f"attention in the layers from L on loses {lost('hindsight')}, in layer L - 1 alone {known:.1f} (128 "
        "videos).",
        "layer": f"At the paper's L = {PAPER_LAYER} a choice at every step loses "
        f"{lost('dynamic', at=PAPER_LAYER)} points and uniform {lost('uniform', at=PAPER_LAYER)}: the "
        "attention that chooses is not yet on what the word names. `dycoke-lab diagnose` names "
        f"L = {layer} (alone: {alone}) on other videos, without labels.",
        "merging": f"Merging alone loses {lost('full', 0.5)} points at merge ratio K = 0.5 and "
        f"{lost('full', 0.7)} at K = 0.7; both stages together (K = P = 0.7, L = {layer}) "
        f"{lost('dynamic', 0.7, prune=0.7)}.",
        "again": _again(layer, name),
    }


def _again(layer: int, name: str, prune_ratio: float = 0.9, alike: float = 0.3) -> str:
    table = reselection(layer, name)
    table = table[table["prune_ratio"] == prune_ratio].set_index("reselect_below")
    never, always = 100 * table["mean"][[-1.0, 2.0]]
    moved = 100 * table["selections"][alike]
    return (
        f"If the first step's choice stays, {always - never:.0f} points more are lost than with a choice at "
        f"every step (L = {layer}, P = {prune_ratio:g}); in {moved:.0f} % of the steps attention has moved "
        f"(cosine below {alike:g})."
    )
