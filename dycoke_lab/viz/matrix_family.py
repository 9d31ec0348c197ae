"""The figure of a second family: each line's words right on both."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

COLOURS = {"first": "#0072b2", "second": "#d55e00"}


def both_families(table: pd.DataFrame, labels: tuple[str, str], title: str) -> Figure:
    """Draw words right on two families, a row for each line, a panel for each place; controls are hollow.
    table: as `matrix_family.beside` has it. labels: of the families."""
    places = list(dict.fromkeys(table["place"]))
    counts = [int((table["place"] == place).sum()) for place in places]
    size = (9.4, 0.27 * sum(counts) + 0.55 * len(places) + 1.3)
    figure, axes = plt.subplots(
        len(places), 1, figsize=size, squeeze=False, sharex=True, height_ratios=counts, layout="constrained"
    )
    for ax, place in zip(axes[:, 0], places, strict=True):
        rows = table[table["place"] == place]
        at = range(len(rows))
        ax.hlines(at, rows["first"], rows["second"], color="0.7", linewidth=1.5, zorder=1)
        for (column, colour), label in zip(COLOURS.items(), labels, strict=True):
            face = ["white" if control else colour for control in rows["control"]]
            ax.scatter(rows[column], at, 30, facecolor=face, edgecolor=colour, zorder=3)
            ax.scatter([], [], 30, color=colour, label=label)
        ax.set_yticks(at, rows["name"], fontsize=10)
        ax.set(ylim=(len(rows) - 0.4, -0.6), xlim=(-3, 103))
        ax.set_title(place, fontsize=11)
        ax.grid(axis="y", visible=False)
    axes[-1, 0].set_xlabel("words right, %", fontsize=10)
    handles, texts = axes[0, 0].get_legend_handles_labels()
    handles.append(axes[0, 0].scatter([], [], 30, facecolor="white", edgecolor="0.3"))
    figure.legend(
        handles, [*texts, "a control"], loc="outside lower left", ncols=3, frameon=False, fontsize=10
    )
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=13)
    return figure
