"""Accuracy as it was measured, with one setting marked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from PIL.Image import Image as Picture

from dycoke_lab.plots import KEPT, MERGED, WRONG
from dycoke_lab.tables import FULL_ON_THE_REST
from dycoke_lab.views.page import HEIGHT, POINTS, TOP, WIDTH, Plot, heading, plot


def finder_view(axes: tuple[Plot, Plot], heat: pd.DataFrame, curve: pd.DataFrame, merge: float, prune: float, threshold: float,
                measure: str, by: str = "ratio") -> Picture:  # fmt: skip
    """Measured accuracy over K x P, and over the similarity threshold, with the present setting marked.

    axes: `finder_axes` of the same tables. heat: index K, columns P, values mean accuracy 0 to 1. curve: threshold,
    method, mean, low, high, left.
    """
    at = curve[curve["threshold"] == threshold].set_index("method")["mean"]
    if by == "ratio":
        title = f"K = {merge:g}, P = {prune:g}: {100 * heat.loc[merge, prune]:.1f} % of {measure} right"
    else:
        full = 100 * at.pop(FULL_ON_THE_REST)
        title = f"threshold {threshold:g}: {full:.1f} % of {measure} right, {100 * at.iloc[0]:.1f} % with {at.index[0]}"
    retained = (1 - 0.75 * merge) * (1 - prune)
    page = heading(title, f"measured, dynamic, L = 3; box: about {retained:.0%} of the tokens retained")
    page.paste(0, TOP, axes[0].picture)
    page.paste(WIDTH / 2, TOP, axes[1].picture)
    x, y = heat.columns.get_loc(prune), heat.index.get_loc(merge)
    left, top, low, bottom = axes[0].x(x - 0.5), axes[0].y(y - 0.5), axes[0].x(x + 0.5), axes[0].y(y + 0.5)
    page.box((left, TOP + top, low, TOP + bottom), outline=WRONG, width=5)
    leaves = 100 * curve.loc[curve["threshold"] == threshold, "left"].mean()
    page.text(WIDTH / 2 + 90, 58, f"threshold {threshold:g} leaves {leaves:.0f} % of the tokens")
    line = WIDTH / 2 + axes[1].x(sorted(curve["threshold"].unique()).index(threshold))
    page.line([(line, TOP + axes[1].area[1]), (line, TOP + axes[1].area[3])], WRONG, 4)
    return page.picture


def finder_axes(heat: pd.DataFrame, curve: pd.DataFrame) -> tuple[Plot, Plot]:
    """What does not move in `finder_view`: the heat map and the curves."""

    def ratios(ax: Any) -> None:
        values = 100 * heat.to_numpy()
        ax.imshow(values, cmap="cividis", aspect="auto", vmin=min(80.0, float(values.min())), vmax=100)
        dark = values < (min(80.0, values.min()) + 100) / 2
        for (i, j), value in np.ndenumerate(values):
            ax.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=POINTS, color="white" if dark[i, j] else "black")
        ax.set_xticks(range(heat.shape[1]), [f"{p:g}" for p in heat.columns], fontsize=POINTS)
        ax.set_yticks(range(heat.shape[0]), [f"{k:g}" for k in heat.index], fontsize=POINTS)
        ax.set_xlabel("share pruned at each step, P (0: none)", fontsize=POINTS + 3)
        ax.set_ylabel("share merged of later frames, K", fontsize=POINTS + 3)
        ax.grid(visible=False)

    def thresholds(ax: Any) -> None:
        places = {t: i for i, t in enumerate(sorted(curve["threshold"].unique()))}
        for (name, line), colour in zip(curve.groupby("method", sort=False), ("black", KEPT), strict=False):
            x = line["threshold"].map(places)
            ax.plot(x, 100 * line["mean"], marker="o", color=colour, label=str(name), linewidth=2.5)
            ax.fill_between(x, 100 * line["low"], 100 * line["high"], color=colour, alpha=0.2, linewidth=0)
        once = curve.drop_duplicates("threshold").sort_values("threshold")
        ax.plot(
            once["threshold"].map(places), 100 * once["left"], ":", color=MERGED, linewidth=2.5, label="tokens that merging leaves"
        )
        ax.set_xticks(list(places.values()), [f"{t:g}" for t in places], rotation=45, fontsize=POINTS)
        ax.set_xlabel("similarity threshold instead of K", fontsize=POINTS + 3)
        ax.set_ylabel("%", fontsize=POINTS + 3)
        ax.set(ylim=(0, 103))
        ax.grid(alpha=0.3)
        ax.legend(frameon=False, labelcolor="black", fontsize=POINTS + 1, loc="upper left")

    size = (WIDTH // 2, HEIGHT - TOP)
    return plot(*size, ratios, (0.12, 0.17, 0.86, 0.81)), plot(*size, thresholds, (0.14, 0.24, 0.83, 0.74))
