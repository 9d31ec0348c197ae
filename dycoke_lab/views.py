"""The pictures of the explorers. The static figure above a widget and the widget itself are drawn by the same function.

Each returns a figure of fixed size, made without pyplot, so that it is quick, nothing jumps while a slider is dragged,
and a worker thread may draw.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dycoke_lab.explore import Clip, Run, count_wrong, wrong_words
from dycoke_lab.merge import Merged, references
from dycoke_lab.plots import BACK, KEPT, MERGED, WAITING

Picture = NDArray[np.float32]
TRUTH, WRONG = "#009e73", "#b40426"
CELL = 24  # pixels a visual token's side is drawn with
GAP, LABEL = 10, 36  # pixels between frames, and above them
LARGE, MEDIUM, SMALL = 17, 14, 11  # points


def blank(width: float = 12.5, height: float = 4.8) -> Figure:
    return Figure(figsize=(width, height), dpi=100, facecolor="white")


def png(figure: Figure) -> bytes:
    """The figure as PNG; always 100 pixels an inch, so one view has one size. Twice as quick as savefig."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    out = io.BytesIO()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").save(out, "png", compress_level=1)
    return out.getvalue()


def enlarge(pixels: Tensor, side: int) -> Picture:
    """(frames, 3, height, width) as (frames, side * CELL, side * CELL, 3), by nearest pixels."""
    index = np.arange(side * CELL)
    rows, cols = (index * n // (side * CELL) for n in pixels.shape[2:])
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy()[:, rows][:, :, cols], np.float32)


def mosaic(ax: Axes, clip: Clip, *, weight: Tensor | None = None, white: Tensor | None = None,
           boxes: Sequence[tuple[Tensor, str]] = (), chosen: int | None = None) -> None:  # fmt: skip
    """All frames, as large as they fit. Per visual token, (frames, rows, cols): weight 0 to 1 is brightness, white fades
    out, boxes outline. `chosen` underlines a frame. The first frame of a scene says so, the others have their number."""
    frames = enlarge(clip.pixels, clip.side)
    if weight is not None:
        frames *= 0.3 + 0.7 * _cells(weight)
    if white is not None:
        frames += (0.87 * _cells(white)) * (1 - frames)
    size = clip.side * CELL
    wide, high = size + GAP, size + LABEL
    per_row = _per_row(len(frames), wide / high, ax)
    canvas = np.full((-(-len(frames) // per_row) * high, per_row * wide, 3), 255, np.uint8)
    for number, frame in enumerate((frames * 255).clip(0, 255).astype(np.uint8)):
        y, x = number // per_row * high + LABEL - 8, number % per_row * wide
        canvas[y : y + size, x : x + size] = frame
        for inset, (mask, colour) in enumerate(boxes):
            for row, col in mask[number].nonzero().tolist():
                _box(canvas, y + row * CELL, x + col * CELL, colour, inset * 3)
        if number == chosen:
            canvas[y + size + 1 : y + size + 6, x : x + size] = 0
        first = number == 0 or clip.scene[number] != clip.scene[number - 1]
        text = f"scene {int(clip.scene[number]) + 1}" if first else str(number)
        ax.text(x + size / 2, y - 4, text, ha="center", fontsize=SMALL, fontweight="bold" if first else "normal")
    ax.imshow(canvas, interpolation="nearest", aspect="equal")
    ax.set_anchor("NW")
    ax.axis("off")


def _per_row(frames: int, shape: float, ax: Axes) -> int:
    """How many frames (of this width to height) a row should have for them to be large."""
    box = ax.get_position()
    area = box.width * ax.figure.get_figwidth() / (box.height * ax.figure.get_figheight())  # type: ignore[union-attr]
    return max(range(1, frames + 1), key=lambda n: min(area / (n * shape), 1 / -(-frames // n)))


def merge_view(clip: Clip, merged: Merged, threshold: float, frame: int, window: int, title: str) -> Figure:
    """What merging leaves of a clip; one frame beside the one it is compared with; all similarities, and the threshold."""
    figure = blank()
    gone = clip.grid(merged.into != torch.arange(len(merged.into)))
    mosaic(figure.add_axes((0.01, 0.01, 0.6, 0.8)), clip, white=gone, chosen=frame)
    figure.text(0.01, 0.925, title, fontsize=LARGE, fontweight="bold")
    figure.text(0.01, 0.86, "White tokens were merged away: they repeat an earlier frame.", fontsize=MEDIUM)
    reference = references(len(clip.pixels), window)[frame]
    pictures = enlarge(clip.pixels, clip.side)
    for place, number in enumerate((reference, frame)):
        ax = figure.add_axes((0.63 + 0.19 * place, 0.42, 0.175, 0.4))
        ax.axis("off")
        if number is None:
            ax.text(0.5, 0.5, "first of its window:\nkept whole", ha="center", va="center", fontsize=MEDIUM, transform=ax.transAxes)
            continue
        ax.imshow(pictures[number], interpolation="nearest")
        ax.set_title(f"frame {number}" if place else f"compared with {number}", fontsize=MEDIUM)
        if place and reference is not None and clip.side <= 6:
            for token, value in enumerate(merged.similarity[frame].tolist()):
                row, col = divmod(token, clip.side)
                ax.text((col + 0.5) * CELL, (row + 0.5) * CELL, f"{value:.2f}", ha="center", va="center", fontsize=SMALL,
                        color="black" if gone[frame, row, col] else "white",
                        bbox=dict(facecolor="white" if gone[frame, row, col] else KEPT, edgecolor="none", pad=1.5))  # fmt: skip
    ax = figure.add_axes((0.68, 0.14, 0.31, 0.17))
    compared = ~merged.similarity.isnan()
    values = merged.similarity[compared].numpy()
    if len(values):
        dropped = gone.flatten(1)[compared].numpy()
        bins = np.linspace(min(0.0, values.min()) if values.min() < 0.5 else 0.5, 1.0, 41)
        ax.hist(
            [values[~dropped], values[dropped]],
            bins.tolist(),
            stacked=True,
            color=[KEPT, MERGED],
            label=["kept", "merged"],
            log=True,
        )
        ax.set_yticks([1, 10, 100], ["1", "10", "100"])
        ax.minorticks_off()
        ax.axvline(threshold, color="black", linewidth=2)
        ax.legend(frameon=False, fontsize=SMALL, loc="upper left")
    ax.set_xlabel("cosine similarity with the reference", fontsize=MEDIUM)
    ax.set_ylabel("tokens", fontsize=MEDIUM)
    ax.set_title(f"line: threshold {threshold:.4f}", fontsize=MEDIUM, loc="left")
    return figure


def attention_view(clip: Clip, run: Run, step: int, layer: int, head: int | None) -> Figure:
    """Where one step looks, what it may look at, and the word it writes."""
    figure = blank()
    step = min(step, len(run.words) - 1)
    values = run.trace.attention[step][layer, :, 0]
    values = values.mean(0) if head is None else values[head]
    kept, waiting, back, merged = run.states(step)
    boxes = [(clip.named(step), TRUTH), (clip.grid(back), BACK)]
    light = (values / (float(values.max()) or 1.0)).sqrt()  # by its root, or only the strongest token would be seen
    mosaic(figure.add_axes((0.01, 0.01, 0.6, 0.8)), clip, weight=clip.grid(light),
           white=clip.grid(waiting * 0.7 + merged * 1.0), boxes=boxes)  # fmt: skip
    of = "mean over heads" if head is None else f"head {head}"
    figure.text(0.01, 0.925, f"Word {step + 1}: “{run.words[step]}”", fontsize=LARGE, fontweight="bold")
    counts = (
        f"{int(kept.sum())} tokens in, {int(waiting.sum())} waiting, {int(back.sum())} just back, {int(merged.sum())} merged away"
    )
    figure.text(0.01, 0.86, counts, fontsize=MEDIUM)
    for number, (colour, text) in enumerate(((TRUTH, "shows what this word names"), (BACK, "just came back"),
                                             ("0.85", "faded: waiting; white: merged away"))):  # fmt: skip
        place = 0.935 - 0.065 * number
        face = dict(facecolor=colour, edgecolor="0.6") if number == 2 else dict(fill=False, edgecolor=colour, linewidth=3)
        figure.patches.append(Rectangle((0.63, place), 0.014, 0.036, transform=figure.transFigure, **face))  # type: ignore[arg-type]
        figure.text(0.652, place + 0.004, text, fontsize=MEDIUM)
    word_grid(figure.add_axes((0.63, 0.37, 0.36, 0.4)), run.words, clip.answer, step)
    ax = figure.add_axes((0.69, 0.135, 0.3, 0.16))
    share = clip.grid(values).sum((1, 2)) / max(float(values.sum()), 1e-12)
    here = clip.named(step).flatten(1).any(1)
    ax.bar(range(len(share)), share.numpy(), color=[TRUTH if x else WAITING for x in here.tolist()])
    ax.set(ylim=(0, 1))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("frame (green: shows it)", fontsize=MEDIUM)
    ax.set_ylabel("share of it", fontsize=MEDIUM)
    ax.set_title(f"layer {layer}, {of}", fontsize=MEDIUM, loc="left")
    return figure


def compare_view(clip: Clip, runs: Sequence[tuple[str, Run]], step: int) -> Figure:
    """Answers under two methods side by side, wrong words marked; below, what the pruned layers may look at."""
    figure = blank()
    for place, (name, run) in enumerate(runs):
        left = 0.01 + 0.5 * place
        here = min(step, len(run.words) - 1)
        count = count_wrong(run.words, clip.answer)
        verdict = "every word is right" if not count else f"{count} wrong word{'s' * (count > 1)}"
        figure.text(left, 0.925, f"{name}: {verdict}", fontsize=LARGE, fontweight="bold", color=WRONG if count else "black")
        word_grid(figure.add_axes((left, 0.5, 0.47, 0.4)), run.words, clip.answer, here)
        kept = run.states(here)[0]
        ax = figure.add_axes((left, 0.01, 0.47, 0.4))
        mosaic(ax, clip, white=clip.grid(~kept), boxes=[(clip.named(here), TRUTH)])
        there = int((clip.named(here).flatten() & kept).sum())
        text = f"word {here + 1}: {int(kept.sum())} tokens in, {there} of them show what it names (green)"
        figure.text(left, 0.435, text, fontsize=MEDIUM)
    return figure


def word_grid(ax: Axes, words: Sequence[str], answer: Sequence[str], step: int | None = None) -> None:
    """An answer, a row for each scene; wrong words are crossed out, with the right one behind; the current word is boxed."""
    ax.set(xlim=(0, 4.2), ylim=(5, 0))
    ax.axis("off")
    row = col = 0
    written = [*words, *["–"] * max(0, len(answer) - len(words))]  # what was left out is wrong too
    for number, (word, bad) in enumerate(zip(written, wrong_words(written, list(answer)), strict=True)):
        if col > 3 and word not in (",", "<|end|>"):
            row, col = row + 1, 0
        if row > 4:
            break
        if number == step:
            ax.add_patch(Rectangle((col + 0.01, row + 0.05), 1.0 if word not in (",", "<|end|>") else 0.5, 0.9, facecolor="#fff2cc",
                                   edgecolor="black", linewidth=1.5))  # fmt: skip
        shown = {",": ",", "<|end|>": "."}.get(word, word)
        right = answer[number] if bad and number < len(answer) else ""
        ax.text(col + 0.06, row + (0.4 if bad else 0.5), f"✗ {shown}" if bad else shown, va="center", fontsize=LARGE - 2,
                color=WRONG if bad else "black", fontweight="bold" if bad else "normal")  # fmt: skip
        if right:
            ax.text(col + 0.06, row + 0.8, f"right: {right}", va="center", fontsize=SMALL - 1, color="0.25")
        col += 1
        if word == ",":
            row, col = row + 1, 0


def finder_view(heat: pd.DataFrame, curve: pd.DataFrame, merge: float, prune: float, threshold: float, measure: str,
                by: str = "ratio") -> Figure:  # fmt: skip
    """Measured accuracy over K x P, and over the similarity threshold, with the present setting marked.

    heat: index K, columns P, values mean accuracy 0 to 1. curve: threshold, method, mean, low, high, left.
    """
    figure = blank()
    ax = figure.add_axes((0.06, 0.15, 0.43, 0.67))
    values = 100 * heat.to_numpy()
    ax.imshow(values, cmap="cividis", aspect="auto", vmin=min(80.0, float(values.min())), vmax=100)
    ax.grid(visible=False)
    dark = values < (min(80.0, values.min()) + 100) / 2
    for (i, j), value in np.ndenumerate(values):
        ax.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=SMALL, color="white" if dark[i, j] else "black")
    x, y = heat.columns.get_loc(prune), heat.index.get_loc(merge)
    ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor=WRONG, linewidth=4))
    ax.set_xticks(range(heat.shape[1]), [f"{p:g}" for p in heat.columns], fontsize=MEDIUM)
    ax.set_yticks(range(heat.shape[0]), [f"{k:g}" for k in heat.index], fontsize=MEDIUM)
    ax.set_xlabel("share pruned at each step, P (0: none)", fontsize=MEDIUM)
    ax.set_ylabel("share merged, K", fontsize=MEDIUM)
    right = f"of {measure} right"
    at = curve[curve["threshold"] == threshold].set_index("method")["mean"]
    if by == "ratio":
        title = f"K = {merge:g}, P = {prune:g}: {100 * heat.loc[merge, prune]:.1f} % {right}"
    else:
        title = f"threshold {threshold:g}, " + ", ".join(f"{name}: {100 * value:.1f} % {right}" for name, value in at.items())
    figure.text(0.01, 0.925, title, fontsize=LARGE, fontweight="bold")
    retained = (1 - 0.75 * merge) * (1 - prune)
    figure.text(0.01, 0.86, f"measured, dynamic, L = 3; box: about {retained:.0%} of the tokens retained", fontsize=MEDIUM)
    ax = figure.add_axes((0.58, 0.2, 0.4, 0.62))
    places = {t: i for i, t in enumerate(sorted(curve["threshold"].unique()))}
    for (name, line), colour in zip(curve.groupby("method", sort=False), ("black", KEPT), strict=False):
        x = line["threshold"].map(places)
        ax.plot(x, 100 * line["mean"], marker="o", color=colour, label=str(name), linewidth=2.5)
        ax.fill_between(x, 100 * line["low"], 100 * line["high"], color=colour, alpha=0.2, linewidth=0)
    once = curve.drop_duplicates("threshold").sort_values("threshold")
    ax.plot(once["threshold"].map(places), 100 * once["left"], ":", color=MERGED, linewidth=2.5, label="tokens that merging leaves")
    ax.axvline(places[threshold], color=WRONG, linewidth=3)
    ax.set_xticks(list(places.values()), [f"{t:g}" for t in places], rotation=45, fontsize=SMALL)
    ax.set_xlabel("similarity threshold instead of K", fontsize=MEDIUM)
    ax.set_ylabel("%", fontsize=MEDIUM)
    ax.set(ylim=(0, 103))
    ax.grid(alpha=0.3)
    ax.legend(frameon=False, fontsize=SMALL + 1, loc="lower right")
    left = 100 * curve.loc[curve["threshold"] == threshold, "left"].mean()
    figure.text(0.58, 0.86, f"threshold {threshold:g} leaves {left:.0f} % of the tokens", fontsize=MEDIUM)
    return figure


def _cells(mask: Tensor) -> Picture:
    """(frames, rows, cols) as pixels of the enlarged frames, with an axis for colours."""
    return mask.float().numpy().repeat(CELL, 1).repeat(CELL, 2)[..., None]


def _box(canvas: NDArray[np.uint8], y: int, x: int, colour: str, inset: int, width: int = 3) -> None:
    cell = canvas[y + inset : y + CELL - inset, x + inset : x + CELL - inset]
    inside = cell[width:-width, width:-width].copy()
    cell[:] = np.multiply(to_rgb(colour), 255)
    cell[width:-width, width:-width] = inside
