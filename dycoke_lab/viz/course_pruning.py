"""Figures of notebooks 06 to 08: what merging and pruning do to a few numbers, and to a clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from dycoke_lab.evaluation.tables import losses
from dycoke_lab.methods import colour_of, label_of
from dycoke_lab.methods.temporal_merging import Merged
from dycoke_lab.viz.clip_runs import Clip
from dycoke_lab.viz.plots import ACTIVE, INACTIVE, RETAINED, RETURNED, show_frame

EDGES = (0.9, 0.99, 0.999)  # of cosines: where a colour ends
SHADES = ("#f7f4ef", "#fdd0a2", "#f28e2b", "#8c2d04")  # from unlike to alike
QUESTIONS = {"actor": "one word", "compare": "two scenes", "describe": "all scenes"}
KNOWS = {"above": "the layers from L on", "scoring": "layer L - 1 alone"}
ALIKE = ("below .9", ".9 to .99", ".99 to .999", "from .999")


def similarity_maps(rows: Sequence[tuple[str, Clip, Merged]], start: int, title: str) -> Figure:
    """Draw one window of each clip: its frames, and below them how like its reference each token is.

    rows: a name, the clip, and what merging makes of it. start: the window's first frame.
    """
    size = (8.5, 3.75 * len(rows) + 0.9)
    figure, axes = plt.subplots(2 * len(rows), 4, figsize=size, squeeze=False, layout="constrained")
    look = dict(cmap=ListedColormap(list(SHADES)), norm=BoundaryNorm([-1, *EDGES, 2], len(SHADES)))
    for number, (name, clip, merged) in enumerate(rows):
        above, below = axes[2 * number], axes[2 * number + 1]
        for offset, (picture, close) in enumerate(zip(above, below, strict=True)):
            frame = start + offset
            show_frame(
                picture, clip.pixels[frame], title=f"frame {frame}, scene {int(clip.scene[frame]) + 1}"
            )
            similarity = merged.similarity[frame].view(clip.side, clip.side).numpy()
            close.set(xticks=[], yticks=[])
            close.set_box_aspect(1)
            close.grid(visible=False)
            if np.isnan(similarity).any():
                close.text(
                    0.5, 0.5, "first of the window:\nretained whole", ha="center", va="center", fontsize=9
                )
                continue
            close.imshow(similarity, **look)
            reference = frame - 1 if offset % 2 else frame - 2
            close.set_xlabel(f"compared with frame {reference}", fontsize=9)
        above[0].set_ylabel(name, fontsize=12, fontweight="bold")
        below[0].set_ylabel("cosine", fontsize=10)
    key = [Patch(facecolor=c, edgecolor="0.6", label=text) for c, text in zip(SHADES, ALIKE, strict=True)]
    place: Any = dict(loc="outside lower center", ncols=4, frameon=False, fontsize=10)
    figure.legend(handles=key, title="cosine with the same place of the reference", **place)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def alike(merged: Merged, least: float) -> float:
    """Return how many of the tokens that are compared have a cosine of at least `least`, in %."""
    compared = ~merged.similarity.isnan()
    return float(100 * (merged.similarity[compared] >= least).float().mean())


def ratio_and_threshold(
    by_ratio: Merged, by_threshold: Merged, actor: Tensor, setting: Mapping[str, float]
) -> Figure:
    """Draw the cosines of the tokens that are compared, by what they show, and where the threshold is. The
    title says how many that show an actor each of the two retains.

    actor: (frames, tokens), -1 for background. setting: merge_ratio and threshold.
    """
    compared = ~by_threshold.similarity.isnan()
    shows_actor = (actor >= 0)[compared].numpy()
    left = [_retained(merged)[compared.flatten()][shows_actor].sum() for merged in (by_threshold, by_ratio)]
    distance = 1 - by_threshold.similarity[compared].numpy().clip(max=1 - 1e-7)
    shown = np.where(shows_actor, "an actor", "background")
    table = pd.DataFrame({"distance": distance, "shows": shown})
    colours = {"background": "0.5", "an actor": RETAINED}
    figure, ax = plt.subplots(figsize=(8.5, 3.6), layout="constrained")
    points = dict(palette=colours, order=list(colours), jitter=0.3, alpha=0.7)
    sns.stripplot(table, x="distance", y="shows", hue="shows", ax=ax, **points)
    line = 1 - setting["threshold"]
    ax.axvline(line, color=RETURNED, linewidth=2)
    top: Any = dict(xycoords=("data", "axes fraction"), textcoords="offset points", ha="center")
    ax.annotate("← retained, merged away →", (line, 1.0), (0, 4), color=RETURNED, **top)
    ax.set(xlabel="1 - cosine with the reference", ylabel="the token shows", xscale="log")
    ax.invert_xaxis()
    found = f"the threshold retains {left[0]}, K = {setting['merge_ratio']:g} retains {left[1]}"
    ax.set_title(f"Constructed. Of {shows_actor.sum()} tokens that show an actor,\n{found}", pad=24)
    return figure


def _retained(merged: Merged) -> Any:
    return np.isin(np.arange(len(merged.into)), merged.kept.numpy())


def choice_tables(
    scores: Tensor,
    choices: Mapping[str, Tensor],
    title: str,
    first: int = 1,
    titles: Mapping[str, str] | None = None,
) -> Figure:
    """Draw (steps, tokens) as a table of numbers for each way to choose. What is active is filled; what has
    just come back, or come for the first time after step `first`, is orange.

    choices: (steps, tokens), True where active, by name. first: the number of the first row's step. titles:
    a panel's own title, by name; else the name.
    """
    steps, tokens = scores.shape
    size = (min(9.0, max(6.5, 0.62 * tokens * len(choices) + 2.4)), 0.55 * steps + 1.9)
    figure, axes = plt.subplots(1, len(choices), figsize=size, squeeze=False, layout="constrained")
    for ax, (name, active) in zip(axes[0], choices.items(), strict=True):
        state = token_states_by_hand(active)
        colours = ListedColormap([INACTIVE, ACTIVE, RETURNED])
        ax.imshow(state, cmap=colours, vmin=0, vmax=2, aspect="auto")
        for (row, column), value in np.ndenumerate(scores.numpy()):
            dark = "black" if state[row, column] == 0 else "white"
            text = f"{100 * value:.0f}"
            ax.text(column, row, text, ha="center", va="center", color=dark, fontsize=13)
        ax.set_xticks(range(tokens))
        ax.set_yticks(
            range(steps), [f"step {first + row}" for row in range(steps)] if ax is axes[0, 0] else []
        )
        ax.set_xticks(np.arange(tokens + 1) - 0.5, minor=True)
        ax.set_yticks(np.arange(steps + 1) - 0.5, minor=True)
        ax.grid(visible=False)
        ax.grid(which="minor", color="white", linewidth=3)
        ax.tick_params(which="both", length=0)
        ax.set_xlabel("token")
        ax.set_title((titles or {}).get(name, name), fontsize=11, fontweight="normal")
    key = {"active": ACTIVE, "active, was not at the step before": RETURNED, "inactive": INACTIVE}
    handles = [Patch(color=colour, label=text) for text, colour in key.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=10)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def token_states_by_hand(active: Tensor) -> Any:
    """Return (steps, tokens): 0 inactive, 1 active, 2 active and not so at the step before."""
    state = active.int().numpy().copy()
    state[1:][active[1:].numpy() & ~active[:-1].numpy()] = 2
    return state


def short_answers(table: pd.DataFrame, title: str) -> Figure:
    """Draw the points of words lost by the length of the answer, a line for each method, a panel for each
    kind of specimen.

    table: columns specimen, question, method, loss (0 to 1); the mean over seeds is drawn, and each seed.
    """
    names = list(table["specimen"].unique())
    size = (9, 4.9)
    figure, axes = plt.subplots(1, len(names), figsize=size, squeeze=False, sharey=True, layout="constrained")
    for ax, name in zip(axes[0], names, strict=True):
        rows = table[table["specimen"] == name]
        for method, part in rows.groupby("method", sort=False):
            _loss_line(ax, str(method), part)
        ax.set_xticks(range(len(QUESTIONS)), list(QUESTIONS.values()), fontsize=10)
        ax.set_xlim(-0.45, len(QUESTIONS) - 0.55)
        ax.set(xlabel="the answer names", ylabel="words lost, points" if ax is axes[0, 0] else "")
        ax.set_title(name, fontsize=12, fontweight="normal")
    key: dict[str, Any] = {}
    for ax in axes[0]:
        handles, labels = ax.get_legend_handles_labels()
        key |= dict(zip(labels, handles, strict=True))
    look: Any = dict(loc="outside lower center", ncols=3, frameon=False, fontsize=11)
    figure.legend(list(key.values()), list(key), **look)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def _loss_line(ax: Axes, method: str, rows: pd.DataFrame) -> None:
    places = list(QUESTIONS)
    mean = 100 * rows.groupby("question")["loss"].mean()
    mean = mean.reindex([question for question in places if question in mean.index])
    at = [places.index(str(question)) for question in mean.index]
    width = 3 if method == "dynamic" else 1.8
    style = "--" if method == "fastv" else "-"  # it lies on one-shot, last query
    ax.plot(at, mean, style, color=colour_of(method), label=label_of(method), linewidth=width)
    dots = [places.index(question) for question in rows["question"]]
    ax.plot(dots, 100 * rows["loss"], "o", color=colour_of(method), markersize=5, alpha=0.6)


def lost_points(rows: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Return `losses` of these methods and of the questions that the figure draws, in the methods' order."""
    found = losses(rows)
    found = found[found["method"].isin(methods) & found["question"].isin(list(QUESTIONS))]
    return found.sort_values("method", key=lambda names: names.map(list(methods).index), kind="stable")


def hindsight_table(known: pd.DataFrame, beside: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return words right, %, by what hindsight knows, and by the tokens kept, %, and the seed; without rows
    if none were measured. known: as `evaluation.evidence.hindsights` has it. beside: methods to compare with,
    as `evaluation.evidence.at_layer` has them; only what `known` has, too, is shown."""
    table = known.assign(
        knows=known["future_of"].map(KNOWS),
        kept=(100 * (1 - known["prune_ratio"].astype(float))).round().astype(int),
    )
    if beside is not None:
        beside = beside.assign(knows=beside["method"].map(lambda name: f"nothing: {label_of(name)}"))
        beside = beside.merge(table[["kept", "seed"]].drop_duplicates())
        table = pd.concat([table, beside])[["knows", "kept", "seed", "mean"]]
    table = table.sort_values(["kept", "seed"], ascending=[False, True], kind="stable")
    wide = 100 * table.pivot_table(index="knows", columns=["kept", "seed"], values="mean", sort=False)
    return (
        wide.astype(float)
        .round(1)
        .rename_axis(
            index="of the future, the choice knows", columns=["kept, %", "seed"][: wide.columns.nlevels]
        )
    )
