"""Figures and tables of time and memory, for notebook 08 and for one's own benches."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from dycoke_lab import flops
from dycoke_lab.case import Case
from dycoke_lab.cost import Device, columns, prediction, work
from dycoke_lab.report import by_case, device_of, read, table, value
from dycoke_lab.shapes import SHAPES

STAGES = {
    "encoding frames": "#999999",
    "merging": "#d55e00",
    "reading the prompt": "#0072b2",
    "decoding": "#56b4e9",
    "selecting": "#e69f00",
}
# what the paper's Table 1 says of its settings: retained tokens and FLOPs, in per cent and in T; FastV keeps 35 % from L = 3 on
PAPER: list[tuple[str, str, float, float, float, float]] = [
    ("llava-ov-0.5b", "full", 0.0, 0.0, 100.0, 3.4), ("llava-ov-0.5b", "fastv", 0.0, 0.65, 35.0, 1.4),
    ("llava-ov-0.5b", "dycoke", 0.3, 0.7, 23.25, 2.4), ("llava-ov-0.5b", "dycoke", 0.5, 0.7, 18.75, 1.8),
    ("llava-ov-0.5b", "dycoke", 0.7, 0.7, 14.25, 1.2), ("llava-ov-7b", "full", 0.0, 0.0, 100.0, 41.4),
    ("llava-ov-7b", "fastv", 0.0, 0.65, 35.0, 17.9), ("llava-ov-7b", "dycoke", 0.3, 0.7, 23.25, 30.8),
    ("llava-ov-7b", "dycoke", 0.5, 0.7, 18.75, 24.1), ("llava-ov-7b", "dycoke", 0.7, 0.7, 14.25, 17.9),
]  # fmt: skip


def stages(lines: Sequence[dict[str, Any]], title: str) -> Figure:
    """Of one job, from `report.table`: how long each stage takes, from the frames to the last word. Without an encoding that was
    measured, bars begin with the prompt."""
    vision = next((line["vision"] for line in lines if "vision" in line), 0.0)
    shown = [line for line in lines if "step" in line and line["case"] != "capture"]
    figure, ax = plt.subplots(figsize=(9.5, 0.42 * len(shown) + 1.9), layout="constrained")
    for place, line in enumerate(shown):
        merge, select = line["merge share"] * line["prefill"], line["new_tokens"] * line["select"]
        parts = [vision, merge, line["prefill"] - merge, line["total"] - line["prefill"] - select, select]
        starts = np.cumsum([0.0, *parts[:-1]])
        for name, start, part in zip(STAGES, starts, parts, strict=True):
            ax.barh(
                place,
                part,
                0.72,
                start,
                color=STAGES[name],
                label=name if place == 0 and (vision or name != "encoding frames") else None,
            )
        ax.annotate(f" {sum(parts):.1f} s", (sum(parts), place), va="center", fontsize=10)
    ax.set_yticks(range(len(shown)), [line["case"] for line in shown])
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    longest = vision + max(line["total"] for line in shown)
    ax.set(xlabel="seconds", title=title, xlim=(0, 1.1 * longest))
    figure.legend(loc="outside lower left", ncols=len(STAGES), frameon=False, fontsize=10)
    return figure


def against(lines: Sequence[dict[str, Any]], to: str, goal: float, title: str) -> Figure:
    """Ratios of decoding steps with their intervals, a dot for each case. to: "cut" or "full"."""
    shown = [line for line in lines if line.get(f"step / {to}") and line["case"].startswith("dycoke")]
    figure, ax = plt.subplots(figsize=(9.5, 0.36 * len(shown) + 1.6), layout="constrained")
    for place, line in enumerate(shown):
        middle, low, high = line[f"step / {to}"]
        ax.errorbar(middle, place, xerr=[[middle - low], [high - middle]], marker="o", color="#0072b2", capsize=3)
    ax.axvline(1.0, color="0.3", linewidth=1)
    if goal != 1.0:
        ax.axvline(goal, color="#d55e00", linestyle="--", linewidth=1.5)
        ax.annotate(
            f"goal: at most {goal:g} ",
            (goal, 1),
            xycoords=("data", "axes fraction"),
            color="#d55e00",
            va="top",
            ha="right",
            fontsize=10,
        )
    ax.set_yticks(
        range(len(shown)),
        [f"{line['frames']} frame{'s' * (line['frames'] > 1)}, {line['case'].removeprefix('dycoke ')}" for line in shown],
    )
    ax.invert_yaxis()
    whole = {"cut": "stock transformers on caches cut by hand", "full": "stock transformers with the full cache"}[to]
    ax.set(xlabel=f"time of a decoding step, by that of {whole}", title=title)
    return figure


def roofline(out: Path, title: str) -> Figure:
    """What each stage reaches, by how much arithmetic it has for each byte, under this device's measured peak."""
    device, element = device_of(out)
    figure, ax = plt.subplots(figsize=(8.5, 5), layout="constrained")
    reach = np.logspace(-1, 5, 200)
    ax.plot(reach, np.minimum(device.flops, reach * device.bandwidth) / 1e9, color="0.2", linewidth=2)
    for case, rows in by_case(read(out)).items():
        rows = [row for row in rows if "error" not in row]
        if case.method not in ("full", "dycoke", "one-shot") or not rows:
            continue
        own = work(case, element)
        colour = {"full": "black", "dycoke": "#0072b2", "one-shot": "#d55e00"}[case.method]
        for of, marker, done, moved in (
            ("prefill", "s", own.prefill_flops, own.weights + own.held),
            ("step", "o", own.step_flops, own.step_bytes),
        ):
            speed = done / statistics.median(value(row, of) for row in rows) / 1e9
            ax.plot(done / moved, speed, marker, color=colour, markersize=8, alpha=0.75)
    key = [("prefill", "s", "0.5"), ("decoding step", "o", "0.5"), ("full cache", "_", "black"), ("DyCoke", "_", "#0072b2")]
    for label, marker, colour in [*key, ("one-shot", "_", "#d55e00")]:
        ax.plot([], [], marker, color=colour, label=label, markersize=8, markeredgewidth=3 if marker == "_" else 1)
    ax.legend(frameon=False)
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="operations for each byte of weights, keys and values",
        ylabel="billion operations a second",
        title=title,
    )
    return figure


def agreement(out: Path) -> pd.DataFrame:
    """The least time that the model of cost finds for each stage, and what was measured: its share of the roofline."""
    rows = []
    for case, found in by_case(read(out)).items():
        good = [row for row in found if "error" not in row]
        if not good or case.method == "capture":
            continue
        device, element = device_of(out, good[0]["run"])
        changed = [row["changed"] for row in good if row.get("changed") is not None]
        least = prediction(case, device, element, statistics.mean(changed) if changed else 0.0)
        for of in ("vision",) if case.method == "vision" else ("prefill", "step"):
            took = statistics.median(row["vision"] if of == "vision" else value(row, of) for row in good)
            rows.append(
                {"case": case.label, "stage": of, "model, s": least[of], "measured, s": took, "model / measured": least[of] / took}
            )
    return pd.DataFrame(rows)


def gain(
    shape: str,
    device: Device,
    prune: float,
    changed: float,
    frames: Sequence[int],
    batches: Sequence[int],
    merge: float = 0.7,
    element: int = 2,
) -> pd.DataFrame:
    """Share of a decoding step's time that dynamic pruning saves after merging, by the model of cost: frames x batch. Both write
    in place."""
    found = pd.DataFrame(index=pd.Index(frames, name="frames"), columns=pd.Index(batches, name="batch"), dtype=float)
    for number in frames:
        for batch in batches:
            case = Case(shape, number, batch, 64, "dycoke", merge, prune)
            without = replace(case, prune_ratio=0.0)
            found.loc[number, batch] = (
                1 - prediction(case, device, element, changed)["step"] / prediction(without, device, element)["step"]
            )
    return found


def gains(tables: dict[str, pd.DataFrame], title: str) -> Figure:
    """Such tables side by side."""
    size = 3.3 * len(tables) + 0.6, 3.9
    figure, axes = plt.subplots(1, len(tables), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for ax, (name, found) in zip(axes.flat, tables.items(), strict=True):
        sns.heatmap(
            100 * found, ax=ax, annot=True, fmt=".0f", cmap="vlag_r", vmin=-60, vmax=60, cbar=False, annot_kws={"fontsize": 10}
        )
        ax.set_title(name, fontsize=11, fontweight="normal")
        ax.tick_params(axis="y", rotation=0)
        ax.set(ylabel="frames" if ax is axes[0, 0] else "")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def memory(
    shape: str, frames: Sequence[int], batches: Sequence[int], merge: float = 0.7, prune: float = 0.7, element: int = 2
) -> pd.DataFrame:
    """Gigabytes on the device after 64 words, by shape: weights, and keys and values of each way to wait."""

    def held(case: Case) -> float:
        return work(case, element).held / 1e9

    rows = []
    for number, batch in product(frames, batches):
        full = Case(shape, number, batch, 64, "full")
        ours = Case(shape, number, batch, 64, "dycoke", merge, prune)
        logits = work(replace(full, whole_logits=True), element).logits_bytes / 1e9
        rows.append({
            "frames": number, "batch": batch, "weights": SHAPES[shape].parameters * element / 1e9, "full cache": held(full),
            "merged": held(replace(ours, prune_ratio=0.0)), "waiting on the device": held(ours),
            "waiting on the host": held(replace(ours, waiting="host")), "waiting nowhere": held(replace(ours, waiting="nowhere")),
            "logits of the whole prompt": logits,
        })  # fmt: skip
    return pd.DataFrame(rows)


def paper() -> pd.DataFrame:
    """The paper's FLOPs column, its formula, an honest count of prompt, merging, one word, selecting; and what is saved."""
    rows = []
    for name, method, k, p, retained, theirs in PAPER:
        shape = SHAPES[name]
        case = Case(name, 32, 1, 64, method, k, p)
        at, own, full = columns(case), work(case), work(Case(name, 32, 1, 64, "full"))
        visual = [at.visual] * shape.layers if method != "fastv" else [at.visual] * case.score_layer + [at.kept] * at.pruned
        formula = sum(flops.prefill_flops(n, 1, shape.hidden, shape.mlp) for n in visual)
        whole = flops.prefill_flops(6272, shape.layers, shape.hidden, shape.mlp)
        honest = 1 - (own.prefill_flops + own.merge_flops) / full.prefill_flops
        rows.append({
            "model": name, "setting": case.label, "retained, % (paper)": retained, "FLOPs, T (paper)": theirs,
            "its formula, T": formula / 1e12, "honest, T": own.prefill_flops / 1e12, "merging, G": own.merge_flops / 1e9,
            "one word, G": own.step_flops / 1e9, "selecting, G": own.select_flops / 1e9,
            "saved, % (its formula)": 100 * (1 - formula / whole), "saved, % (honest)": 100 * honest,
        })  # fmt: skip
    return pd.DataFrame(rows)


def shown(lines: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """`report.table` to look at: times, bytes, the share of the selection that a step replaced, ratios with their intervals."""
    units = {
        "prefill": ("prefill, s", 1), "first word": ("first word, s", 1), "step": ("step, ms", 1e3),
        "select": ("select, ms", 1e3), "held": ("held, MB", 1e-6), "read": ("read, MB", 1e-6),
    }  # fmt: skip

    def interval(found: Any) -> str:
        return "" if found is None else "{:.2f} [{:.2f}, {:.2f}]".format(*found).removesuffix(" [nan, nan]")

    found = pd.DataFrame([
        {"case": line["case"]}
        | {name: "" if line[of] is None else f"{line[of] * factor:.4g}" for of, (name, factor) in units.items()}
        | {"changed, %": "" if line["changed"] is None else f"{100 * line['changed']:.0f}"}
        | {of: interval(line[of]) for of in ("prefill / full", "step / full", "step / cut", "total / full")}
        for line in lines if "step" in line
    ]).set_index("case")  # fmt: skip
    return found.loc[:, (found != "").any()]


def jobs(out: Path) -> list[list[dict[str, Any]]]:
    """`report.table`, cut into what does the same job; encodings go with the job of as many frames."""
    lines = table(out)
    keys = dict.fromkeys((line["frames"], line["batch"], line["new_tokens"]) for line in lines if "step" in line)
    return [
        [line for line in lines if (line["frames"], line["batch"], line["new_tokens"]) == key
         or ("vision" in line and (line["frames"], line["batch"]) == key[:2])] for key in keys
    ]  # fmt: skip
