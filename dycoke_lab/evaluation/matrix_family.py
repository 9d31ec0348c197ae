"""Does the order of methods hold on another family? Rows of MATRIX.md's "A second family"."""

from __future__ import annotations

from typing import Any

import pandas as pd

from dycoke_lab.evaluation.matrix import ABLATION, GROUPS, TOGETHER
from dycoke_lab.evaluation.matrix_report import plain
from dycoke_lab.evaluation.matrix_tables import DYCOKE, MATRIX, means, name_of
from dycoke_lab.methods import METHODS, Merger

NAMED = ("vidcom2", "divprune", "evs", "fewer_frames", DYCOKE, "dynamic", "random")
SECOND = MATRIX.with_name("matrix-second-family")
HOLDS = 0.7  # rank correlation from which an order is said to carry over


def beside(
    first: pd.DataFrame, second: pd.DataFrame, kind: str = "footage", share: float = 0.25
) -> pd.DataFrame:
    """Return the lines that both families ran at a share: where each acts (place; a control's, too), its
    name, and words right in % on both, seeds' mean. first, second: rows; kind: of the first's specimens.
    Place by place, the best on the second come first."""
    words = []
    for rows in (first[first["specimen"] == kind], second):
        table = means(rows)
        table = table[(table["share"] == share) & (table["group"] != ABLATION)]
        words.append(table.set_index(["group", "method", "line"])["words"])
    table = pd.concat(words, axis=1, keys=["first", "second"], join="inner").reset_index()
    table["place"] = [
        _place(group, method) for group, method in zip(table["group"], table["method"], strict=True)
    ]
    table["control"], table["name"] = table["group"] == "control", table["method"].map(name_of).map(plain)
    order = table["place"].map([*GROUPS, TOGETHER].index)
    table = table.assign(order=order).sort_values(["order", "second"], ascending=[True, False])
    return table[["place", "name", "control", "method", "first", "second"]].reset_index(drop=True)


def _place(group: str, method: str) -> str:
    if group != "control":
        return group
    return "before the LLM" if issubclass(METHODS[method], Merger) else "on the KV cache"


def order_holds(table: pd.DataFrame) -> pd.DataFrame:
    """Return Spearman's rank correlation of words right on the two families, over all lines and in each
    place, and whether the order is said to carry over. table: as `beside` has it."""
    found: list[dict[str, Any]] = []
    for place, some in [("all", table), *table.groupby("place", sort=False)]:
        value = float(some["first"].corr(some["second"], method="spearman"))
        about = {"place": place, "lines": len(some), "rank correlation": value}
        found.append(about | {"carries over": "yes" if value >= HOLDS else "no"})
    return pd.DataFrame(found)


def _but(places: list[str]) -> str:
    return f"everywhere but {' and '.join(places)}" if places else "everywhere"


def said(table: pd.DataFrame) -> str:
    """Return in words what `order_holds` has, and words right of some lines. table: as `beside` has it."""
    holds = order_holds(table).set_index("place")
    lost = [place for place in holds.index if place != "all" and holds.loc[place, "carries over"] == "no"]
    words = table.set_index("method").loc[list(NAMED)]
    some = "; ".join(f"{row['name']} {row['second']:.1f} ({row['first']:.1f})" for _, row in words.iterrows())
    order = ", ".join(f"{r.Index} {r[2]:.2f} ({r[1]} lines)" for r in holds.itertuples())
    return (
        f"Rank correlation of words right on Qwen2.5-VL with those on footage: {order}. By "
        f"the protocol's bar of {HOLDS} the order carries over {_but(lost)}. Words right there, in % "
        f"(on footage): {some}."
    )
