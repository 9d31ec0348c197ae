"""The figure of DyCoke's ablations: what each choice is worth."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from dycoke_lab.evaluation.matrix import ABLATED_AT, ABLATION
from dycoke_lab.evaluation.matrix_tables import DYCOKE, NEAR, ablation_name, against

COLOURS = {0.25: "#0072b2", 0.1: "#d55e00"}
ALONE = ("ttm", "dynamic")
SHARED, EACH = "last_query", "tova (answer_counts=False)"  # one choice: by layer L - 1; by each layer's own


def differences(rows: pd.DataFrame, draws: int = 1000) -> pd.DataFrame:
    """Return words right minus DyCoke's on the same videos, in points, with 95 % intervals: for each kind of
    specimen, ablation (name), share and seed; and whether the line misses its share (off). Empty if there are
    no ablations."""
    rows = rows[(rows["question"] == "describe") & rows["share"].isin(ABLATED_AT)]
    if not (rows["group"] == ABLATION).any():
        return pd.DataFrame(columns=["specimen", "name", "share", "seed", "points", "off"])
    rows = rows[(rows["group"] == ABLATION) | rows["method"].isin([DYCOKE, *ALONE])]
    tables = [against(group, DYCOKE, draws).assign(specimen=name) for name, group in rows.groupby("specimen")]
    table = pd.concat(tables, ignore_index=True)
    left = rows.groupby(["specimen", "line", "seed"])["survive"].mean()
    found = left.reindex(pd.MultiIndex.from_frame(table[["specimen", "line", "seed"]])).to_numpy()
    off = abs(found - table["share"]) > NEAR / 100
    return table.assign(name=table["method"].map(ablation_name), off=off)


def for_each_layer(rows: pd.DataFrame, draws: int = 1000) -> pd.DataFrame:
    """Return what it is worth to choose in each layer, by its own attention, not in layer L - 1 for all:
    points of words, mean over seeds, their range, and in how many of them the 95 % interval over videos is
    above 0, or below. Without merging, and chosen once, by the prompt's last token: tokens can return only
    where all layers share a choice, since a layer has no attention to tokens that it does not read."""
    rows = rows[(rows["question"] == "describe") & rows["method"].isin([SHARED, EACH])]
    found = []
    for kind, some in rows.groupby("specimen", sort=False):
        for share, seeds in against(some, SHARED, draws).groupby("share", sort=False):
            points, above, below = seeds["points"], (seeds["low"] > 0).sum(), (seeds["high"] < 0).sum()
            about = {"specimen": kind, "tokens left, %": round(100 * share), "points": points.mean()}
            about |= {"lowest": points.min(), "highest": points.max()}
            about |= {"seeds above 0": above, "seeds below 0": below}
            found.append(about | {"a difference": "yes" if len(seeds) in (above, below) else "not told"})
    return pd.DataFrame(found)


def ablations(table: pd.DataFrame, title: str) -> Figure:
    """Draw paired differences to DyCoke, a row for each changed choice, the best first, a panel for each
    kind: a dot for each seed, a line over all of the seeds' intervals; hollow where the share is missed.

    table: as `differences` has it."""
    kinds, mean = list(dict.fromkeys(table["specimen"])), table.groupby("name")["points"].mean()
    names = mean.sort_values(ascending=False).index.to_list()
    size = (9.4, 0.36 * len(names) + 1.9)
    figure, axes = plt.subplots(1, len(kinds), figsize=size, squeeze=False, sharey=True, layout="constrained")
    for ax, kind in zip(axes[0], kinds, strict=True):
        for offset, (share, colour) in zip((-0.17, 0.17), COLOURS.items(), strict=True):
            some = table[(table["specimen"] == kind) & (table["share"] == share)]
            for name, rows in some.groupby("name"):
                y = names.index(name) + offset
                ax.plot([rows["low"].min(), rows["high"].max()], [y, y], color=colour, linewidth=2, alpha=0.6)
                face = ["white" if off else colour for off in rows["off"]]
                ax.scatter(rows["points"], [y] * len(rows), 18, facecolor=face, edgecolor=colour, zorder=3)
        ax.axvline(0, color="0.3", linewidth=1)
        ax.set_title(kind, fontsize=12)
        ax.set_xlabel("points of words more than DyCoke", fontsize=10)
        ax.grid(axis="y", visible=False)
    axes[0][0].set_yticks(range(len(names)), names, fontsize=10)
    axes[0][0].invert_yaxis()
    handles = [
        axes[0][0].plot([], [], "o-", color=colour, label=f"{100 * share:.0f} % of the tokens left")[0]
        for share, colour in COLOURS.items()
    ]
    hollow = dict(facecolor="white", edgecolor="0.3", label="leaves more, or less")
    handles.append(axes[0][0].scatter([], [], 18, **hollow))
    figure.legend(handles=handles, loc="outside lower left", ncols=3, frameon=False, fontsize=10)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=13)
    return figure
