"""Figures of time and memory, for notebook 10 and for benchmarks of one's own."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from dycoke_lab.bench.roofline import work
from dycoke_lab.bench.summary import (
    JOB,
    RATIOS,
    Line,
    by_config,
    device_of,
    interval,
    table,
    value,
)
from dycoke_lab.methods import colour_of
from dycoke_lab.results.rows import read_rows

STAGES = {
    "encoding frames": "#999999",
    "merging": "#d55e00",
    "prefill": "#0072b2",
    "decoding": "#56b4e9",
    "selecting": "#e69f00",
}
DENOMINATORS = {
    "full": "stock transformers with the full cache, which it copies at each step",
    "full-in-place": "the full cache, written in place",
    "truncated": "caches truncated by hand to the same lengths",
    "merge": "merging alone",
}


def jobs(folder: Path) -> list[list[Line]]:
    """Split `summary.table` into the configs that do the same job."""
    lines = table(folder)
    found = dict.fromkeys(tuple(line[name] for name in JOB) for line in lines if "step" in line)
    return [[line for line in lines if tuple(line[name] for name in JOB) == job] for job in found]


def shown(lines: Sequence[Line]) -> pd.DataFrame:
    """Return `summary.table` in units to read: times, bytes, ratios with their intervals.

    changed: the share of the selected tokens that a step replaced.
    """
    units = {
        "prefill": ("prefill, s", 1),
        "ttft": ("TTFT, s", 1),
        "step": ("step, ms", 1e3),
        "select": ("select, ms", 1e3),
        "held": ("held, MB", 1e-6),
        "read": ("read, MB", 1e-6),
    }
    rows = []
    for line in lines:
        if "step" in line:
            row = {"config": line["config"]}
            row |= {
                n: "" if line[of] is None else f"{line[of] * factor:.4g}" for of, (n, factor) in units.items()
            }
            row["changed, %"] = "" if line["changed"] is None else f"{100 * line['changed']:.0f}"
            rows.append(row | {of: interval(line[of]) for of in RATIOS if of != "step / merge"})
    found = pd.DataFrame(rows).set_index("config")
    return found.loc[:, (found != "").any()]


def stages(lines: Sequence[Line], title: str) -> Figure:
    """Draw how long each stage of one job takes, from the frames to the last token.

    Without an encoding that was measured, bars begin with the prompt.
    """
    drawn = [line for line in lines if "step" in line and line["config"] != "capture"]
    vision = drawn[0]["ttft"] - drawn[0]["prefill"] if drawn[0]["ttft"] else 0.0
    figure, ax = plt.subplots(figsize=(9, 0.42 * len(drawn) + 1.9), layout="constrained")
    for place, line in enumerate(drawn):
        merge, select = line["merge share"] * line["prefill"], line["new_tokens"] * line["select"]
        parts = [vision, merge, line["prefill"] - merge, line["total"] - line["prefill"] - select, select]
        starts = np.cumsum([0.0, *parts[:-1]])
        for name, start, part in zip(STAGES, starts, parts, strict=True):
            label = name if place == 0 and (vision or name != "encoding frames") else None
            ax.barh(place, part, 0.72, start, color=STAGES[name], label=label)
        ax.annotate(f" {sum(parts):.3g} s", (sum(parts), place), va="center", fontsize=10)
    ax.set_yticks(range(len(drawn)), [line["config"] for line in drawn])
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    longest = vision + max(line["total"] for line in drawn)
    ax.set(xlabel="seconds", title=title, xlim=(0, 1.1 * longest))
    figure.legend(loc="outside lower left", ncols=len(STAGES), frameon=False, fontsize=10)
    return figure


def against(lines: Sequence[Line], title: str, to: str = "full-in-place", goal: float = 1.0) -> Figure:
    """Draw DyCoke's decoding steps divided by those of another cache, with their intervals.

    to: "full-in-place", "full", "truncated" or "merge". goal: marked where it is not 1.
    """
    drawn = [line for line in lines if line.get(f"step / {to}") and line["config"].startswith("dycoke")]
    figure, ax = plt.subplots(figsize=(9, 0.36 * len(drawn) + 1.9), layout="constrained")
    colour = colour_of("dynamic")
    for place, line in enumerate(drawn):
        middle, low, high = line[f"step / {to}"]
        ax.errorbar(
            middle, place, xerr=[[middle - low], [high - middle]], marker="o", color=colour, capsize=3
        )
    ax.axvline(1.0, color="0.3", linewidth=1)
    if goal != 1.0:
        ax.axvline(goal, color="#d55e00", linestyle="--", linewidth=1.5, label=f"goal: at most {goal:g}")
        figure.legend(loc="outside lower left", frameon=False, fontsize=11)
    names = [
        f"{line['frames']} frame{'s' * (line['frames'] > 1)}, {line['config'].removeprefix('dycoke ')}"
        for line in drawn
    ]
    ax.set_yticks(range(len(drawn)), names)
    ax.set_ylim(len(drawn) - 0.4, -0.6)
    ax.set(xlabel=f"time of a decoding step, divided by that of\n{DENOMINATORS[to]}", title=title)
    return figure


def roofline(folder: Path, title: str) -> Figure:
    """Draw the speed of each stage over its operations per byte, under this device's measured peak."""
    device, element = device_of(folder)
    figure, ax = plt.subplots(figsize=(8.5, 5), layout="constrained")
    reach = np.logspace(-1, 5, 200)
    ax.plot(reach, np.minimum(device.flops, reach * device.bandwidth) / 1e9, color="0.2", linewidth=2)
    drawn = {"full": "full cache", "dycoke": "DyCoke", "one-shot": "one-shot"}
    colours = {}
    for config, rows in by_config(read_rows(folder)).items():
        rows = [row for row in rows if "error" not in row]
        if config.method not in drawn or not rows:
            continue
        own = work(config, element)
        colours[config.method] = colour_of(config.registered)
        for of, marker, done, moved in (
            ("prefill", "s", own.prefill_flops, own.weights + own.held),
            ("step", "o", own.step_flops, own.step_bytes),
        ):
            speed = done / statistics.median(value(row, of) for row in rows) / 1e9
            ax.plot(done / moved, speed, marker, color=colours[config.method], markersize=8, alpha=0.75)
    key = [("prefill", "s", "0.5"), ("decoding step", "o", "0.5")]
    for label, marker, colour in [
        *key,
        *((drawn[method], "_", colour) for method, colour in colours.items()),
    ]:
        ax.plot(
            [], [], marker, color=colour, label=label, markersize=8, markeredgewidth=3 if marker == "_" else 1
        )
    ax.legend(frameon=False)
    ax.set(xscale="log", yscale="log", title=title)
    ax.set(xlabel="operations per byte of weights, keys and values", ylabel="billion operations per second")
    return figure


def gains(tables: dict[str, pd.DataFrame], title: str) -> Figure:
    """Draw tables of `predictions.gain`, two in a row, in per cent."""
    down = -(-len(tables) // 2)
    figure, axes = plt.subplots(
        down,
        2,
        figsize=(8.5, 3.2 * down + 0.6),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    look = dict(fmt=".0f", cmap="vlag_r", vmin=-60, vmax=60, cbar=False)
    for number, (ax, (name, found)) in enumerate(zip(axes.flat, tables.items(), strict=False)):
        values = (100 * found).round() + 0.0  # without -0
        sns.heatmap(values, ax=ax, annot=True, annot_kws={"fontsize": 11}, **look)
        ax.set_title(name, fontsize=12, fontweight="normal")
        ax.tick_params(axis="y", rotation=0)
        ax.set(ylabel="" if number % 2 else "frames")
        ax.set(xlabel="batch" if number // 2 == down - 1 else "")
    for ax in list(axes.flat)[len(tables) :]:
        ax.remove()
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure
