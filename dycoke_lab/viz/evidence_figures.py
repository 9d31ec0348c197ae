"""Figures of the evidence: one panel, lines labelled at their ends, seeds as dots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dycoke_lab.methods import colour_of, label_of

Row = Mapping[str, Any]


def method_lines(
    table: pd.DataFrame, x: str, title: str, xlabel: str, ylabel: str = "words right, %",
    methods: Sequence[str] | None = None, ticks: Sequence[float] | None = None, ax: Axes | None = None,
) -> Figure:  # fmt: skip
    """Draw a line for each method through the means, labelled at its end; a dot for each seed.

    table: columns method, `x`, mean (0 to 1), and seed, if there are several. ticks: places on the x axis, if
    not all values of `x`; equally far apart.
    """
    places = list(ticks if ticks is not None else sorted(table[x].unique()))
    figure, ax = _panel(ax)
    ends = []
    for name in methods if methods is not None else table["method"].unique():
        rows = table[(table["method"] == name) & table[x].isin(places)]
        mean = 100 * rows.groupby(x)["mean"].mean()
        mean = mean.reindex([place for place in places if place in mean.index])
        at = [places.index(value) for value in mean.index]
        strong = name in ("full", "dynamic")
        ax.plot(at, mean, color=colour_of(name), linewidth=3 if strong else 1.8, zorder=3 if strong else 2)
        dots = [places.index(value) for value in rows[x]]
        ax.plot(dots, 100 * rows["mean"], "o", color=colour_of(name), markersize=4, alpha=0.6)
        ends.append((float(mean.iloc[-1]), label_of(name), colour_of(name), at[-1]))
    _label_ends(ax, ends)
    ax.set_xticks(range(len(places)), [f"{value:g}" for value in places])
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    return figure


def fidelity(rows: Iterable[Row]) -> Figure:
    """Draw how many tokens of the full cache's answers are each method's first choice, by share kept."""
    table = pd.DataFrame(
        [
            {
                "method": row["setting"]["method"],
                "kept": 100 * row["setting"]["kept"],
                "same": row["agrees"].count("1"),
                "of": len(row["agrees"]),
                "video": row["video"],
            }
            for row in rows
        ]
    )
    sums = table.groupby(["method", "kept"], sort=False)[["same", "of"]].sum()
    means = (sums["same"] / sums["of"]).rename("mean").reset_index()
    videos = table["video"].nunique()
    title = f"Tokens of the full cache's answers that are the method's first choice ({videos} videos)"
    places = sorted(means["kept"].unique(), reverse=True)
    return method_lines(means, "kept", title, "visual tokens kept, %", "same first choice, %", ticks=places)


def _panel(ax: Axes | None) -> tuple[Figure, Axes]:
    if ax is None:
        return plt.subplots(figsize=(8.5, 4.8), layout="constrained")
    return ax.figure, ax  # type: ignore[return-value]


def _label_ends(ax: Axes, ends: Sequence[tuple[float, str, str, float]]) -> None:
    """Write each line's name at its end; names that would overlap are moved apart."""
    low, high = ax.get_ylim()
    room = (high - low) / 16
    ends = sorted(ends)
    heights = np.array([end[0] for end in ends], float)
    for _ in range(50):
        for i in range(len(heights) - 1):
            overlap = room - (heights[i + 1] - heights[i])
            if overlap > 0:
                heights[i], heights[i + 1] = heights[i] - overlap / 2, heights[i + 1] + overlap / 2
    last = max(end[3] for end in ends)
    for height, (value, label, colour, at) in zip(heights, ends, strict=True):
        ax.annotate(
            label, (at, value), (last + 0.12, height), color=colour, va="center", fontsize=11,
            arrowprops=dict(arrowstyle="-", color=colour, linewidth=0.6, alpha=0.6),
        )  # fmt: skip
    ax.set_xlim(None, last + 0.1)
