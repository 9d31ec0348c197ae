"""Figures of the course's first pages: the pipeline, answers by scene, columns of the prompt."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from numpy.typing import NDArray
from torch import Tensor

from dycoke_lab.evaluation.metrics import count_wrong, wrong_words
from dycoke_lab.methods import TTM
from dycoke_lab.viz.clip_runs import Clip, ClipRun
from dycoke_lab.viz.plots import ACTIVE, INACTIVE, MERGED_AWAY, RETURNED, RIGHT_ANSWER, WRONG

Picture = NDArray[Any]
_STRIPES = ((ACTIVE, "#56b4e9"), ("#117733", "#88ccaa"))  # frames of the first video, of the second
LIGHT = "#56b4e9"
_LEFT, _WIDE = 1.7, 6.75  # inches: where the pipeline's pictures begin, and how wide they are
_HIGH = 0.195  # inches: a layer's row


def pipeline(clip: Clip, run: ClipRun, step: int, start: int = 4, frames: int = 8) -> Figure:
    """Draw the way from a video's frames to the next token, with what merging and pruning do at this step.

    run: under temporal merging and a selector. start, frames: which frames are shown, whole windows.
    """
    merging, pruning = run.compression.merger, run.compression.selector
    if not isinstance(merging, TTM) or pruning is None:
        raise ValueError("run has no selector or no TTM: make it with DyCoke(...), which has both")
    first, share = pruning.from_layer, round(100 * (1 - pruning.prune_ratio))
    read = run.trace.attended[step][:, 0].numpy()  # layers, visual tokens
    numbers = range(start, start + frames)
    figure, ax = _canvas(8.75, 6.1 + _HIGH * len(read))
    title = (
        f"Step {step} of an answer: merging acted once, before layer 0;\n"
        f"pruning acts at every step, from layer L = {first} on"
    )
    ax.text(0.1, 0.02, title, fontsize=12.5, fontweight="bold", va="top")
    _row_of_frames(ax, clip, numbers, 0.8)
    _box(ax, (_LEFT, 1.78, _WIDE, 0.42), f"makes {clip.side**2} visual tokens of each frame", "#eef3f7")
    _row_of_tokens(ax, clip, read[0], numbers, 2.52)
    ax.text(_LEFT, 3.45, _about_merging(merging, numbers), fontsize=11.5, va="center")
    _box(ax, (_LEFT, 3.88, _WIDE, 0.36), f"the retained tokens, then “{clip.question}”", "white")
    bottom = _cache(ax, clip, read, numbers, 4.86, first, share)
    _box(ax, (_LEFT, bottom + 0.68, 2.5, 0.46), f"“{run.words[step]}”", "#fff2cc", bold=True)
    again = "the next step reads it,\nand writes one more"
    ax.text(_LEFT + 2.7, bottom + 0.91, again, fontsize=11.5, va="center")
    right = _LEFT + _WIDE + 0.08  # the word's own place in the cache, beside the video's
    ax.add_patch(Rectangle((right, 4.86), 0.14, bottom - 4.86, facecolor="#fff2cc", edgecolor="0.4"))
    loop = dict(arrowstyle="-|>", color="0.3", linewidth=2, connectionstyle="arc3,rad=0.35")
    ax.annotate("", (right + 0.07, bottom + 0.02), (_LEFT + 4.75, bottom + 0.91), arrowprops=loop)
    names = {
        1.17: "frames", 1.99: "vision tower", 2.88: "visual tokens", 4.06: "prompt",
        4.62: "decoder, with\nits KV cache", bottom + 0.91: "next token",
    }  # fmt: skip
    for y, name in names.items():
        ax.text(0.1, y, name, fontsize=12, fontweight="bold", va="center")
    shown = f"{start} to {numbers[-1]}\nof the clip's {len(clip.pixels)}"
    ax.text(0.1, 1.45, shown, fontsize=11, va="center")
    arrow = dict(arrowstyle="-|>", color="0.3", linewidth=2)
    for begin, end in ((1.56, 1.78), (2.22, 2.48), (3.6, 3.87), (4.26, 4.62), (bottom + 0.4, bottom + 0.67)):
        x = _LEFT + (1.25 if end > bottom else _WIDE / 2)
        ax.annotate("", (x, end), (x, begin), arrowprops=arrow)
    return figure


def _about_merging(merging: TTM, numbers: range) -> str:
    whole = " and ".join(str(number) for number in numbers if number % merging.window == 0)
    if merging.merge_ratio is None:
        return f"merging takes tokens of all frames but {whole} away (white)"
    part = f"{100 * merging.merge_ratio:.0f} % of the tokens"
    return f"merging, K = {merging.merge_ratio:g}: {part} of all frames but {whole} go (white)"


def _cache(ax: Axes, clip: Clip, read: Picture, numbers: range, top: float, first: int, share: int) -> float:
    """Draw a row a layer: which retained tokens of these frames it reads. Return where the last row ends."""
    per_frame, high = clip.side**2, _HIGH
    inside = np.zeros(read.shape[1], bool)
    inside[numbers.start * per_frame : numbers.stop * per_frame] = True
    shown = (read[0] & inside).nonzero()[0]
    frame = shown // per_frame
    state = np.where(read[:, shown], 1 + frame % 2, 0)
    bottom, depth = top + high * len(state), len(state)
    colours = ListedColormap([INACTIVE, ACTIVE, LIGHT])
    look: dict[str, Any] = dict(cmap=colours, vmin=0, vmax=2, aspect="auto", interpolation="nearest")
    ax.imshow(state, extent=(_LEFT, _LEFT + _WIDE, bottom, top), **look)
    for layer in range(1, depth):
        ax.plot([_LEFT, _LEFT + _WIDE], [top + high * layer] * 2, color="white", linewidth=1.5)
    for number in numbers:
        here = (frame == number).nonzero()[0]
        x = _LEFT + _WIDE * (here.mean() + 0.5) / len(shown)
        ax.text(x, top - 0.1, f"{number}", ha="center", va="center", fontsize=10)
    line = top + high * first
    ax.plot([0.1, _LEFT + _WIDE], [line, line], color=RETURNED, linewidth=3)
    ax.text(0.1, line - 0.13, f"L = {first}", color=RETURNED, fontsize=12, fontweight="bold", va="center")
    small: dict[str, Any] = dict(fontsize=11, va="center")
    ax.text(0.1, (top + line) / 2, f"layers 0 to {first - 1}:\nread all that\nis retained", **small)
    ax.text(
        0.1, (line + bottom) / 2 + 0.02, f"layers {first} to {depth - 1}:\nread {share} % (blue)", **small
    )
    about = f"layer L - 1 = {first - 1} chooses these {share} % at this step; grey ones can return"
    ax.text(_LEFT, bottom + 0.2, about, fontsize=11, va="center")
    return bottom


def _canvas(wide: float, high: float) -> tuple[Figure, Axes]:
    figure = plt.figure(figsize=(wide, high))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, wide), ylim=(high, 0), autoscale_on=False)
    ax.axis("off")
    return figure, ax


def _box(
    ax: Axes, place: tuple[float, float, float, float], text: str, fill: str, bold: bool = False
) -> None:
    x, y, wide, high = place
    box = FancyBboxPatch((x, y), wide, high, boxstyle="round,pad=0,rounding_size=0.08", fc=fill, ec="0.4")
    ax.add_patch(box)
    weight = "bold" if bold else "normal"
    ax.text(x + wide / 2, y + high / 2, text, ha="center", va="center", fontsize=12, fontweight=weight)


def _row_of_frames(ax: Axes, clip: Clip, numbers: range, top: float) -> None:
    step = _WIDE / len(numbers)
    for place, number in enumerate(numbers):
        left, size = _LEFT + place * step, step * 0.88
        _paste(ax, as_picture(clip.pixels[number]), left, top, size)
        ax.text(left + size / 2, top - 0.1, str(number), ha="center", va="center", fontsize=10)


def _row_of_tokens(ax: Axes, clip: Clip, retained: Picture, numbers: range, top: float) -> None:
    """Draw each retained token as a square in its place's mean colour, each merged one as a white one."""
    colours, kept = token_colours(clip), retained.reshape(len(clip.pixels), clip.side, clip.side)
    step = _WIDE / len(numbers)
    for place, number in enumerate(numbers):
        left, cell = _LEFT + place * step, step * 0.88 / clip.side
        for row, col in np.ndindex(clip.side, clip.side):
            fill = colours[number, row, col] if kept[number, row, col] else "white"
            corner = (left + col * cell, top + row * cell)
            ax.add_patch(Rectangle(corner, cell, cell, facecolor=fill, edgecolor="0.75", linewidth=0.5))


def token_colours(clip: Clip) -> Picture:
    """Return (frames, rows, cols, 3): the mean colour of the part of the picture that a token stands for."""
    frames, _, high, wide = clip.pixels.shape
    part = clip.pixels.view(frames, 3, clip.side, high // clip.side, clip.side, wide // clip.side)
    return np.asarray(part.mean((3, 5)).permute(0, 2, 3, 1).clamp(0, 1).numpy())


def as_picture(frame: Tensor) -> Picture:
    return np.asarray(frame.permute(1, 2, 0).clamp(0, 1).numpy())


def _paste(ax: Axes, picture: Picture, left: float, top: float, size: float) -> None:
    ax.imshow(picture, extent=(left, left + size, top + size, top), interpolation="nearest", aspect="auto")


def telling_frames(clip: Clip) -> list[list[int]]:
    """Return, for each scene, the first frame that shows most of its places, and one that shows what this one
    lacks, if there is one: a thing may come late or leave early. The frame of the first place comes first."""
    found = []
    for scene in range(int(clip.scene.max()) + 1):
        frames = (clip.scene == scene).nonzero()[:, 0].tolist()
        shows = {frame: set(clip.actor[frame].tolist()) - {-1} for frame in frames}
        best = max(frames, key=lambda frame: len(shows[frame]))
        other = max(frames, key=lambda frame: len(shows[frame] - shows[best]))
        both = {best, other} if shows[other] - shows[best] else {best}
        found.append(sorted(both, key=lambda frame: (min(shows[frame], default=-1), frame)))
    return found


def answers(clip: Clip, runs: Sequence[tuple[str, ClipRun]], title: str) -> Figure:
    """Draw what was written for each scene under frames of it, a row a run: wrong words red and crossed.

    runs: (label, run). The right answer is the first row.
    """
    telling, per_scene = telling_frames(clip), clip.places + 1
    scenes = len(telling)
    wide, top = 8.5 / scenes, 0.8
    size = min(1.3, (wide - 0.2) / max(map(len, telling)) - 0.03)
    rows = [("right answer", clip.answer), *((label, run.words) for label, run in runs)]
    lines = 1 if clip.places < 4 else 2
    high = 0.55 + 0.3 * lines
    figure, ax = _canvas(8.5, top + size + 0.2 + high * len(rows))
    ax.text(0.05, 0.05, title, fontsize=12.5, fontweight="bold", va="top")
    for scene, frames in enumerate(telling):
        for place, frame in enumerate(frames):
            _paste(ax, as_picture(clip.pixels[frame]), scene * wide + 0.05 + place * (size + 0.05), top, size)
        named = f"scene {scene + 1}, frame{'s' * (len(frames) > 1)} {' and '.join(map(str, frames))}"
        ax.text(scene * wide + 0.05, top - 0.11, named, fontsize=10.5, va="center")
    for number, (label, words) in enumerate(rows):
        y = top + size + 0.2 + high * number
        wrong = count_wrong(list(words), clip.answer)
        verdict = (
            f": {wrong} wrong word{'s' * (wrong > 1)}" if wrong else ": every word right" if number else ""
        )
        ax.plot([0.05, 8.45], [y, y], color="0.8", linewidth=1)
        colour = WRONG if wrong else RIGHT_ANSWER if number else "black"
        ax.text(0.05, y + 0.2, f"{label}{verdict}", fontsize=11, fontweight="bold", color=colour, va="center")
        bad = wrong_words(list(words), clip.answer)
        for place, (word, is_wrong) in enumerate(zip(words, bad, strict=True)):
            scene, slot = divmod(place, per_scene)
            if slot == clip.places or scene >= scenes:  # a comma or the end
                continue
            across = -(-clip.places // lines)
            x = scene * wide + 0.05 + slot % across * (wide - 0.1) / across
            look: dict[str, Any] = dict(color=WRONG, fontweight="bold") if is_wrong else {}
            text = f"✗{word}" if is_wrong else word
            ax.text(x, y + 0.5 + 0.3 * (slot // across), text, fontsize=11.5, va="center", **look)
    return figure


def frame_to_tokens(pixels: Tensor, patches: int, side: int, columns: Tensor, title: str) -> Figure:
    """Draw a frame (3, height, width), its patches, and its visual tokens with their columns."""
    figure, axes = plt.subplots(1, 3, figsize=(8.5, 3.4), layout="constrained")
    size = pixels.shape[1]
    names = ("a frame", f"{patches} x {patches} patches", f"{side} x {side} visual tokens: columns")
    for ax, name, parts in zip(axes, names, (1, patches, side), strict=True):
        ax.imshow(as_picture(pixels), extent=(0, size, size, 0), interpolation="nearest")
        for line in np.arange(1, parts) * size / parts:
            ax.axvline(line, color="white", linewidth=0.8)
            ax.axhline(line, color="white", linewidth=0.8)
        ax.set(xticks=[], yticks=[])
        ax.set_title(name, fontsize=11, fontweight="normal", loc="center")
    cell = size / side
    for number, column in enumerate(columns.tolist()):
        x, y = (number % side + 0.5) * cell, (number // side + 0.5) * cell
        behind = dict(facecolor="black", alpha=0.55, pad=1, edgecolor="none")
        axes[2].text(x, y, column, color="white", ha="center", va="center", fontsize=9, bbox=behind)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=12.5)
    return figure


def prompt_map(videos: Sequence[tuple[Tensor, Tensor]], words: Sequence[str], title: str) -> Figure:
    """Draw frames above the columns of the prompt that hold them.

    videos: for each its pixels (frames, 3, height, width) and the columns of its tokens (frames, tokens).
    words: the prompt's tokens. Those between videos are written below their columns.
    """
    figure, ax = _canvas(8.5, 3.2)
    ax.text(0.1, 0.02, title, fontsize=12.5, fontweight="bold", va="top")
    left, wide, top, high, length = 0.1, 8.3, 1.85, 0.4, len(words)
    colours = np.empty((1, length, 3))
    colours[:] = to_rgb(MERGED_AWAY)
    frames = [(v, *frame) for v, video in enumerate(videos) for frame in zip(*video, strict=True)]
    each = wide / len(frames)
    size = min(each * 0.92, 0.8)
    for number, (video, pixels, columns) in enumerate(frames):
        x = left + (number + 0.5) * each - size / 2
        _paste(ax, as_picture(pixels), x, 0.72, size)
        if size > 0.3 or number % 2 == 0:
            ax.text(x + size / 2, 0.61, str(number), ha="center", va="center", fontsize=10)
        colours[0, columns.numpy()] = to_rgb(_STRIPES[video % 2][number % 2])
        begin, end = (left + wide * place / length for place in (int(columns[0]), int(columns[-1]) + 1))
        xs, ys = (x, x + size, end, begin), (0.72 + size, 0.72 + size, top, top)
        ax.fill(xs, ys, color=_STRIPES[video % 2][number % 2], alpha=0.25, linewidth=0)
    ax.imshow(colours, extent=(left, left + wide, top + high, top), interpolation="nearest", aspect="auto")
    visual = {int(column) for _, columns in videos for column in columns.flatten()}
    for row, (start, text) in enumerate(texts_between(words, visual)):
        x = left + wide * (start + 0.5) / length
        y, look = top + high + 0.3 + 0.3 * row, dict(arrowstyle="-", color="0.4")
        side = "right" if x > 5 else "left"
        ax.annotate(
            f"column {start}: {text}", (x, top + high), (min(x, 8.4), y), ha=side, va="center", fontsize=11,
            arrowprops=look,
        )  # fmt: skip
    return figure


def texts_between(words: Sequence[str], visual: Container[int]) -> list[tuple[int, str]]:
    """Return the pieces of a prompt that show no place of a video, each with its first column."""
    pieces: list[tuple[int, list[str]]] = []
    for column, word in enumerate(words):
        if column in visual:
            continue
        if not pieces or pieces[-1][0] + len(pieces[-1][1]) != column:
            pieces.append((column, []))
        pieces[-1][1].append("(line break)" if word == "<video>" else word)
    return [(start, " ".join(found)) for start, found in pieces]
