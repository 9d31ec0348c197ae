"""Draw accuracy as it was measured, with one setting marked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from PIL.Image import Image as Picture

from dycoke_lab.evaluation.metrics import FULL_ON_THE_REST
from dycoke_lab.viz.frames.page import HEIGHT, POINTS, TOP, WIDTH, Plot, heading, plot
from dycoke_lab.viz.plots import MERGED_AWAY, RETAINED, WRONG


def finder_view(
    axes: tuple[Plot, Plot],
    heat: pd.DataFrame,
    curve: pd.DataFrame,
    merge: float,
    prune: float,
    threshold: float,
    measure: str,
    by: str = "ratio",
) -> Picture:
    """Draw measured accuracy over K x P, and over the similarity threshold, with the present setting marked.

    axes: `finder_axes` of the same tables. heat: index K, columns P, values mean accuracy 0 to 1. curve:
    columns threshold, method, mean, low, high, left. by: what the title tells of, "ratio" or "threshold".
    """
    at = curve[curve["threshold"] == threshold].set_index("method")["mean"]
    if by == "ratio":
        title = f"K = {merge:g}, P = {prune:g}: {100 * heat.loc[merge, prune]:.1f} % of {measure} right"
        share = (1 - 0.75 * merge) * (1 - prune)
        about = f"measured, dynamic, from_layer 3; box: about {100 * share:.0f} % of the tokens active"
    else:
        full = 100 * at.pop(FULL_ON_THE_REST)
        dynamic = f"{100 * at.iloc[0]:.1f} % with {at.index[0]}"
        title = f"threshold {threshold:g}: {full:.1f} % of {measure} right, {dynamic}"
        about = "measured, with the full cache of the retained tokens"
    page = heading(title, about)
    page.paste(0, TOP, axes[0].picture)
    page.paste(WIDTH / 2, TOP, axes[1].picture)
    x, y = heat.columns.get_loc(prune), heat.index.get_loc(merge)
    left, top, right, bottom = axes[0].x(x - 0.5), axes[0].y(y - 0.5), axes[0].x(x + 0.5), axes[0].y(y + 0.5)
    page.box((left, TOP + top, right, TOP + bottom), outline=WRONG, width=5)
    retained = 100 * curve.loc[curve["threshold"] == threshold, "left"].mean()
    page.text(WIDTH / 2 + 90, 58, f"threshold {threshold:g} retains {retained:.0f} % of the tokens")
    line = WIDTH / 2 + axes[1].x(sorted(curve["threshold"].unique()).index(threshold))
    page.line([(line, TOP + axes[1].area[1]), (line, TOP + axes[1].area[3])], WRONG, 4)
    return page.picture


def finder_axes(heat: pd.DataFrame, curve: pd.DataFrame) -> tuple[Plot, Plot]:
    """Draw what does not move in `finder_view`: the heat map and the curves."""
    size = (WIDTH // 2, HEIGHT - TOP)
    left = plot(*size, lambda ax: _ratios(ax, heat), (0.12, 0.17, 0.86, 0.81))
    return left, plot(*size, lambda ax: _thresholds(ax, curve), (0.14, 0.24, 0.83, 0.74))


def _ratios(ax: Any, heat: pd.DataFrame) -> None:
    values = 100 * heat.to_numpy()
    least = min(80.0, float(values.min()))
    ax.imshow(values, cmap="cividis", aspect="auto", vmin=least, vmax=100)
    dark = values < (least + 100) / 2
    for (i, j), value in np.ndenumerate(values):
        colour = "white" if dark[i, j] else "black"
        ax.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=POINTS, color=colour)
    ax.set_xticks(range(heat.shape[1]), [f"{p:g}" for p in heat.columns], fontsize=POINTS)
    ax.set_yticks(range(heat.shape[0]), [f"{k:g}" for k in heat.index], fontsize=POINTS)
    ax.set_xlabel("prune ratio P (0: no pruning)", fontsize=POINTS + 3)
    ax.set_ylabel("merge ratio K", fontsize=POINTS + 3)
    ax.grid(visible=False)


def _thresholds(ax: Any, curve: pd.DataFrame) -> None:
    places = {t: i for i, t in enumerate(sorted(curve["threshold"].unique()))}
    for (name, line), colour in zip(curve.groupby("method", sort=False), ("black", RETAINED), strict=False):
        x = line["threshold"].map(places)
        ax.plot(x, 100 * line["mean"], marker="o", color=colour, label=str(name), linewidth=2.5)
        ax.fill_between(x, 100 * line["low"], 100 * line["high"], color=colour, alpha=0.2, linewidth=0)
    once = curve.drop_duplicates("threshold").sort_values("threshold")
    look: dict[str, Any] = dict(color=MERGED_AWAY, linewidth=2.5, label="tokens that merging retains")
    ax.plot(once["threshold"].map(places), 100 * once["left"], ":", **look)
    ax.set_xticks(list(places.values()), [f"{t:g}" for t in places], rotation=45, fontsize=POINTS)
    ax.set_xlabel("similarity threshold instead of K", fontsize=POINTS + 3)
    ax.set_ylabel("%", fontsize=POINTS + 3)
    ax.set(ylim=(0, 103))
    ax.grid(alpha=0.3)
    ax.legend(frameon=False, labelcolor="black", fontsize=POINTS + 1, loc="upper left")
