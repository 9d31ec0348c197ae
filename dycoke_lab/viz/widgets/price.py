"""What a merge ratio or a similarity threshold costs: what the committed sweep measured there."""

from __future__ import annotations

from functools import lru_cache

import pandas as pd

from dycoke_lab.evaluation.grids import read_grid
from dycoke_lab.evaluation.metrics import pairs
from dycoke_lab.results import SWEEP


def price(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """Return a row per measured value of "merge_ratio" or "merge_threshold", nothing pruned: `left`, the
    share of tokens retained, and `words`, the share of words right. rows: of `dycoke-lab sweep`."""
    full = rows[(rows["prune_ratio"] == 0) & (rows["merge_threshold"].notna() == (by == "merge_threshold"))]
    found = []
    for value, group in full.groupby(by):
        right, of = pairs(group).sum((0, 1))
        found.append({by: value, "left": group["left"].mean(), "words": right / of})
    return pd.DataFrame(found).set_index(by)


@lru_cache(2)
def measured(by: str) -> pd.DataFrame | None:
    """Return `price` of the committed sweep; None where it is not at hand, as in an installed wheel."""
    return price(read_grid(SWEEP), by) if SWEEP.exists() else None


def price_text(found: pd.DataFrame | None, value: float) -> str:
    """Return what was measured at the measured value next to this one."""
    if found is None or found.empty:
        return ""
    nearest = min(found.index, key=lambda other: abs(other - value))
    line = found.loc[nearest]
    left, words = 100 * line["left"], 100 * line["words"]
    return f"measured at {nearest:g}: {left:.0f} % of tokens left, {words:.1f} % of words right"
