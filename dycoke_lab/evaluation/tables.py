"""Tables of the evidence: means by any keys, intervals over videos within a specimen, paired tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from dycoke_lab.evaluation.metrics import bootstrap

SETTING = ["specimen", "seed", "question", "merge_ratio", "from_layer", "prune_ratio", "method"]
FULL_KEYS = ["specimen", "seed", "question", "merge_ratio"]  # what a full cache has in common with the others


def counted(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows of a grid with `count`, how many words are right, in place of their digits."""
    digits = {text: sum(map(int, text)) for text in rows["right"].unique()}
    return rows.assign(count=rows["right"].map(digits))


def means(counts: pd.DataFrame, keys: Sequence[str]) -> pd.Series:
    """Return the share of words that are right, for each combination of keys."""
    sums = counts.groupby(list(keys))[["count", "words"]].sum()
    return (sums["count"] / sums["words"]).rename("mean")


def losses(counts: pd.DataFrame, keys: Sequence[str] = SETTING) -> pd.DataFrame:
    """Return for each combination of keys `mean`, and `loss`: what the full cache, of what merging retains,
    has right more."""
    found = means(counts[counts["method"] != "full"], keys).reset_index()
    shared = [key for key in keys if key not in ("from_layer", "prune_ratio", "method")]
    full = means(counts[counts["method"] == "full"], shared).rename("full").reset_index()
    found = found.merge(full, on=shared)
    return found.assign(loss=found["full"] - found["mean"])


def with_intervals(counts: pd.DataFrame, keys: Sequence[str], draws: int = 2000) -> pd.DataFrame:
    """Return mean, low, high (95 %, bootstrap over videos) for each combination of keys; one of them must be
    the seed, since specimens are not resampled."""
    if "seed" not in keys:
        raise ValueError(f"keys={list(keys)!r} must hold 'seed': intervals are over videos within a specimen")
    table = []
    for key, group in counts.groupby(list(keys)):
        mean, low, high = bootstrap(group[["count", "words"]].to_numpy(float)[None], draws)
        table.append({**dict(zip(keys, key, strict=True)), "mean": mean, "low": low, "high": high})
    return pd.DataFrame(table)


def paired(counts: pd.DataFrame, one: str, other: str, draws: int = 2000) -> pd.DataFrame:
    """Return, for each setting and seed that both methods have, the first's words right minus the second's on
    the same videos (difference, low, high), and McNemar's exact test on whole answers: how many only one of
    them has right, and p."""
    keys = [key for key in SETTING if key != "method"]
    on = [*keys, "video"]
    columns = [*on, "count", "words", "exact"]
    both = counts[counts["method"] == one][columns].merge(
        counts[counts["method"] == other][columns], on=on, suffixes=("", "_other")
    )
    table = []
    for key, rows in both.groupby(keys):
        difference = np.stack([rows["count"] - rows["count_other"], rows["words"]], -1).astype(float)
        mean, low, high = bootstrap(difference[None], draws)
        only_one = int((rows["exact"] > rows["exact_other"]).sum())
        only_other = int((rows["exact"] < rows["exact_other"]).sum())
        total = only_one + only_other
        p = float(binomtest(only_one, total).pvalue) if total else 1.0
        found = {"difference": mean, "low": low, "high": high, "only_one": only_one, "only_other": only_other}
        table.append({**dict(zip(keys, key, strict=True)), "one": one, "other": other, **found, "p": p})
    return pd.DataFrame(table)
