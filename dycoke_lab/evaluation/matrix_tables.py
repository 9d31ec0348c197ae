"""The matrix as tables: each line's accuracy, what survives, and paired differences on the same videos."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binom, binomtest

from dycoke_lab.evaluation.matrix_runs import read_matrix
from dycoke_lab.evaluation.metrics import bootstrap
from dycoke_lab.methods import label_of
from dycoke_lab.results.folders import RESULTS

MATRIX = RESULTS / "matrix"
LINE = ["group", "share", "method", "line"]
KEPT = ["survive", "read", "held", "prefill", "per frame"]
DYCOKE, SEEDS = "ttm + dynamic", 3  # seeds that a verdict needs
NEAR = 3.0  # points by which a line may miss its share of survivors
AHEAD, BEHIND, ALIKE, TOO_FEW = "ahead", "behind", "not told apart", "too few seeds"


@lru_cache(maxsize=2)
def load_matrix(folder: Path = MATRIX) -> pd.DataFrame:
    """Return the rows of every kind of specimen and seed that a folder holds, with columns `specimen`,
    `seed` and `count`, how many words are right. Raises FileNotFoundError, with the command that makes rows,
    if it holds none."""
    tables = [
        read_matrix(path).assign(specimen=path.parent.name, seed=int(path.name.removeprefix("seed-")))
        for path in sorted({rows.parent for rows in folder.glob("*/seed-*/rows.jsonl*")})
    ]
    tables = [table for table in tables if len(table)]
    if not tables:
        raise FileNotFoundError(
            f"{folder} holds no rows of the matrix: `dycoke-lab matrix footage --seed 0` makes some (hours; "
            "it continues where it was stopped)"
        )
    rows = pd.concat(tables, ignore_index=True)
    digits = {text: sum(map(int, text)) for text in rows["right"].unique()}
    return rows.assign(count=rows["right"].map(digits))


def name_of(method: str) -> str:
    """Return what a line of the matrix is called in figures and tables: the labels of its methods, and in
    brackets what is not by default.

    >>> name_of("ttm + dynamic"), name_of("evs"), name_of("prumerge (positions=original) + last_query")
    ('DyCoke (TTM + dynamic)', 'EVS', 'PruMerge+ (positions original) + one-shot, last query')
    """
    if method == DYCOKE:
        return "DyCoke (TTM + dynamic)"
    parts = []
    for part in method.split(" + "):
        name, _, fields = part.partition(" (")
        label = label_of(name)
        if fields or " + " in method:  # what stands in for a class token is said where the method is alone
            label = label.removesuffix(" (attention received)")
        parts.append(label + (f" ({fields.replace('=', ' ')}" if fields else ""))
    return " + ".join(parts)


def means(rows: pd.DataFrame, question: str = "describe") -> pd.DataFrame:
    """Return for each kind of specimen and line the mean over seeds of words right, whole answers right,
    answers changed, and tokens that agree with the full cache's answer, in %, and of what is read, held and
    given to the prefill, in % of the visual tokens; and of points of words lost against the full cache the
    mean (lost), and the seeds with the least and the most."""
    tables = []
    for specimen, group in rows[rows["question"] == question].groupby("specimen"):
        table = summary(group).drop(columns="question")
        full = table[table["method"] == "full"].set_index("seed")["words"]
        table["lost"] = table["seed"].map(full) - table["words"]
        lines = table.drop(columns="seed").groupby(LINE, sort=False)
        ends = lines["lost"].agg(**{"lost least": "min", "lost most": "max"})
        tables.append(lines.mean().join(ends).reset_index().assign(specimen=specimen))
    table = pd.concat(tables, ignore_index=True)
    shares = ["survive", "read", "held", "prefill"]
    table[shares] = 100 * table[shares]
    return table.assign(name=table["method"].map(name_of))


def front(costs: Sequence[float], values: Sequence[float]) -> list[bool]:
    """Return for each point whether it is on the Pareto front: no other point costs as little or less and is
    worth as much or more, one of the two truly so.

    >>> front([10, 20, 20, 30], [60, 80, 70, 80])
    [True, True, False, False]
    """
    points = list(zip(costs, values, strict=True))
    return [
        not any(a <= cost and b >= value and (a < cost or b > value) for a, b in points)
        for cost, value in points
    ]


def verdict(points: Sequence[float], p: Sequence[float]) -> str:
    """Return what the protocol says of a method against another, of its points of words more and McNemar's p
    in each seed: ahead if all seeds have more words and p is below .05 in two; behind: the reverse.

    >>> verdict([1.0, 2.0, 0.5], [0.01, 0.2, 0.04]), verdict([1.0, 2.0, -0.5], [0.01, 0.2, 0.04])
    ('ahead', 'not told apart')
    """
    if len(points) < SEEDS:
        return TOO_FEW
    sure = sum(value < 0.05 for value in p) >= 2
    if sure and all(value > 0 for value in points):
        return AHEAD
    return BEHIND if sure and all(value < 0 for value in points) else ALIKE


def verdicts(rows: pd.DataFrame, other: str = DYCOKE) -> pd.DataFrame:
    """Return for each kind of specimen and line, on describe, the verdict against another method at the same
    share (`verdict`). As `against`, without intervals, which it does not use."""
    rows = rows[rows["question"] == "describe"]
    on = ["specimen", "seed", "share", "video"]
    reference = rows[rows["method"] == other][[*on, "count", "exact"]]
    both = rows[rows["method"] != other].merge(reference, on=on, suffixes=("", "_other"))
    sums = both.assign(
        more=both["count"] - both["count_other"],
        this=(both["exact"] > both["exact_other"]), that=(both["exact"] < both["exact_other"]),
    ).groupby(["specimen", *LINE, "seed"], sort=False)[["more", "this", "that"]].sum()  # fmt: skip
    few, total = sums[["this", "that"]].min(axis=1), sums["this"] + sums["that"]
    sums["p"] = np.minimum(1, 2 * binom.cdf(few, total, 0.5))
    table = []
    for key, seeds in sums.groupby(["specimen", *LINE], sort=False):
        said = verdict(seeds["more"].tolist(), seeds["p"].tolist())
        table.append(dict(zip(["specimen", *LINE], key, strict=True)) | {"verdict": said})
    return pd.DataFrame(table, columns=["specimen", *LINE, "verdict"])


def ablation_name(method: str) -> str:
    """Return what is changed in a line of the group "ablation of DyCoke", in words."""
    if " + " not in method:
        return {"ttm": "TTM alone", "dynamic": "dynamic pruning alone"}[method]
    if "dynamic_mass" in method:
        return "budget by attention mass"
    changed = re.findall(r"\(([^)]*)\)", method)
    name, _, value = changed[0].partition("=")
    values = {
        "window": f"windows of {value} frames", "reference": f"reference: {value}",
        "combine": "average, not drop", "positions": "positions numbered anew",
        "by threshold": "a threshold, not a ratio", "from_layer": f"L = {value}",
        "heads": "maximum over heads", "reselect_every": f"select every {value} steps",
        "reselect_below": f"re-select below {value}",
    }  # fmt: skip
    never = {"reselect_below=-1.0": "select once", "reselect_below=2.0": "select at every step"}
    return never.get(changed[0], values.get(name, changed[0]))


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return for each line, question and seed: words and whole answers that are right, answers that differ
    from the full cache's (changed), and tokens of them that are the same (agree), in %; and the share of
    visual tokens that a step reads, that the cache holds, and that the prefill gives to its layers, their
    mean, and tokens of a frame."""
    rows = rows.assign(count=rows["right"].map(lambda digits: sum(map(int, digits))))
    groups = rows.groupby([*LINE, "question", "seed"], sort=False)
    sums = groups[["count", "words"]].sum()
    found = 100 * groups[["exact", "changed"]].mean()
    found.insert(0, "words", 100 * sums["count"] / sums["words"])
    found["agree"] = 100 * groups["agree"].mean()
    return pd.concat([found, groups[KEPT].mean()], axis=1).reset_index()


def unchanged(rows: pd.DataFrame, below: float = 0.5) -> list[str]:
    """Return the methods, at which share below this one, that change no answer at all of a specimen though
    tokens are gone: most often a method that is not at work."""
    rows = rows[(rows["question"] == "describe") & (rows["share"] < below)]
    keys = [key for key in ("specimen", "method", "share", "seed") if key in rows]
    changed = rows.groupby([*keys, "line"], sort=False)["changed"].sum().droplevel("line")
    inert = changed[changed == 0].index.to_frame(index=False)
    names = inert["method"] + inert["share"].map(" at {:.0%}, ".format)
    kinds = inert["specimen"] + " " if "specimen" in inert else ""
    return [] if inert.empty else (names + kinds + "seed " + inert["seed"].astype(str)).tolist()


def by_position(rows: pd.DataFrame, question: str = "describe") -> pd.DataFrame:
    """Return words right in %, by line, seed and position in the answer (of the longest answers' parts)."""
    rows = rows[rows["question"] == question]
    digits = rows["right"].map(list).explode()
    at = digits.groupby(level=0).cumcount()
    parts = rows[[*LINE, "seed"]].loc[digits.index].assign(
        position=at.to_numpy(), count=digits.astype(int).to_numpy(),
        words=(rows["words"] / rows["right"].str.len()).loc[digits.index].to_numpy(),
    )  # fmt: skip
    sums = parts.groupby([*LINE, "seed", "position"], sort=False)[["count", "words"]].sum()
    return (100 * sums["count"] / sums["words"]).rename("words").reset_index()


def against(rows: pd.DataFrame, other: str, draws: int = 1000) -> pd.DataFrame:
    """Return for each line, question and seed its words right minus those of another method on the same
    videos, in points, with a 95 % interval over videos; and McNemar's exact test on whole answers: how many
    only one of the two has right, and p.

    other: "full", or a method's name, which is taken at the line's share.
    """
    rows = rows.assign(count=rows["right"].map(lambda digits: sum(map(int, digits))))
    on = ["question", "seed", "video"] + ([] if other == "full" else ["share"])
    reference = rows[rows["method"] == other][[*on, "count", "exact"]]
    both = rows[rows["method"] != other].merge(reference, on=on, suffixes=("", "_other"))
    table: list[dict[str, Any]] = []
    for key, group in both.groupby([*LINE, "question", "seed"], sort=False):
        difference = np.stack([group["count"] - group["count_other"], group["words"]], -1).astype(float)
        low_mean_high = [100 * x for x in bootstrap(difference[None], draws)]
        only_one = int((group["exact"] > group["exact_other"]).sum())
        only_other = int((group["exact"] < group["exact_other"]).sum())
        total = only_one + only_other
        p = float(binomtest(only_one, total).pvalue) if total else 1.0
        table.append(
            dict(zip([*LINE, "question", "seed"], key, strict=True))
            | dict(zip(("points", "low", "high"), low_mean_high, strict=True))
            | {"only this": only_one, "only other": only_other, "p": p, "other": other}
        )
    return pd.DataFrame(table)
