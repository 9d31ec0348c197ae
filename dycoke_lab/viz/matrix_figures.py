"""Figures and tables of notebook 12: published methods, DyCoke and controls, at equal tokens and at equal
cost."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dycoke_lab.evaluation.matrix import ABLATION, SHARES, TOGETHER
from dycoke_lab.evaluation.matrix_report import NEVER, plain
from dycoke_lab.evaluation.matrix_tables import (
    AHEAD,
    ALIKE,
    BEHIND,
    DYCOKE,
    NEAR,
    TOO_FEW,
    front,
    name_of,
)

COLOURS = {
    "before the LLM": "#0072b2", "inside the prefill": "#e69f00", "on the KV cache": "#009e73",
    TOGETHER: "#cc79a7", "control": "#6e6e6e",
}  # fmt: skip
SIGNS = {AHEAD: "▲", BEHIND: "▼", ALIKE: "?", TOO_FEW: ""}
COSTS = {
    "read": "keys and values that a step reads, % of the full cache's visual ones",
    "prefill": "visual tokens given to the prefill's layers, %",
}
DYCOKE_NAME = name_of(DYCOKE)
TONES = {"▲": "#006b4e", "▼": "#a3420a"}
QUESTIONS = {"actor": "one word", "compare": "three words", "describe": "all scenes"}


def on_front(table: pd.DataFrame, cost: str) -> pd.DataFrame:
    """Return the lines of one kind of specimen that can be chosen (no ablations, no hindsight), the cheapest
    first, with a column `front`. table: as `matrix_tables.means` has it."""
    some = table[(table["group"] != ABLATION) & (table["method"] != NEVER)].sort_values([cost, "words"])
    costs, words = some[cost].round(1), some["words"].round(1)
    again = pd.DataFrame({"cost": costs, "words": words}).duplicated()  # of lines that are alike, the first
    return some.assign(front=np.array(front(costs.tolist(), words.tolist())) & ~again)


def named_lines(some: pd.DataFrame) -> pd.DataFrame:
    """Return the lines that a figure of a front names: the front's, and, where they have most words at 25 %,
    DyCoke, FastV, VisionZip and the best control."""
    quarter = some[some["share"] == 0.25]
    controls = quarter[quarter["group"] == "control"].nlargest(1, "words")
    wanted = quarter[quarter["method"].isin([DYCOKE, "fastv", "visionzip"])]
    return pd.concat([some[some["front"]], wanted, controls]).drop_duplicates("line")


def fronts(table: pd.DataFrame, cost: str, title: str) -> Figure:
    """Draw words right against a cost, a panel for each kind of specimen: the Pareto front as a line,
    controls hollow. Lines that are named have a number, and stand beside the panel. cost: of `COSTS`."""
    kinds = list(dict.fromkeys(table["specimen"]))
    size = (9.4, 4.3 * len(kinds) + 0.9)
    figure, axes = plt.subplots(len(kinds), 2, figsize=size, squeeze=False, width_ratios=(1.15, 1))
    drawn = []
    for (ax, beside), kind in zip(axes, kinds, strict=True):
        some = on_front(table[table["specimen"] == kind], cost)
        for (group, control), rows in some.groupby(["group", some["group"] == "control"], sort=False):
            colour = COLOURS[str(group)]
            face = "none" if control else colour
            ax.scatter(
                rows[cost], rows["words"], 22, facecolor=face, edgecolor=colour, linewidth=1, alpha=0.75
            )
        best = some[some["front"]]
        ax.plot(best[cost], best["words"], color="black", linewidth=1.6, zorder=1)
        named = named_lines(some).sort_values([cost, "words"])
        drawn.append((ax, named[[cost, "words"]].to_numpy(), some[[cost, "words"]].to_numpy()))
        ax.set(xlabel=COSTS[cost], ylabel="words right, %", xlim=(-3, 104), ylim=(_low(some["words"]), 103))
        ax.set_title(kind, fontsize=12)
        ax.xaxis.label.set_size(10)
        _key(beside, named, cost)
    handles = [
        ax.scatter([], [], 30, facecolor="none" if group == "control" else c, edgecolor=c, label=group)
        for group, c in COLOURS.items()
    ]
    figure.legend(handles=handles, loc="lower left", ncols=5, frameon=False, fontsize=10, handletextpad=0.1)
    figure.suptitle(title, x=0.01, y=0.995, ha="left", va="top", fontweight="bold", fontsize=13)
    figure.tight_layout(rect=(0, 0.3 / size[1], 1, 1))  # which leaves room for the title
    for about in drawn:
        _numbers(*about)
    return figure


def _low(words: pd.Series) -> float:
    return float(max(-3, words.min() - 4))


def _numbers(ax: Axes, named: Any, points: Any) -> None:
    """Write 1, 2, 3, ... beside points, where least is covered."""
    ax.figure.canvas.draw()  # type: ignore[attr-defined]
    at, others = ax.transData.transform(named), [(place, 13) for place in ax.transData.transform(points)]
    for number, place in enumerate(at, 1):
        offsets = [
            r * np.array([np.cos(a), np.sin(a)]) for r in (15, 24, 34, 44) for a in np.arange(0.8, 6.9, 0.52)
        ]
        inside = [o for o in offsets if ax.bbox.padded(-6).contains(*(place + o))]
        crowd = [
            sum(max(0.0, room - np.hypot(*(place + o - other))) for other, room in others) for o in inside
        ]
        best = inside[int(np.argmin([c + 0.2 * np.hypot(*o) for c, o in zip(crowd, inside, strict=True)]))]
        others.append((place + best, 24))
        line = dict(arrowstyle="-", color="0.35", linewidth=0.7, shrinkA=4, shrinkB=2)
        ax.annotate(
            str(number), named[number - 1], tuple(best * 72 / ax.figure.dpi), textcoords="offset points",
            fontsize=10, ha="center", va="center", fontweight="bold", arrowprops=line,
        )  # fmt: skip


def _key(ax: Axes, named: pd.DataFrame, cost: str) -> None:
    ax.axis("off")
    step = min(0.075, 1.0 / (len(named) + 1))
    size = 10.0 if len(named) <= 16 else 9.0
    at: Any = dict(transform=ax.transAxes, fontsize=size, va="top")
    ax.text(0, 1, "number, line, tokens left: words at cost", **at, color="0.35")
    for number, row in enumerate(named.to_dict("records"), 1):
        share = "" if row["share"] == 1 else f" {100 * row['share']:.0f} %"
        name = _short("full cache" if row["method"] == "full" else row["name"], 32)
        bold = "bold" if row["front"] else "normal"
        text = f"{number}  {name}{share}: {row['words']:.1f} at {row[cost]:.0f}"
        colour = COLOURS[row["group"]]
        ax.text(0, 1 - number * step, text, **at, color=colour, fontweight=bold)


def _short(text: str, most: int) -> str:
    text = plain(text).replace(", before the LLM", "")  # its colour says where it acts
    if " + " in text:
        text = text.removesuffix(" (DyCoke)")
    return text if len(text) <= most else text[: most - 1] + "…"


def by_share(table: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each method: its name, where it acts, and for each kind of specimen and share its
    words right in %, with a sign of the verdict against DyCoke, and "°" where the share is missed by more
    than `NEAR` points. The best come first, by their mean at 25 and 10 %. found: as `verdicts` has it."""
    rows = table[(table["group"] != ABLATION) & table["share"].isin(SHARES)]
    rows = rows.merge(found, on=["specimen", "group", "share", "method", "line"], how="left")
    off = (rows["survive"] - 100 * rows["share"]).abs() > NEAR
    rows["cell"] = [
        f"{words:.1f}{'°' * miss} {SIGNS.get(said, '')}".strip()
        for words, miss, said in zip(rows["words"], off, rows["verdict"], strict=True)
    ]
    rows["at"] = [
        f"{kind}, {100 * share:.0f} %" for kind, share in zip(rows["specimen"], rows["share"], strict=True)
    ]
    order = rows[rows["share"] < 0.5].groupby("method")["words"].mean().sort_values(ascending=False).index
    cells = rows.pivot_table(index="method", columns="at", values="cell", aggfunc="first", sort=False)
    cells = cells[[f"{kind}, {100 * share:.0f} %" for kind in rows["specimen"].unique() for share in SHARES]]
    about = rows.drop_duplicates("method").set_index("method")[["name", "group"]]
    about = about.rename(columns={"name": "line", "group": "acts"})
    return about.join(cells).loc[order].reset_index(drop=True)


def by_cost(costs: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each measured method: in % of the full cache, but for its own milliseconds.

    costs: as `matrix_costs.cost_table` has it."""
    shown = pd.DataFrame({
        "line": ["full cache" if name == "full" else plain(name_of(name)) for name in costs["method"]],
        "acts": costs["group"], "left": costs["survive"].map("{:.0f}".format),
    })  # fmt: skip
    for stage in ("prefill", "step"):
        shown[f"{stage}, time"] = costs[stage].map("{:.0f}".format)
        shown[f"{stage}, own ms"] = costs[f"own {stage}"].map("{:.1f}".format)
        shown[f"{stage}, FLOPs"] = costs[f"{stage} FLOPs"].map("{:.0f}".format)
        shown[f"{stage}, H100"] = costs[f"H100 {stage}"].map("{:.0f}".format)
    for name in ("held", "read"):
        shown[f"KV cache, {name}"] = costs[name].map("{:.0f}".format)
    return shown


def table_style(table: pd.DataFrame) -> Any:
    """Return a table that fits a page's column: small, the first two columns to the left, DyCoke marked."""
    cells = [
        ("padding", "2px 6px"),
        ("font-size", "12px"),
        ("text-align", "right"),
        ("white-space", "nowrap"),
    ]
    left = [("text-align", "left"), ("white-space", "normal")]
    looks: list[Any] = [
        {"selector": "td, th", "props": cells},
        {"selector": "th.level0", "props": [("text-align", "center")]},
        {"selector": "td.col0, th.level1.col0", "props": [*left, ("min-width", "200px")]},
        {"selector": "td.col1, th.level1.col1", "props": [*left, ("min-width", "105px")]},
    ]
    marked = table.iloc[:, 0] == DYCOKE_NAME
    above = [tuple(name.split(", ")) if ", " in name else ("", name) for name in table.columns]
    table = table.set_axis(pd.MultiIndex.from_tuples(above), axis=1)

    def look(row: Any) -> list[str]:
        weight = "font-weight: bold" if marked[row.name] else ""
        return [f"{weight}; color: {TONES.get(str(cell)[-1:], 'inherit')}" for cell in row]

    return table.style.hide(axis="index").format(na_rep="").apply(look, axis=1).set_table_styles(looks)


def text_style(table: pd.DataFrame, precision: int = 0) -> Any:
    """Return a table of words that fits a page's column: small, to the left, lines broken."""
    look = [
        ("text-align", "left"),
        ("white-space", "normal"),
        ("font-size", "12px"),
        ("vertical-align", "top"),
    ]
    return (
        table.style.hide(axis="index")
        .format(precision=precision)
        .set_table_styles([{"selector": "td, th", "props": look}])
    )


def positions(rows: pd.DataFrame, title: str) -> Figure:
    """Draw words right by scene of the longest answers, a line for each method, a panel for each kind.

    rows: as `matrix_report.positions_of` has it.
    """
    kinds = list(dict.fromkeys(rows["specimen"]))
    figure, axes = plt.subplots(
        1, len(kinds), figsize=(9.4, 4.4), squeeze=False, sharey=True, layout="constrained"
    )
    for ax, kind in zip(axes[0], kinds, strict=True):
        for name, line in rows[rows["specimen"] == kind].groupby("name", sort=False):
            colour, style = _look(line)
            ax.plot(
                line["position"] + 1, line["words"], style, marker="o", color=colour, label=name, linewidth=2
            )
        ax.set_title(kind, fontsize=12)
        ax.set_xticks(range(1, int(rows["position"].max()) + 2))
        ax.set(xlabel="scene of the answer", ylabel="words right, %" if ax is axes[0][0] else "")
    _legend(figure, axes)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=13)
    return figure


def lengths(table: pd.DataFrame, title: str) -> Figure:
    """Draw points of words lost against the full cache, by question, a dot for each method; a panel for each
    kind. table: as `matrix_report.lengths_of` has it."""
    kinds, asked = (
        list(dict.fromkeys(table["specimen"])),
        [q for q in QUESTIONS if q in set(table["question"])],
    )
    figure, axes = plt.subplots(
        1, len(kinds), figsize=(9.4, 4.0), squeeze=False, sharey=True, layout="constrained"
    )
    for ax, kind in zip(axes[0], kinds, strict=True):
        for name, rows in table[table["specimen"] == kind].groupby("name", sort=False):
            lost = rows.set_index("question")["lost"].reindex(asked)
            colour, style = _look(rows)
            ax.plot(range(len(asked)), lost, style, marker="o", color=colour, label=name, linewidth=2)
        ax.set_xticks(range(len(asked)), [QUESTIONS[q] for q in asked])
        ax.margins(x=0.15)
        ax.set_title(kind, fontsize=12)
        ax.set(xlabel="the answer", ylabel="points of words lost" if ax is axes[0][0] else "")
    _legend(figure, axes)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=13)
    return figure


def _look(rows: pd.DataFrame) -> tuple[Any, str]:
    first = rows.iloc[0]
    colour = "black" if first["method"] == "full" else sns.color_palette("colorblind")[first["place"]]
    return colour, "--" if first["control"] else "-"


def _legend(figure: Figure, axes: Any) -> None:
    found: dict[str, Any] = {}
    for ax in axes.flat:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    look: Any = dict(loc="outside lower left", ncols=2, frameon=False, fontsize=10)
    figure.legend(found.values(), found.keys(), **look)
