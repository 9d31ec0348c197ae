"""Figures of the course's notebooks 09 to 11: does it hold, what does it buy, and methods of one's
own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from dycoke_lab.bench.break_even import Selecting
from dycoke_lab.methods import colour_of, label_of
from dycoke_lab.specimen.world import World
from dycoke_lab.viz import evidence_figures, plots

OWN, FASTV, PLAIN = "#cc78bc", colour_of("fastv"), "#949494"
PARTS = {"weights": "#999999", "keys and values": "#0072b2", "free": "#ffffff"}


def motions(world: World, seed: int = 5, frames: int = 8) -> Figure:
    """Draw one video of two scenes for each motion of the camera, a row each; a line surrounds the visual
    tokens with writing on them."""
    figure, axes = plt.subplots(
        len(world.motions), frames, figsize=(1.3 * frames, 1.75 * len(world.motions)), layout="constrained"
    )
    for row, motion in zip(axes, world.motions, strict=True):
        video = world.draw(1, 2, torch.Generator().manual_seed(seed), "test", motion)
        written = (video.actor[0] >= 0).unflatten(1, (world.grid, world.grid))
        answer = " , ".join(" ".join(scene) for scene in world.shown(video)[0])
        for number, ax in enumerate(row[: len(video.pixels[0])]):
            plots.show_frame(ax, video.pixels[0, number], outline=written[number])
        for ax in row[len(video.pixels[0]) :]:
            ax.axis("off")
        said = row[0].text(0, 1.06, f"{motion}: “{answer}”", transform=row[0].transAxes, fontsize=11)
        said.set_in_layout(False)  # or its width would be kept free above the first frame alone
    figure.get_layout_engine().set(h_pad=0.17)  # type: ignore[union-attr, call-arg]
    title = "footage: scans of digits over photographs; the words name three digits a scene"
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def lost_by_layer(table: pd.DataFrame, name: str, layer: int, paper: int = 3) -> Figure:
    """Draw points of words lost against L: a line for each method, a dot for each seed; the paper's L
    and the chosen one are marked. table: columns method, seed, from_layer, lost."""
    mean = table.groupby(["method", "from_layer"])["lost"].mean().unstack("method")
    at, low = mean.loc[layer], mean.loc[paper]
    title = (
        f"{name}, P = 0.9: at L = {layer} a choice at every step loses {at['dynamic']:.1f} points, "
        f"one choice {at['last_query']:.1f};\nat the paper's L = {paper}: {low['dynamic']:.0f} and "
        f"{low['last_query']:.0f}, a uniform stride {low['uniform']:.0f}"
    )
    figure = evidence_figures.method_lines(
        table.assign(mean=table["lost"] / 100), "from_layer", title, "L, the first pruned layer",
        "points of words lost", methods=["dynamic", "last_query", "uniform", "keep_none"], at_start=True,
    )  # fmt: skip
    places = sorted(table["from_layer"].unique())
    for number, said in ((paper, "the paper's"), (layer, "chosen on\nother videos")):
        figure.axes[0].axvline(places.index(number), color="0.6", linewidth=1, linestyle="--", zorder=1)
        figure.axes[0].annotate(
            said, (places.index(number), 0.98), xycoords=("data", "axes fraction"), xytext=(5, 0),
            textcoords="offset points", va="top", fontsize=10, color="0.35",
        )  # fmt: skip
    return figure


def what_breaks(table: pd.DataFrame, title: str) -> Figure:
    """Draw points lost as bars, a dot for each seed. table: columns setting, seed, lost; in order."""
    names = list(dict.fromkeys(table["setting"]))
    figure, ax = plt.subplots(figsize=(9.5, 0.5 * len(names) + 1.5), layout="constrained")
    labels = []
    for place, name in enumerate(names):
        lost = table[table["setting"] == name]["lost"]
        labels.append(f"{name}: {lost.mean():.1f}")
        ax.barh(
            place, lost.mean(), 0.66, color=colour_of("last_query" if "one choice" in name else "dynamic")
        )
        ax.plot(lost, [place] * len(lost), "o", color="0.15", markersize=5)
    ax.set_yticks(range(len(names)), labels)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set(
        xlabel="points of words lost (bars and numbers: mean; dots: specimens)",
        xlim=(0, 1.04 * table["lost"].max()),
    )
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def ratios(table: pd.DataFrame, words: int, title: str) -> Figure:
    """Draw two measures of a table over K and P side by side: words that differ (of `words`), active
    tokens."""
    tops = {"words that differ": words, "active, %": 100}
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 3.6), layout="constrained", sharey=True)
    for ax, (what, top), cmap in zip(axes, tops.items(), ("rocket_r", "crest"), strict=True):
        values = table.pivot(index="K", columns="P", values=what)
        sns.heatmap(values, ax=ax, annot=True, fmt=".0f", cmap=cmap, vmin=0, vmax=top, cbar=False)
        ax.set(title=what, xlabel="prune ratio P", ylabel="merge ratio K" if ax is axes[0] else "")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def active_frames(frames: Sequence[Any], active: Tensor, word: str, most: int = 8) -> Figure:
    """Draw the frames with most active tokens; what is merged away or inactive is white.

    frames: pictures of the file, as arrays. active: (frames, rows, cols), of the model's frames; two of
    the file may be one of the model's.
    """
    some = np.sort(active.sum((1, 2)).argsort(descending=True, stable=True)[:most].numpy())
    rows, cols = active.shape[1:]
    scale = max(1, 160 // max(rows, cols))  # pixels a token
    per = len(frames) // len(active)
    pictures = [Image.fromarray(frames[per * f]).resize((scale * cols, scale * rows)) for f in some]
    pixels = torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) / 255 for p in pictures])
    share = f"{100 * active.float().mean():.0f} % of the visual tokens"
    title = f"{share} are active while “{word}” is written"
    return plots.filmstrip(pixels, [f"frame {f}" for f in some], title, shade=~active[torch.from_numpy(some)])


def memory(table: pd.DataFrame, title: str) -> Figure:
    """Draw what a device holds, a bar for each setting of each job: weights, then keys and values.

    table: as `predictions.memory` has it.
    """
    kinds = ["full cache", "merged", "inactive on the device", "evicted"]
    names = ["full cache", "merging alone", "DyCoke, tokens can return", "one choice, the rest evicted"]
    figure, axes = plt.subplots(
        1, len(table), figsize=(3.4 * len(table) + 2.4, 3.4), sharey=True, squeeze=False, layout="constrained"
    )
    for ax, row in zip(axes[0], table.to_dict("records"), strict=True):
        kept = [row[kind] for kind in kinds]
        ax.barh(names, [row["weights"]] * len(kinds), 0.66, color=PARTS["weights"], label="weights")
        ax.barh(names, kept, 0.66, row["weights"], color=PARTS["keys and values"], label="keys and values")
        for place, value in enumerate(kept):
            ax.annotate(f" {value:.2f}", (row["weights"] + value, place), va="center", fontsize=11)
        ax.set_title(f"{row['frames']} frames, batch {row['batch']}", fontsize=11, fontweight="normal")
        ax.set(xlabel="GB (numbers: keys and values)", xlim=(0, 1.2 * (row["weights"] + max(kept))))
        ax.grid(axis="y", visible=False)
    axes[0, 0].invert_yaxis()
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=10)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def break_even(lines: Mapping[str, Selecting], changed: Mapping[str, float], title: str) -> Figure:
    """Draw what dynamic pruning saves of the bytes that a step reads of keys and values, against the
    share of the active tokens that a step replaces. changed: shares that were found, which are
    marked."""
    figure, ax = plt.subplots(figsize=(9, 4.6), layout="constrained")
    shares = np.linspace(0, 1, 101)
    for colour, (name, costs) in zip(sns.color_palette("colorblind"), lines.items(), strict=False):
        ax.plot(100 * shares, [100 * costs.saved(x) for x in shares], color=colour, linewidth=2.5, label=name)
        if costs.break_even <= 1:
            ax.plot(100 * costs.break_even, 0, "o", color=colour, markersize=9)
    ax.axhline(0, color="0.3", linewidth=1)
    low = ax.get_ylim()[0]
    for number, (said, share) in enumerate(changed.items()):
        ax.axvline(100 * share, color="0.5", linestyle="--", linewidth=1.2)
        ax.annotate(
            said, (100 * share, low), (-5, 8 + 16 * number), textcoords="offset points", fontsize=10,
            color="0.3", ha="right",
        )  # fmt: skip
    ax.legend(frameon=False, title="dots: break-even")
    ax.set(
        xlabel="active tokens that a step replaces, %", title=title,
        ylabel="saved of what a step reads of\nkeys and values, %",
    )  # fmt: skip
    return figure


def gpu(table: pd.DataFrame, title: str) -> Figure:
    """Draw a decoding step beside that of the full cache, by job, in %. table: columns job, setting,
    step."""
    figure, ax = plt.subplots(figsize=(9.5, 4.2), layout="constrained")
    sns.barplot(table, x="job", y="step", hue="setting", ax=ax, palette="colorblind")
    for bars in ax.containers:
        ax.bar_label(bars, fmt="%.0f", fontsize=10)  # type: ignore[arg-type]
    ax.axhline(100, color="0.3", linewidth=1)
    ax.set(ylabel="time of a decoding step,\n% of the full cache's", xlabel="", title=title)
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


def leaderboard(table: pd.DataFrame, title: str) -> Figure:
    """Draw points lost of all that has a place, the best first: your methods, FastV, and the controls.

    table: as `course.leaderboard.rank` has it.
    """
    placed = table[table["place"] != ""]
    known = {label_of(name): name for name in ("fastv", "random", "uniform", "keep_first", "keep_none")}
    figure, ax = plt.subplots(figsize=(9, 0.45 * len(placed) + 1.5), layout="constrained")
    for place, row in enumerate(placed.to_dict("records")):
        colour = FASTV if known.get(row["method"]) == "fastv" else PLAIN if row["method"] in known else OWN
        ax.barh(place, row["points lost"], 0.66, color=colour)
        ax.annotate(f" {row['points lost']:.1f}", (row["points lost"], place), va="center", fontsize=11)
    ax.set_yticks(range(len(placed)), placed["method"])
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set(xlabel="points of words lost, mean of both worlds", xlim=(0, 1.12 * placed["points lost"].max()))
    for colour, said in ((OWN, "own"), (FASTV, "FastV"), (PLAIN, "controls")):
        ax.plot([], [], "s", color=colour, label=said)
    ax.legend(loc="upper right", frameon=True)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure
