"""Figures of notebooks 03 and 04: which head and layer aim, and how far attention moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from dycoke_lab.evaluation.blocking import aim_of
from dycoke_lab.methods import Compression, colour_of
from dycoke_lab.specimen.clips import clip_names
from dycoke_lab.viz.clip_runs import Clip, ClipRun, ClipRunner
from dycoke_lab.viz.plots import ACTIVE, RETURNED, RIGHT_ANSWER

Places = Sequence[tuple[int, int]]  # layers and heads


def two_heads(
    values: Tensor, named: Tensor, title: str, names: Sequence[str] = ("head 0", "head 1")
) -> Figure:
    """Draw a few numbers by hand: a bar a token, in % of all attention, a panel a head; green: named.

    values: (heads, tokens). named: (tokens,) of bool.
    """
    figure, axes = plt.subplots(
        1, len(values), figsize=(4.2 * len(values), 2.9), sharey=True, squeeze=False, layout="constrained"
    )
    for ax, row, name in zip(axes[0], values, names, strict=True):
        colours = [RIGHT_ANSWER if here else "#999999" for here in named.tolist()]
        bars = ax.bar(range(len(row)), 100 * row.numpy(), color=colours)
        ax.bar_label(bars, fmt="%.0f", fontsize=10)
        share = f"aim {100 * float(aim_of(row, named)):.0f} %"
        ax.set_title(f"{name}: {share}", fontsize=11, fontweight="normal")
        ax.set(xlabel="visual token", ylabel="attention, %" if ax is axes[0, 0] else "")
        ax.grid(visible=False, axis="x")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def heads_on_frames(clip: Clip, run: ClipRun, step: int, places: Places, title: str) -> Figure:
    """Draw one step's attention over the frames of the scene that the word names and those beside it, a row
    for each (layer, head). Colour is attention, relative to the row's strongest token; boxes: named."""
    named = clip.named(step)
    first = int(named.flatten(1).any(1).nonzero()[0])
    shown = range(max(0, first - 2), min(len(clip.pixels), first + 5))
    size = (1.75 * len(shown) + 0.4, 2.0 * len(places) + 0.6)
    figure, axes = plt.subplots(len(places), len(shown), figsize=size, squeeze=False, layout="constrained")
    for row, (layer, head) in zip(axes, places, strict=True):
        values = run.trace.attention[step][layer, head, 0]
        share = f"{100 * float(aim_of(values, named.flatten())):.0f} %"
        weight = clip.grid(values / values.max())
        for ax, frame in zip(row, shown, strict=True):
            _overlay(ax, clip.pixels[frame], weight[frame], named[frame])
            ax.set_title(f"frame {frame}", fontsize=11, fontweight="normal", loc="center")
        row[0].set_ylabel(f"layer {layer}, head {head}\naim {share}", fontsize=11)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def _overlay(ax: Axes, pixels: Tensor, weight: Tensor, named: Tensor) -> None:
    """Draw a frame in grey, attention on it in colour, a box around what is named."""
    grey = pixels.mean(0).numpy()
    height, width = grey.shape
    ax.imshow(grey, cmap="gray", vmin=0, vmax=1.3, extent=(0, width, height, 0), interpolation="nearest")
    look: dict[str, Any] = dict(cmap="inferno", vmin=0, vmax=1, extent=(0, width, height, 0))
    ax.imshow(
        weight.numpy(), alpha=(0.75 * weight.sqrt()).clamp(0, 1).numpy(), interpolation="nearest", **look
    )
    high, wide = height / named.shape[0], width / named.shape[1]
    for r, c in named.nonzero().tolist():
        box = Rectangle((c * wide, r * high), wide, high, fill=False, edgecolor=RIGHT_ANSWER, linewidth=2)
        ax.add_patch(box)
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)


def clip_aims(runner: ClipRunner, world: str) -> tuple[Tensor, Tensor]:
    """Return the aim of each head, (layers, heads), and of the mean over heads, (layers,), mean over all
    words that name something in the sample clips of a world, without compression."""
    by_head, by_mean = [], []
    for name in clip_names(world):
        clip, run = runner.clip(name), runner.run(name, Compression())
        for step in naming_steps(clip):
            if step < len(run.words):
                named, attention = clip.named(step).flatten(), run.trace.attention[step][:, :, 0]
                by_head.append(aim_of(attention, named))
                by_mean.append(aim_of(attention.mean(1), named))
    return torch.stack(by_head).mean(0), torch.stack(by_mean).mean(0)


def naming_steps(clip: Clip) -> list[int]:
    """Return the steps whose right word names something in the clip."""
    return [step for step in range(len(clip.answer) - 1) if clip.named(step).any()]


def even_aim(clip: Clip) -> float:
    """Return the aim that even attention would have, mean over the words of a clip."""
    return float(torch.stack([clip.named(step).float().mean() for step in naming_steps(clip)]).mean())


def clearest_step(clip: Clip, run: ClipRun, layer: int, head: int) -> int:
    """Return the step at which a head aims best, of the steps whose word is right."""
    right = [step for step in naming_steps(clip) if run.words[step : step + 1] == [clip.answer[step]]]
    aims = [
        float(aim_of(run.trace.attention[step][layer, head, 0], clip.named(step).flatten())) for step in right
    ]
    return right[int(np.argmax(aims))]


def mean_or_best(by_head: Tensor, by_mean: Tensor, title: str) -> Figure:
    """Draw the aim of each head as a dot, of the best head and of the mean over heads as lines, by layer."""
    figure, ax = plt.subplots(figsize=(8.5, 4.4), layout="constrained")
    layers = range(len(by_head))
    for head in by_head.T:
        ax.plot(layers, 100 * head, "o", color="0.6", markersize=5)
    ax.plot(layers, 100 * by_head.amax(1), color=RETURNED, linewidth=2.5, label="the layer's best head")
    ax.plot(layers, 100 * by_mean, color=ACTIVE, linewidth=2.5, label="the mean over heads")
    ax.plot([], [], "o", color="0.6", label="each head")
    ax.legend(frameon=False)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="layer", ylabel="aim, %", title=title, ylim=(0, None))
    return figure


def reading_table(diagnoses: pd.DataFrame, specimen: str, prune_ratio: float) -> pd.DataFrame:
    """Return, by L, in %, mean over seeds: unread, and the words that change under dynamic pruning.
    diagnoses: as `evaluation.evidence` has them."""
    rows = diagnoses[(diagnoses["specimen"] == specimen) & (diagnoses["prune_ratio"] == prune_ratio)]
    found = 100 * rows[rows["method"] == "dynamic"].groupby("from_layer")[["unread", "changed"]].mean()
    found.index = found.index.astype(int)
    return found


def reading_lines(table: pd.DataFrame, most: float, layer: int, title: str) -> Figure:
    """Draw unread, and what dynamic pruning changes, against L; the L that was chosen, and the % that it may
    change at most. table: of `reading_table`."""
    figure, ax = plt.subplots(figsize=(8.5, 4.4), layout="constrained")
    ax.plot(
        table.index,
        table["unread"],
        "o-",
        color="0.4",
        linewidth=2.5,
        label="still needed from L on (unread)",
    )
    look: dict[str, Any] = dict(color=colour_of("dynamic"), linewidth=2.5)
    ax.plot(table.index, table["changed"], "D-", label="dynamic pruning from L on", **look)
    ax.axhline(most, color="0.4", linestyle=":", label=f"{most:g} %")
    ax.axvline(layer, color=RETURNED, linestyle="--", label=f"L = {layer}, chosen")
    ax.legend(frameon=False)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="L, the first pruned layer", ylabel="words that change, %", title=title, ylim=(0, None))
    return figure


def walks(maps: Mapping[str, Any], title: str) -> Figure:
    """Draw (steps, frames) for each specimen: which frame gets how much of each step's attention."""
    size = (4.8 * len(maps), 4.6)
    figure, axes = plt.subplots(1, len(maps), figsize=size, squeeze=False, layout="constrained")
    for ax, (name, where) in zip(axes[0], maps.items(), strict=True):
        picture = ax.imshow(100 * where, aspect="auto", cmap="rocket_r", vmin=0, interpolation="nearest")
        label = "attention within the video, %" if ax is axes[0, -1] else ""
        figure.colorbar(picture, ax=ax, label=label)
        ax.set(xlabel="frame", ylabel="step" if ax is axes[0, 0] else "")
        ax.set_title(name, fontsize=11, fontweight="normal")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(visible=False)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def correlation_of_walk(where: Any) -> float:
    """Return the correlation of a step's number with the mean frame that it attends to."""
    where = np.asarray(where)
    return float(np.corrcoef(np.arange(len(where)), where @ np.arange(where.shape[1]))[0, 1])


def step_lines(
    tables: Mapping[str, pd.DataFrame], names: Mapping[str, str], title: str, ylabel: str,
    baseline: float | None = None, baseline_label: str = "",
) -> Figure:  # fmt: skip
    """Draw measures by step, in %, a panel a specimen: the mean, and a band from the lowest to the highest
    tenth of videos. tables: of `first_look.by_step`. names: what each measure is called."""
    size = (4.8 * len(tables), 4.4)
    figure, axes = plt.subplots(
        1, len(tables), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    colours = dict(zip(names, (RETURNED, ACTIVE), strict=False))
    for ax, (specimen, table) in zip(axes[0], tables.items(), strict=True):
        for measure, name in names.items():
            rows = table[(table["measure"] == measure) & table["mean"].notna()]
            ax.plot(rows["step"], 100 * rows["mean"], "o-", color=colours[measure], markersize=4, label=name)
            band = 100 * rows["low"], 100 * rows["high"]
            ax.fill_between(rows["step"], *band, color=colours[measure], alpha=0.18, linewidth=0)
        if baseline is not None:
            ax.axhline(100 * baseline, color="0.4", linestyle="--", linewidth=1, label=baseline_label)
        ax.set_title(specimen, fontsize=11, fontweight="normal")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set(xlabel="step", ylabel=ylabel if ax is axes[0, 0] else "", ylim=(0, None))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=11)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def cosine_bars(table: pd.DataFrame, title: str) -> Figure:
    """Draw the cosine with the step before, of tokens and of frames, by what lies between the two steps.

    table: columns specimen, between, cosine_to_previous, by_frame.
    """
    long = table.melt(["specimen", "between"], ["cosine_to_previous", "by_frame"], "of", "cosine")
    long["of"] = long["of"].map({"cosine_to_previous": "over tokens", "by_frame": "over frames"})
    names = list(long["specimen"].unique())
    size = (4.8 * len(names), 4.2)
    figure, axes = plt.subplots(1, len(names), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for ax, name in zip(axes[0], names, strict=True):
        rows = long[long["specimen"] == name]
        look: dict[str, Any] = dict(palette=[ACTIVE, "0.7"], errorbar=None, legend=False)
        sns.barplot(rows, x="between", y="cosine", hue="of", ax=ax, **look)
        for group in ax.containers:
            ax.bar_label(group, fmt="%.2f", fontsize=10)
        ax.set_title(name, fontsize=11, fontweight="normal")
        ax.set(xlabel="between the two steps", ylabel="cosine with the step before", ylim=(0, 1.06))
    bars, names_of = axes[0, 0].containers, list(long["of"].unique())
    figure.legend(bars, names_of, loc="outside lower center", ncols=2, frameon=False, fontsize=11)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure
