"""Draw the lab's figures: colour-blind safe, labelled axes, a title that states the finding (the caller's).

The label and the colour of a method stand beside the method (`dycoke_lab.methods`), never here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from dycoke_lab.methods import colour_of, label_of

# a visual token's states; retained is before any pruning
ACTIVE, INACTIVE, RETURNED, MERGED_AWAY = "#0072b2", "#d9d9d9", "#d55e00", "#e69f00"
RETAINED = ACTIVE
RIGHT_ANSWER, WRONG = "#009e73", "#b40426"
CHANGED = "#ffd27f"  # behind a word that differs from the answer with nothing hidden
MOST_TICKS = 16  # more labels of frames would overlap
_COLOURS = sns.color_palette("colorblind")


def style() -> None:
    """Set the lab's look: large enough for the last row of a lecture room."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind", font_scale=1.1)
    plt.rcParams.update({
        "figure.dpi": 110, "savefig.bbox": "tight", "axes.titleweight": "bold", "axes.titlelocation": "left",
    })  # fmt: skip


def show_frame(
    ax: Axes,
    pixels: Tensor,
    *,
    weight: Tensor | None = None,
    shade: Tensor | None = None,
    outline: Tensor | None = None,
    top: float | None = None,
    title: str = "",
) -> None:
    """Draw one frame (3, height, width), 0 to 1. The others are (rows, cols), one value a visual token.

    weight is drawn as brightness up to `top`, shade whitens tokens that are absent, outline draws a green
    line around tokens.
    """
    picture = pixels.permute(1, 2, 0).numpy()
    height, width = picture.shape[:2]
    if weight is not None:
        light = (weight / (top or float(weight.max()) or 1.0)).clamp(0, 1).numpy()
        light = np.kron(light, np.ones((height // light.shape[0], width // light.shape[1])))[..., None]
        picture = picture * (0.3 + 0.7 * light)
    ax.imshow(picture, interpolation="nearest", extent=(0, width, height, 0))
    whitened = dict(facecolor="#ffffff", alpha=0.82, edgecolor="none")
    if shade is not None:
        high, wide = height / shade.shape[0], width / shade.shape[1]
        for row, col in shade.nonzero().tolist():
            ax.add_patch(Rectangle((col * wide, row * high), wide, high, **whitened))  # type: ignore[arg-type]
    if outline is not None:
        sides = np.array(_sides(outline)).reshape(-1, 2, 2) * (
            width / outline.shape[1],
            height / outline.shape[0],
        )
        for colour, thick in (("white", 3.6), (RIGHT_ANSWER, 2.0)):  # green alone is lost on some frames
            ax.add_collection(LineCollection(sides, colors=colour, linewidths=thick, capstyle="projecting"))
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=10, loc="center", fontweight="normal")


def _sides(mask: Tensor) -> list[list[tuple[int, int]]]:
    """Return the lines, each from (x, y) to (x, y), between tokens of a mask and those around them."""
    there = {(row, col) for row, col in mask.nonzero().tolist()}
    lines = []
    for row, col in there:
        x, y = col, row
        for beside, line in (
            ((row - 1, col), [(x, y), (x + 1, y)]),
            ((row + 1, col), [(x, y + 1), (x + 1, y + 1)]),
            ((row, col - 1), [(x, y), (x, y + 1)]),
            ((row, col + 1), [(x + 1, y), (x + 1, y + 1)]),
        ):
            if beside not in there:
                lines.append(line)
    return lines


def filmstrip(
    pixels: Tensor, titles: Sequence[str], title: str, per_row: int = 8, **masks: Tensor | float | None
) -> Figure:
    """Draw frames (frames, 3, height, width) in rows; masks as in `show_frame`, each (frames, rows, cols)."""
    rows = -(-len(pixels) // per_row)
    size = (1.3 * per_row, 1.65 * rows + 0.5)
    figure, axes = plt.subplots(rows, per_row, figsize=size, squeeze=False, layout="constrained")
    for number, ax in enumerate(axes.flat):
        if number < len(pixels):
            here = {name: mask[number] if isinstance(mask, Tensor) else mask for name, mask in masks.items()}
            show_frame(ax, pixels[number], title=titles[number], **here)  # type: ignore[arg-type]
        else:
            ax.axis("off")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def steps_by_frames(
    per_frame: Tensor,
    tokens: Sequence[str],
    scene_of_frame: Sequence[int],
    scene_of_step: Sequence[int],
    title: str,
) -> Figure:
    """Draw (steps, frames): where each step's attention within the video goes. The frames of the scene that a
    step's token describes are boxed."""
    share = (100 * per_frame / per_frame.sum(1, keepdim=True)).numpy()
    figure, ax = plt.subplots(figsize=(9, 0.3 * len(tokens) + 1.4), layout="constrained")
    label = "the step's attention\nwithin the video, %"
    sns.heatmap(share, ax=ax, cmap="rocket_r", vmin=0, yticklabels=list(tokens), cbar_kws={"label": label})
    scenes = np.asarray(scene_of_frame)
    for step, scene in enumerate(scene_of_step):
        there = (scenes == scene).nonzero()[0]
        if len(there):
            box = Rectangle((there[0], step), len(there), 1, fill=False, edgecolor=ACTIVE, linewidth=2)
            ax.add_patch(box)
    shown = thinned(range(share.shape[1]))
    ax.set_xticks([frame + 0.5 for frame in shown], [str(frame) for frame in shown], rotation=0)
    ax.tick_params(axis="y", rotation=0)
    ax.set(xlabel="frame of the video", ylabel="token of the answer", title=title)
    return figure


def thinned(places: Sequence[int]) -> Sequence[int]:
    """Return every n-th of the places, so that at most `MOST_TICKS` are left."""
    return places[:: max(1, -(-len(places) // MOST_TICKS))]


def lines(
    table: pd.DataFrame,
    x: str,
    y: str,
    hue: str | None,
    title: str,
    xlabel: str,
    ylabel: str,
    *,
    baseline: float | Mapping[str, float] | None = None,
    baseline_label: str = "chance",
    percent: bool = False,
    legend: str | None = None,
) -> Figure:
    """Draw curves of a tidy table that has y, "low" and "high" columns: a line with its 95 % band.

    hue: the column that names the curves; "method" holds names of methods, whose labels and colours are used.
    baseline: one for all curves, or one for each, by the curve's name. percent: shares are drawn in %.
    """
    figure, ax = plt.subplots(figsize=(8.5, 4.6), layout="constrained")
    unit = 100 if percent else 1
    groups = [("", table)] if hue is None else list(table.groupby(hue, sort=False))
    for number, (name, group) in enumerate(groups):
        method = hue == "method"
        colour = colour_of(name) if method else _COLOURS[number % len(_COLOURS)]
        label = label_of(name) if method else str(name)
        ax.plot(group[x], unit * group[y], marker="o", markersize=5, color=colour, label=label)
        low, high = unit * group["low"], unit * group["high"]
        ax.fill_between(group[x], low, high, color=colour, alpha=0.2, linewidth=0)
        if isinstance(baseline, Mapping) and name in baseline:
            ax.axhline(unit * baseline[name], color=colour, linestyle="--", linewidth=1)
    if isinstance(baseline, Mapping) or (baseline is not None and hue is not None):
        ax.plot([], [], color="0.4", linestyle="--", linewidth=1, label=baseline_label)
    if baseline is not None and not isinstance(baseline, Mapping):
        ax.axhline(unit * baseline, color="0.4", linestyle="--", linewidth=1)
        if hue is None:
            place = (1.01, unit * baseline)
            ax.annotate(baseline_label, place, xycoords=("axes fraction", "data"), va="center", color="0.4")
    if hue is not None:
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, title=legend)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    return figure


def token_states(
    active: Tensor, retained: Tensor, tokens: Sequence[str], tokens_per_frame: int, title: str
) -> Figure:
    """Draw which tokens are active, inactive, or have just returned, a row a step.

    active: (steps, visual); retained: (visual,), what merging left; tokens: what each step writes.
    """
    previous = active.roll(1, 0)
    previous[0] = active[0]
    state = np.where(active, 1, 0)
    state[(active & ~previous).numpy()] = 2
    state = state[:, retained.numpy()]
    figure, ax = plt.subplots(figsize=(10.5, 0.28 * len(tokens) + 1.6), layout="constrained")
    colours = ListedColormap([INACTIVE, ACTIVE, RETURNED])
    ax.imshow(state, cmap=colours, vmin=0, vmax=2, aspect="auto", interpolation="nearest")
    frames = retained.nonzero()[:, 0].numpy() // tokens_per_frame
    starts = thinned([0, *(np.diff(frames).nonzero()[0] + 1).tolist()])
    ax.set_xticks(np.array(starts) - 0.5, [str(frames[start]) for start in starts])
    ax.set_yticks(range(len(tokens)), list(tokens))
    ax.grid(visible=False)
    for colour, name in ((ACTIVE, "active"), (RETURNED, "just returned"), (INACTIVE, "inactive")):
        ax.plot([], [], "s", color=colour, label=name)
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    ax.set(xlabel="retained visual tokens, by frame", ylabel="token of the answer", title=title)
    return figure
