"""The matrix as tables: each line's accuracy, what survives, and paired differences on the same videos."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from dycoke_lab.evaluation.metrics import bootstrap

LINE = ["group", "share", "method", "line"]
KEPT = ["read", "held", "prefill", "per frame"]


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return for each line, question and seed: words and whole answers that are right, and answers that
    differ from the full cache's (changed), in %; and the share of visual tokens that a step reads, that the
    cache holds, and that the prefill gives to its layers, their mean, and tokens of a frame."""
    rows = rows.assign(count=rows["right"].map(lambda digits: sum(map(int, digits))))
    groups = rows.groupby([*LINE, "question", "seed"], sort=False)
    sums = groups[["count", "words"]].sum()
    found = 100 * groups[["exact", "changed"]].mean()
    found.insert(0, "words", 100 * sums["count"] / sums["words"])
    return pd.concat([found, groups[KEPT].mean()], axis=1).reset_index()


def unchanged(rows: pd.DataFrame) -> list[str]:
    """Return the methods, and at what share, that change no answer at all of a specimen though tokens are
    gone: most often a method that is not at work."""
    found = summary(rows[rows["question"] == "describe"])
    inert = found[(found["changed"] == 0) & (found["share"] < 1)]
    return [
        f"{m} at {s:.0%}, seed {n}"
        for m, s, n in zip(inert["method"], inert["share"], inert["seed"], strict=True)
    ]


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
