"""Figures of notebook 05 and appendix/which_layer_aims: what changes where tokens are hidden."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL.Image import Image as Picture
from scipy.stats import spearmanr
from torch import Tensor

from dycoke_lab.attention.blocking import Block
from dycoke_lab.attention.capture import capture_attention
from dycoke_lab.evaluation.metrics import count_wrong
from dycoke_lab.methods import Compression
from dycoke_lab.specimen.clips import world_of
from dycoke_lab.specimen.specimens import specimen_named
from dycoke_lab.viz.clip_runs import Clip, ClipRun, ClipRunner
from dycoke_lab.viz.course_drift import naming_steps
from dycoke_lab.viz.frames.mosaic import mosaic
from dycoke_lab.viz.frames.page import HEIGHT, LARGE, LEFT, WIDTH, Page
from dycoke_lab.viz.frames.words import word_grid
from dycoke_lab.viz.plots import ACTIVE, RETURNED, RIGHT_ANSWER, WRONG


def blocked_run(runner: ClipRunner, name: str, block: Block) -> ClipRun:
    """Return what the model writes on a clip while tokens are hidden, every head's attention captured. The
    hidden tokens count as not attended to."""
    clip, model = runner.clip(name), runner.model(name)
    with block(model), capture_attention(model, heads="all") as trace:
        ids = model.generate(**clip.inputs)[0, clip.inputs["input_ids"].shape[1] :]
    return ClipRun(_words(name, ids), trace, Compression())


def _words(name: str, ids: Tensor) -> list[str]:
    words = specimen_named(world_of(name)).words
    return [words[int(number)] for number in ids]


def changed_words(words: Sequence[str], before: Sequence[str]) -> list[bool]:
    """Return which words of an answer are not those written before; a word that is missing has changed."""
    length = max(len(words), len(before))
    one, other = ([*line, *[""] * (length - len(line))] for line in (words, before))
    return [a != b for a, b in zip(one, other, strict=True)]


def hidden_view(clip: Clip, before: ClipRun, after: ClipRun, hidden: Sequence[int], name: str) -> Picture:
    """Draw an answer with everything in sight, and the answer while frames are hidden, which are white."""
    white = torch.zeros(len(clip.pixels), clip.side, clip.side)
    white[list(hidden)] = 1
    page = Page()
    for place, (title, run, mask) in enumerate((("all in sight", before, None), (name, after, white))):
        left, count = LEFT + WIDTH / 2 * place, count_wrong(run.words, clip.answer)
        verdict = f"{title}: {count} wrong word{'s' * (count != 1)}"
        page.text(left, 24, verdict, LARGE, bold=True, colour=WRONG if count else "black")
        word_grid(page, (left, 46, left + 590, 242), run.words, clip.answer)
        mosaic(page, (left, 262, left + 590, HEIGHT - 2), clip, white=mask)
    return page.picture


def hide_each_word(runner: ClipRunner, name: str) -> Tensor:
    """Hide the tokens that each word names, one word after the other, and decode again. Return (words, words)
    of bool: which words change; rows and columns are the words that name something."""
    clip, before = runner.clip(name), runner.run(name, Compression()).words
    steps = naming_steps(clip)
    rows = []
    for step in steps:
        block = Block(tokens=clip.named(step).flatten().nonzero()[:, 0].tolist())
        changed = changed_words(blocked_run(runner, name, block).words, before)
        rows.append([changed[column] for column in steps])
    return torch.tensor(rows)


def scene_table(tables: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Draw the scene that was hidden against the scene that the words are of, a panel for each name; % of
    words changed. tables: of `evaluation.blocking.scene_losses`."""
    wide = min(2, len(tables))
    high = -(-len(tables) // wide)
    figure, axes = plt.subplots(
        high, wide, figsize=(4.3 * wide, 3.2 * high + 0.7), squeeze=False, layout="constrained"
    )
    for ax in axes.flat[len(tables) :]:
        ax.axis("off")
    for ax, (name, table) in zip(axes.flat, tables.items(), strict=False):
        values = 100 * table.pivot(index="hidden", columns="words_of", values="changed")
        look = dict(annot=True, fmt=".0f", cmap="rocket_r", vmin=0, vmax=100, square=True, linewidths=1)
        sns.heatmap(values, ax=ax, cbar=False, **look)  # type: ignore[arg-type]
        ax.set(xlabel="words of scene", ylabel="hidden scene")
        ax.set_title(name, fontsize=11, fontweight="normal", loc="center")
        ax.tick_params(axis="y", rotation=0)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def scenes_title(tables: Sequence[pd.DataFrame]) -> str:
    """Return what hiding a scene changes: of its own words, and of the words of other scenes, if scene 1 is
    hidden and if another one is. tables: of `evaluation.blocking.scene_losses`."""

    def means(which: Callable[[pd.DataFrame], Any]) -> str:
        return " and ".join(f"{100 * table[which(table)]['changed'].mean():.0f} %" for table in tables)

    own = means(lambda table: table["hidden"] == table["words_of"])
    first = means(lambda table: (table["hidden"] == 1) & (table["words_of"] > 1))
    other = means(lambda table: (table["hidden"] > 1) & (table["hidden"] != table["words_of"]))
    return (
        f"Hide a scene from layer 0 on: {own} of its own words\nchange; of other scenes' words "
        f"{first} if scene 1\nis hidden, else {other} (constructed and footage)"
    )


def word_table(clip: Clip, changed: Tensor, title: str) -> Figure:
    """Draw which words change (columns) when the tokens that a word names are hidden (rows). changed: of
    `hide_each_word`."""
    words = [clip.answer[step] for step in naming_steps(clip)]
    side = 0.3 * len(words) + 1.4
    figure, ax = plt.subplots(figsize=(side + 0.6, side), layout="constrained")
    ax.imshow(changed.float(), cmap="rocket_r", vmin=0, vmax=1.1)
    for line in range(clip.places, len(words), clip.places):
        ax.axhline(line - 0.5, color="0.5", linewidth=0.8)
        ax.axvline(line - 0.5, color="0.5", linewidth=0.8)
    ax.set_xticks(range(len(words)), words, rotation=90)
    ax.set_yticks(range(len(words)), words)
    ax.grid(visible=False)
    ax.set(xlabel="word of the answer (dark: changed)", ylabel="word whose tokens are hidden")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=12)
    return figure


def layers_read(tables: Mapping[str, pd.DataFrame], unread: Mapping[str, pd.Series], title: str) -> Figure:
    """Draw the words that change when the video is hidden from L on; dashed: `unread`, measured otherwise.

    tables: of `evaluation.blocking.layer_losses`. unread: by L, 0 to 1.
    """
    size = (5.0 * len(tables), 4.3)
    figure, axes = plt.subplots(
        1, len(tables), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for ax, (name, table) in zip(axes[0], tables.items(), strict=True):
        label = "hidden in prompt and answer (Block)"
        ax.plot(table["from_layer"], 100 * table["changed"], "o-", color=RETURNED, linewidth=2.5, label=label)
        label = "hidden in the answer only (unread)"
        ax.plot(unread[name].index, 100 * unread[name], "s--", color="0.4", label=label)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_title(name, fontsize=11, fontweight="normal")
        ylabel = "words changed, %" if ax is axes[0, 0] else ""
        ax.set(xlabel="L: the video is hidden from here on", ylabel=ylabel, ylim=(0, 103))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=10)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def used_ranks(table: pd.DataFrame, measure: str) -> float:
    """Return Spearman's rank correlation of the heads' aim with a measure of `head_losses`."""
    rows = table[table[measure].notna()]
    if rows[measure].nunique() < 2:
        return float("nan")
    return float(spearmanr(rows["aim"], rows[measure]).statistic)


def heads_used(table: pd.DataFrame, from_layer: int, title: str) -> Figure:
    """Draw each head's aim against the words that change: when the video is hidden from it, and when it alone
    sees the video from `from_layer` on. table: of `evaluation.blocking.head_losses`."""
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 4.6), sharey=True, layout="constrained")
    panels = (
        ("hidden", "hidden from this head alone"),
        ("alone", f"from layer {from_layer} on, only this head sees"),
    )
    for ax, (measure, name) in zip(axes, panels, strict=True):
        rows = table[table[measure].notna()]
        low = rows["layer"] < from_layer
        for part, colour, label in (
            (low, ACTIVE, "layers below"),
            (~low, RIGHT_ANSWER, f"layers {from_layer} on"),
        ):
            if part.any():
                here = rows[part]
                ax.scatter(
                    100 * here["aim"], 100 * here[measure], s=44, color=colour, alpha=0.75, label=label
                )
        ranks = used_ranks(table, measure)
        ax.set_title(f"{name}:\nrank correlation {ranks:.2f}", fontsize=11, fontweight="normal")
        ylabel = "words changed, %" if ax is axes[0] else ""
        ax.set(xlabel="aim of the head, %", ylabel=ylabel, xlim=(-2, 102), ylim=(-2, 102))
        ax.legend(frameon=False, fontsize=10)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def heads_text(tables: Mapping[str, pd.DataFrame], from_layer: Mapping[str, int]) -> str:
    """Return, as Markdown, how a head's aim goes with its being needed, and with its being enough."""
    lines = []
    for name, table in tables.items():
        hidden, alone = (used_ranks(table, measure) for measure in ("hidden", "alone"))
        low = table[table["layer"] < from_layer[name]].nlargest(1, "hidden").iloc[0]
        high = table[table["layer"] >= from_layer[name]].nlargest(1, "hidden").iloc[0]
        lines.append(
            f"- {name}: rank correlation of aim and words changed {_ranks(hidden)} if the video is hidden "
            f"from one head, {_ranks(alone)} if one head alone sees it from layer {from_layer[name]} on. "
            f"Below, head {low['head']:.0f} of layer {low['layer']:.0f} is missed most "
            f"({100 * low['hidden']:.0f} % of the words change; its aim is {100 * low['aim']:.0f} %). "
            f"From layer {from_layer[name]} on, no head's hiding changes more than "
            f"{100 * high['hidden']:.0f} %."
        )
    return "\n".join(lines)


def heads_title(table: pd.DataFrame, name: str, from_layer: int) -> str:
    """Return what the heads from this layer on show: what is lost without one, and with only one."""
    above = table[table["layer"] >= from_layer]
    return (
        f"{name}, heads from layer {from_layer} on: hide one, and at most "
        f"{100 * above['hidden'].max():.0f} % of the words change\n"
        f"(of all heads: {100 * table['hidden'].max():.0f} %); leave only one, and at least "
        f"{100 * above['alone'].min():.0f} % do"
    )


def _ranks(value: float) -> str:
    return "is not defined (nothing varies)" if pd.isna(value) else f"is {value:.2f}"
