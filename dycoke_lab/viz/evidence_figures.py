"""Figures of the evidence: one panel, lines labelled at their ends, seeds as dots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from dycoke_lab.evaluation.evidence import LAYER_METHODS
from dycoke_lab.methods import colour_of, label_of

Row = Mapping[str, Any]


def method_lines(
    table: pd.DataFrame, x: str, title: str, xlabel: str, ylabel: str = "words right, %",
    methods: Sequence[str] | None = None, ticks: Sequence[float] | None = None, at_start: bool = False,
) -> Figure:  # fmt: skip
    """Draw a line for each method through the means, labelled at its end; a dot for each seed.

    table: columns method, `x`, mean (0 to 1), and seed, if there are several. ticks: places on the x axis, if
    not all values of `x`; equally far apart. at_start: labels at the lines' starts, for lines that meet.
    """
    places = list(ticks if ticks is not None else sorted(table[x].unique()))
    figure, ax = _panel()
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
        here = 0 if at_start else -1
        ends.append((float(mean.iloc[here]), label_of(name), colour_of(name), at[here]))
    _label_ends(ax, ends, at_start=at_start)
    ax.set_xticks(range(len(places)), [f"{value:g}" for value in places])
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    return figure


def every_layer(table: pd.DataFrame, name: str = "footage", prune_ratio: float = 0.9) -> Figure:
    """Draw words right against L, of a kind of specimen. table: as `evaluation.evidence.by_layer` has it."""
    mean = 100 * table.groupby(["method", "from_layer"])["mean"].mean().unstack("method")
    lead = mean["dynamic"] - mean[["last_query", "uniform", "keep_none"]].max(axis=1)
    most = f"{lead.max():+.0f} points at L = {lead.idxmax()}, {lead[3]:+.0f} at L = 3"
    title = f"{name}, P = {prune_ratio:g}: dynamic against the better of one-shot and uniform:\n{most}"
    methods = [name for name in LAYER_METHODS if name in mean]
    return method_lines(
        table, "from_layer", title, "L, the first pruned layer", methods=methods, at_start=True
    )


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


def motion_lines(table: pd.DataFrame, title: str) -> Figure:
    """Draw words right against K, a line for each motion of the camera through the means over seeds.

    table: columns motion (its name), merge_ratio, seed, mean (0 to 1).
    """
    figure, ax = _panel()
    colours = sns.color_palette("colorblind")[: table["motion"].nunique()]
    ends = []
    for colour, (motion, rows) in zip(colours, table.groupby("motion", sort=False), strict=True):
        mean = 100 * rows.groupby("merge_ratio")["mean"].mean()
        ax.plot(mean.index, mean, color=colour, linewidth=2.5)
        ax.plot(rows["merge_ratio"], 100 * rows["mean"], "o", color=colour, markersize=4, alpha=0.6)
        ends.append((float(mean.iloc[-1]), str(motion), colour, float(mean.index[-1])))
    _label_ends(ax, ends)
    ax.set(xlabel="K, the share merged away of later frames", ylabel="words right, %", title=title)
    return figure


def reselections(table: pd.DataFrame, layer: int, name: str = "footage") -> Figure:
    """Draw words right against how many selections are made at a step, a line for each P; each point has its
    threshold `reselect_below`.

    table: columns prune_ratio, reselect_below, selections, mean (0 to 1).
    """
    most = table["prune_ratio"].max()
    ends = table[table["prune_ratio"] == most].set_index("reselect_below")["mean"]
    title = (
        f"{name}, L = {layer}, P = {most:g}: {100 * ends[2.0]:.0f} % of words with a choice at every step, "
        f"{100 * ends[-1.0]:.0f} % with one"
    )
    figure, ax = _panel()
    ends = []
    for number, (ratio, rows) in enumerate(table.groupby("prune_ratio")):
        rows = rows.sort_values("selections")
        colour = sns.color_palette("colorblind")[number]
        ax.plot(100 * rows["selections"], 100 * rows["mean"], "o-", color=colour, linewidth=2.5)
        labelled = -100.0
        for _, row in rows.iloc[:-1].iterrows():
            place = 100 * row["selections"], 100 * row["mean"]
            if place[0] - labelled > 5:  # where there is room
                labelled = place[0]
                name = "never again" if row["reselect_below"] < 0 else f"{row['reselect_below']:g}"
                look: dict[str, Any] = dict(textcoords="offset points", fontsize=9, color=colour)
                first = row["reselect_below"] < 0  # at the plot's left end, below its line
                look |= dict(xytext=(8, -10), ha="left") if first else dict(xytext=(0, 8), ha="center")
                ax.annotate(name, place, **look)
        last = rows.iloc[-1]
        ends.append((100 * last["mean"], f"P = {ratio:g}", colour, 100 * last["selections"]))
    _label_ends(ax, ends, 3)
    ax.set(
        xlabel="selections, % of decoding steps (numbers: reselect_below)",
        ylabel="words right, %",
        title=title,
    )
    return figure


def predicted(table: pd.DataFrame, x: str, title: str, xlabel: str) -> Figure:
    """Draw the measured loss of words against what was predicted, a panel for each specimen, a dot for each
    cell of method, L and P.

    table: columns specimen, method, loss (0 to 1), `x`.
    """
    names = list(table["specimen"].unique())
    across = min(3, len(names))
    down = -(-len(names) // across)
    size = (9, 2.7 * down + 1.5)
    figure, axes = plt.subplots(
        down, across, figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for number, (ax, name) in enumerate(zip(axes.flat, names, strict=False)):
        for method, rows in table[table["specimen"] == name].groupby("method"):
            look = dict(
                color=colour_of(str(method)), label=label_of(str(method)), s=16, alpha=0.6, linewidth=0
            )
            ax.scatter(100 * rows[x], 100 * rows["loss"], **look)  # type: ignore[arg-type]
        ax.set_title(name, fontsize=11, fontweight="normal")
        lowest = number + across >= len(names)
        ax.tick_params(labelbottom=lowest)
        ax.set(xlabel=xlabel if lowest else "", ylabel="" if number % across else "words lost, points")
    for ax in list(axes.flat)[len(names) :]:
        ax.remove()
    handles, labels = axes[0, 0].get_legend_handles_labels()
    look = dict(ncols=3, frameon=False, fontsize=11, markerscale=2)
    legend = figure.legend(handles, labels, loc="outside lower center", **look)  # type: ignore[arg-type]
    for handle in legend.legend_handles:
        handle.set_alpha(1)  # type: ignore[union-attr]
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def head_map(values: Tensor, title: str, label: str) -> Figure:
    """Draw (layers, heads), in %, as a table of colours."""
    figure, ax = plt.subplots(
        figsize=(0.9 * values.shape[1] + 3, 0.42 * len(values) + 1.4), layout="constrained"
    )
    sns.heatmap(
        100 * values.numpy(), ax=ax, annot=True, fmt=".0f", cmap="rocket_r", vmin=0, cbar_kws={"label": label}
    )
    ax.set(xlabel="head", ylabel="layer", title=title)
    ax.tick_params(axis="y", rotation=0)
    return figure


def spread(wanted: Sequence[float], room: float, low: float, high: float) -> list[float]:
    """Return heights near the wanted ones, at least `room` apart, and from low to high if there is room.

    wanted: in rising order.
    >>> spread([1.0, 1.0, 5.0], 1.0, 0.0, 10.0)
    [0.5, 1.5, 5.0]
    """
    groups: list[list[float]] = []  # of those that touch: what each would have, were it the lowest of all
    for number, height in enumerate(wanted):
        groups.append([height - number * room])
        while len(groups) > 1 and fmean(groups[-2]) > fmean(groups[-1]):
            last = groups.pop()
            groups[-1] += last
    heights = [fmean(group) for group in groups for _ in group]
    most = high - (len(heights) - 1) * room
    return [max(low, min(height, most)) + number * room for number, height in enumerate(heights)]


def _panel() -> tuple[Figure, Axes]:
    return plt.subplots(figsize=(8.5, 4.8), layout="constrained")


def _label_ends(
    ax: Axes, ends: Sequence[tuple[float, str, Any, float]], gap: float | None = None, at_start: bool = False
) -> None:
    """Write each line's name at its end, or start; names that would overlap are moved apart. gap: between the
    last end and the names, in units of x."""
    low, high = ax.get_ylim()
    room = (high - low) / 15
    ends = sorted(ends, key=lambda end: end[0])
    heights = spread([end[0] for end in ends], room, low + room / 2, high - room / 2)
    left, right = ax.get_xlim()
    apart = (right - left) / 30 if gap is None else gap
    apart, last = (-apart, 0.0) if at_start else (apart, max(end[3] for end in ends))
    for height, (value, label, colour, at) in zip(heights, ends, strict=True):
        ax.annotate(
            label, (at, value), (last + apart, height), color=colour, va="center", fontsize=11,
            ha="right" if at_start else "left",
            arrowprops=dict(arrowstyle="-", color=colour, linewidth=0.6, alpha=0.6),
        )  # fmt: skip
    if at_start:
        # between the names and the lines there is no room for the axis' own
        ax.yaxis.tick_right()
        ax.yaxis.set_label_position("right")
        ax.set_xlim(last + 0.8 * apart, None)
    else:
        ax.set_xlim(None, last + 0.8 * apart)
