"""Figures of the lab: colour-blind safe, labelled axes, a title that states the finding (given by the caller)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from dycoke_lab.tables import METHOD_NAMES

_COLOURS = sns.color_palette("colorblind")
METHOD_COLOURS = {
    "full cache": "black", "dynamic (DyCoke)": _COLOURS[0], "first step only": _COLOURS[4], "reference code": _COLOURS[5],
    "one-shot, last query": _COLOURS[3], "one-shot, FastV": _COLOURS[1], "random": _COLOURS[7], "uniform": _COLOURS[2],
    "keep first": _COLOURS[8], "no video from L on": _COLOURS[6], "oracle (sees the future)": _COLOURS[9],
}  # fmt: skip
MERGED, KEPT, WAITING, BACK = "#e69f00", "#0072b2", "#d9d9d9", "#d55e00"
TRUTH, WRONG = "#009e73", "#b40426"


def style() -> None:
    """Set the lab's look: large enough for the last row of a lecture room."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind", font_scale=1.1)
    plt.rcParams.update({"figure.dpi": 110, "savefig.bbox": "tight", "axes.titleweight": "bold", "axes.titlelocation": "left"})


def show_frame(
    ax: Axes, pixels: Tensor, *, weight: Tensor | None = None, shade: Tensor | None = None, outline: Tensor | None = None,
    top: float | None = None, title: str = "",
) -> None:  # fmt: skip
    """One frame (3, height, width), 0 to 1. Per visual token, (rows, cols): weight is drawn as brightness up to
    `top`, shade greys out what is not there, outline draws a box around what is meant."""
    picture = pixels.permute(1, 2, 0).numpy()
    height, width = picture.shape[:2]
    if weight is not None:
        light = (weight / (top or float(weight.max()) or 1.0)).clamp(0, 1).numpy()
        light = np.kron(light, np.ones((height // light.shape[0], width // light.shape[1])))[..., None]
        picture = picture * (0.3 + 0.7 * light)
    ax.imshow(picture, interpolation="nearest", extent=(0, width, height, 0))
    for mask, style_ in ((shade, dict(facecolor="#ffffff", alpha=0.82, edgecolor="none")),
                         (outline, dict(fill=False, edgecolor=BACK, linewidth=2.5))):  # fmt: skip
        if mask is not None:
            high, wide = height / mask.shape[0], width / mask.shape[1]
            for row, col in mask.nonzero().tolist():
                ax.add_patch(Rectangle((col * wide, row * high), wide, high, **style_))  # type: ignore[arg-type]
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=10, loc="center", fontweight="normal")


def filmstrip(pixels: Tensor, titles: Sequence[str], title: str, per_row: int = 8, **masks: Tensor | float | None) -> Figure:
    """Frames (frames, 3, height, width) in rows; masks as in `show_frame`, each (frames, rows, cols)."""
    rows = -(-len(pixels) // per_row)
    figure, axes = plt.subplots(rows, per_row, figsize=(1.45 * per_row, 1.8 * rows + 0.5), squeeze=False, layout="constrained")
    for number, ax in enumerate(axes.flat):
        if number < len(pixels):
            here = {name: mask[number] if isinstance(mask, Tensor) else mask for name, mask in masks.items()}
            show_frame(ax, pixels[number], title=titles[number], **here)  # type: ignore[arg-type]
        else:
            ax.axis("off")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def steps_by_frames(per_frame: Tensor, words: Sequence[str], scene_of_frame: Sequence[int], scene_of_step: Sequence[int],
                    title: str) -> Figure:  # fmt: skip
    """(steps, frames): where each step's attention within the video goes; the frames a word is about are boxed."""
    share = (per_frame / per_frame.sum(1, keepdim=True)).numpy()
    figure, ax = plt.subplots(figsize=(9, 0.3 * len(words) + 1.4), layout="constrained")
    sns.heatmap(share, ax=ax, cmap="rocket_r", vmin=0, yticklabels=list(words),
                cbar_kws={"label": "share of the step's\nattention within the video"})  # fmt: skip
    scenes = np.asarray(scene_of_frame)
    for step, scene in enumerate(scene_of_step):
        there = (scenes == scene).nonzero()[0]
        if len(there):
            ax.add_patch(Rectangle((there[0], step), len(there), 1, fill=False, edgecolor=KEPT, linewidth=2))
    ax.tick_params(axis="y", rotation=0)
    ax.set(xlabel="frame of the video", ylabel="word being written", title=title)
    return figure


def lines(table: pd.DataFrame, x: str, y: str, hue: str | None, title: str, xlabel: str, ylabel: str, chance: float | None = None,
          **options: Any) -> Figure:  # fmt: skip
    """Curves of a tidy table that has y, "low" and "high" columns: a line with its 95 % band."""
    figure, ax = plt.subplots(figsize=(8.5, 4.6), layout="constrained")
    groups = [("", table)] if hue is None else list(table.groupby(hue, sort=False))
    colours = options.get("palette", {})
    for number, (name, group) in enumerate(groups):
        colour = colours.get(name, _COLOURS[number % len(_COLOURS)])
        ax.plot(group[x], group[y], marker="o", markersize=5, color=colour, label=str(name))
        ax.fill_between(group[x], group["low"], group["high"], color=colour, alpha=0.2, linewidth=0)
    if chance is not None:
        ax.axhline(chance, color="0.4", linestyle="--", linewidth=1)
        ax.annotate("chance", (1.01, chance), xycoords=("axes fraction", "data"), va="center", color="0.4")
    if hue is not None:
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, title=options.get("legend"))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    return figure


def by_position(table: pd.DataFrame, title: str, methods: Sequence[str], columns: str = "merge_ratio", rows: str = "prune_ratio"
                ) -> Figure:  # fmt: skip
    """Accuracy by position in the answer, a panel per setting, from `tables.accuracy`. Full cache is the black line."""
    parts = table[table["measure"].str.startswith("part")].assign(scene=lambda t: t["measure"].str.split().str[1].astype(int) + 1)
    across, down = sorted(parts[columns].unique()), sorted(set(parts[rows]) - {0.0})
    figure, axes = plt.subplots(len(down), len(across), figsize=(4 * len(across) + 2.5, 3.3 * len(down) + 0.6), sharex=True,
                                sharey=True, squeeze=False, layout="constrained")  # fmt: skip
    for (i, j), ax in np.ndenumerate(axes):
        here = parts[(parts[columns] == across[j]) & (parts[rows].isin([0.0, down[i]]))]
        for number, method in enumerate(methods):
            line, name = here[here["method"] == method], METHOD_NAMES.get(method, method)
            where = line["scene"] + 0.05 * (number - len(methods) / 2)
            spread = [100 * (line["mean"] - line["low"]), 100 * (line["high"] - line["mean"])]
            ax.errorbar(where, 100 * line["mean"], spread, color=METHOD_COLOURS[name], label=name, marker="o", markersize=4,
                        capsize=2, linewidth=2.5 if method in ("full", "dynamic") else 1.5)  # fmt: skip
        ax.set_title(f"merging K = {across[j]:g}, pruning P = {down[i]:g}", fontsize=11, fontweight="normal")
        ax.set(xticks=sorted(parts["scene"].unique()), xlabel="scene being described" if i == len(down) - 1 else "",
               ylabel="words right, %" if j == 0 else "")  # fmt: skip
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def bars(table: pd.DataFrame, title: str, ylabel: str, x: str = "method", hue: str | None = None) -> Figure:
    """Means with 95 % intervals, in per cent, from `tables.accuracy`."""
    names, kinds = list(table[x].unique()), [None] if hue is None else list(table[hue].unique())
    figure, ax = plt.subplots(figsize=(9, 0.42 * len(names) * len(kinds) ** 0.5 + 1.8), layout="constrained")
    for number, kind in enumerate(kinds):
        here = table if hue is None else table[table[hue] == kind]
        place = np.array([names.index(name) for name in here[x]]) + 0.8 / len(kinds) * (number - (len(kinds) - 1) / 2)
        spread = [100 * (here["mean"] - here["low"]), 100 * (here["high"] - here["mean"])]
        ax.barh(place, 100 * here["mean"], 0.75 / len(kinds), xerr=spread, color=_COLOURS[[0, 1, 2, 4][number]], label=kind,
                error_kw=dict(ecolor="0.2", capsize=2))  # fmt: skip
    ax.set_yticks(range(len(names)), [METHOD_NAMES.get(name, str(name)) for name in names])
    ax.invert_yaxis()
    ax.set(xlabel=ylabel, title=title, xlim=(0, 103))
    ax.grid(axis="y", visible=False)
    if hue is not None:
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


def token_states(kept: Tensor, available: Tensor, words: Sequence[str], tokens_per_frame: int, title: str) -> Figure:
    """(steps, visual) kept and (visual,) available after merging: which tokens are in, wait, or have just come back."""
    before = kept.roll(1, 0)
    before[0] = kept[0]
    state = np.where(kept, 1, 0)
    state[(kept & ~before).numpy()] = 2
    state = state[:, available.numpy()]
    figure, ax = plt.subplots(figsize=(10.5, 0.28 * len(words) + 1.6), layout="constrained")
    ax.imshow(state, cmap=ListedColormap([WAITING, KEPT, BACK]), vmin=0, vmax=2, aspect="auto", interpolation="nearest")
    frames = available.nonzero()[:, 0].numpy() // tokens_per_frame
    starts = [0, *(np.diff(frames).nonzero()[0] + 1)]
    ax.set_xticks(np.array(starts) - 0.5, [str(frames[s]) for s in starts])
    ax.set_yticks(range(len(words)), list(words))
    ax.grid(visible=False)
    for colour, name in ((KEPT, "attended"), (BACK, "just came back"), (WAITING, "waiting")):
        ax.plot([], [], "s", color=colour, label=name)
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    ax.set(xlabel="visual tokens that merging left, by frame", ylabel="word being written", title=title)
    return figure
