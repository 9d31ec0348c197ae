"""What the protocol asked of the claim (data/results/PROTOCOL.md), answered by the committed rows of a
kind of specimen.

Points are of words right in descriptions, lost against the full cache without merging.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import pandas as pd

from dycoke_lab.evaluation.evidence import PAPER_LAYER, chosen_layers, names_in, own_layers
from dycoke_lab.evaluation.settings import EvaluationConfig
from dycoke_lab.evaluation.tables import means
from dycoke_lab.results.folders import DIAGNOSES, EVIDENCE
from dycoke_lab.results.rows import read_rows

SETTING = ["seed", "merge_ratio", "from_layer", "prune_ratio", "method"]
ONE_CHOICE = ("last_query", "first_step", "fastv", "random", "uniform", "keep_first")
MOST_LOST = 1.0  # points, for "lossless"
LEFT_TO_READ = 10.0  # points that no video from L on must lose, so that L is of interest
PRUNE = (0.7, 0.9)


def names_on_footage() -> list[str]:
    """Return the kinds of specimens on footage that have committed evidence and a chosen L."""
    known = set(names_in(DIAGNOSES))
    return [name for name in names_in() if name.startswith("footage") and name in known]


@lru_cache(maxsize=4)
def words_right(name: str = "footage", question: str = "describe") -> pd.DataFrame:
    """Return how many words (`words`) of how many are right (`count`), by setting, summed over the
    videos of a batch: quicker to read than a row for each video (`evidence.load_evidence`)."""
    table = []
    for folder in sorted((EVIDENCE / name).glob("seed-*")):
        for row in read_rows(folder):
            if row["config"]["question"] == question:
                config = EvaluationConfig(**row["config"])
                right = sum(sum(map(int, digits)) for digits in row["right"])
                found = {"count": right, "words": row["words"] * len(row["right"])}
                table.append({key: getattr(config, key) for key in SETTING} | found)
    return pd.DataFrame(table)


def points_lost(name: str = "footage") -> pd.DataFrame:
    """Return `lost` for each seed, K, L, P and method: points against the full cache without merging.
    The full cache after merging is "full" at L = 0."""
    table = means(words_right(name), SETTING).reset_index()
    whole = table[(table["method"] == "full") & (table["merge_ratio"] == 0)].set_index("seed")["mean"]
    return table.assign(lost=100 * (table["seed"].map(whole) - table["mean"]))


def lost_by_layer(
    name: str = "footage", prune_ratio: float = 0.9,
    methods: tuple[str, ...] = ("dynamic", "last_query", "uniform", "keep_none"),
) -> pd.DataFrame:  # fmt: skip
    """Return points lost without merging, by method, seed and L."""
    table = points_lost(name)
    here = (table["merge_ratio"] == 0) & (table["prune_ratio"] == prune_ratio)
    return table[here & table["method"].isin(methods)].reset_index(drop=True)


def breaks(name: str = "footage") -> pd.DataFrame:
    """Return points lost by seed where the claim is tried hardest: each `setting`, from the kindest
    on."""
    layer, table = chosen_layers()[name], points_lost(name)
    wanted = {
        f"each step chooses, L = {layer}, P = 0.9": (0.0, layer, 0.9, "dynamic"),
        f"one choice, L = {layer}, P = 0.9": (0.0, layer, 0.9, "last_query"),
        f"each step chooses, L = {PAPER_LAYER}, P = 0.9": (0.0, PAPER_LAYER, 0.9, "dynamic"),
        "merging alone, K = 0.5": (0.5, 0, 0.0, "full"),
        "merging alone, K = 0.7": (0.7, 0, 0.0, "full"),
        f"both stages, K = P = 0.7, L = {layer}": (0.7, layer, 0.7, "dynamic"),
    }
    found = table.set_index(SETTING[1:]).sort_index()
    parts = [found.loc[[at], ["seed", "lost"]].assign(setting=said) for said, at in wanted.items()]
    return pd.concat(parts, ignore_index=True)


def leads(name: str = "footage") -> pd.DataFrame:
    """Return, by L and seed: `left`, what no video from L on loses (what there is to lose at all); and
    by P, what dynamic pruning loses, and its `lead`, how many points more the best of the others does:
    of those that choose once, and of the controls."""
    table = points_lost(name)
    table = table[(table["merge_ratio"] == 0) & (table["from_layer"] > 0)]
    keys = ["from_layer", "seed"]
    left = table[table["method"] == "keep_none"].groupby(keys)["lost"].first().rename("left")
    parts = [left]
    for ratio in PRUNE:
        wide = table[table["prune_ratio"] == ratio].pivot(index=keys, columns="method", values="lost")
        others = wide[[method for method in ONE_CHOICE if method in wide]]
        parts += [wide["dynamic"].rename(f"lost, P = {ratio:g}")]
        parts += [(others.min(axis=1) - wide["dynamic"]).rename(f"lead, P = {ratio:g}")]
    return pd.concat(parts, axis=1)


def verdicts(name: str = "footage") -> pd.DataFrame:
    """Return the protocol's bars (1), (2) and (4): what was asked, where and how it was `found`, whether
    it `holds` with all seeds. An L counts where there is something left to read. (1) and (2) are read in
    two ways: at one L for all seeds, and at an L of each seed's own."""
    table, own = leads(name), own_layers(name)
    lead = table[[f"lead, P = {ratio:g}" for ratio in PRUNE]].min(axis=1)
    counts = table["left"] > LEFT_TO_READ
    bars = {
        "(1) a choice at each step is ahead of every other, P = 0.7 and 0.9": counts & (lead > 0),
        f"(2) it loses at most {MOST_LOST:g} point, P = 0.7": counts & (table["lost, P = 0.7"] <= MOST_LOST),
    }
    rows = []
    for asked, holds in bars.items():
        each = holds.unstack("seed")
        rows.append(
            (asked, "one L for all seeds", _numbers(each.index[each.all(axis=1)]), each.all(axis=1).any())
        )
        if len(own) > 1:
            found = "; ".join(f"seed {seed}: {_numbers(each.index[each[seed]])}" for seed in each)
            rows.append((asked, "an L of each seed's own", found, each.any(axis=0).all()))
    for asked, at in (
        ("(4) the same as (1) at the L that diagnose chose", own),
        ("(4) the same as (1) at the paper's L", dict.fromkeys(own, PAPER_LAYER)),
    ):
        places = [(layer, seed) for seed, layer in at.items()]
        found = "; ".join(f"{lead[place]:+.1f} of {table['left'][place]:.1f} points" for place in places)
        where = ", ".join(map(str, dict.fromkeys(at.values())))
        rows.append((asked, f"L = {where}", found, all(bars[next(iter(bars))][place] for place in places)))
    wide = pd.DataFrame(rows, columns=["asked", "at which L", "found", "holds"])
    wide.insert(0, "specimen", name)
    return wide.assign(holds=["yes" if holds else "no" for holds in wide["holds"]])


def _numbers(layers: Iterable[int]) -> str:
    numbers = ", ".join(map(str, layers))
    return f"L = {numbers}" if numbers else "no L"


def layer_vote_leads(name: str = "footage") -> pd.DataFrame:
    """Return bar (7), by seed and L: points that the lab's own selector loses less than dynamic
    pruning."""
    table, layer = points_lost(name), chosen_layers()[name]
    table = table[(table["merge_ratio"] == 0) & table["prune_ratio"].isin(PRUNE)]
    table = table[table["from_layer"].isin([PAPER_LAYER, layer])]
    wide = table.pivot(index=["seed", "from_layer", "prune_ratio"], columns="method", values="lost")
    lead = (wide["dynamic"] - wide["layer_vote"]).unstack("prune_ratio")
    return lead.rename(columns=lambda ratio: f"P = {ratio:g}").assign(ahead=(lead > 0).all(axis=1))
