"""Figures of the course's page on attention: laid over frames, and how many tokens hold it."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from dycoke_lab.viz.clip_runs import Clip, ClipRun
from dycoke_lab.viz.course_tokens import as_picture
from dycoke_lab.viz.plots import ACTIVE, RETURNED, RIGHT_ANSWER


def looks(clip: Clip, run: ClipRun, layer: int, steps: Sequence[int], title: str) -> Figure:
    """Draw, for each step, the frame that gets most attention, with the attention laid over it. What the
    right word names is boxed."""
    figure, axes = plt.subplots(1, len(steps), figsize=(8.5, 3.3), layout="constrained", squeeze=False)
    for ax, step in zip(axes[0], steps, strict=True):
        attention = clip.grid(run.trace.attention[step][layer, :, 0].mean(0))
        best = int(attention.sum((1, 2)).argmax())
        share = 100 * float(attention[best].sum() / attention.sum())
        _overlay(ax, clip, best, attention, clip.named(step)[best])
        about = f"step {step}: “{run.words[step]}”\nframe {best}: {share:.0f} %"
        ax.set_title(about, fontsize=11, fontweight="normal", loc="left")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=12.5)
    return figure


def _overlay(ax: Axes, clip: Clip, frame: int, attention: Tensor, named: Tensor) -> None:
    pixels, size = as_picture(clip.pixels[frame]), clip.pixels.shape[2]
    grey = 0.35 + 0.65 * pixels.mean(2, keepdims=True)  # so that colour means attention only
    strong = (attention[frame] / attention.max()).sqrt().numpy()
    strong = np.kron(strong, np.ones((size // clip.side,) * 2))[..., None] * 0.8
    ax.imshow(grey * (1 - strong) + np.array(to_rgb(RETURNED)) * strong, extent=(0, size, size, 0))
    cell = size / clip.side
    for row, col in named.nonzero().tolist():
        box = dict(fill=False, edgecolor=RIGHT_ANSWER, linewidth=2)
        ax.add_patch(Rectangle((col * cell, row * cell), cell, cell, **box))  # type: ignore[arg-type]
    ax.set(xticks=[], yticks=[])


def coverage_curves(attention: Tensor, share: float, title: str) -> Figure:
    """Draw how much of each step's attention within the video the strongest tokens hold, by how many they
    are. attention: (steps, visual)."""
    ordered = attention.double().sort(dim=1, descending=True).values
    held = 100 * (ordered.cumsum(1) / ordered.sum(1, keepdim=True)).numpy()
    held = np.concatenate([np.zeros((len(held), 1)), held], 1)
    x = 100 * np.arange(held.shape[1]) / attention.shape[1]
    figure, ax = plt.subplots(figsize=(8.5, 4.4), layout="constrained")
    for row in held:
        ax.plot(x, row, color="0.7", linewidth=1)
    ax.plot(x, held.mean(0), color=ACTIVE, linewidth=3, label="mean of the steps (grey: each step)")
    ax.plot([0, 100], [0, 100], color="0.4", linestyle="--", linewidth=1, label="if attention were even")
    ax.axhline(100 * share, color=RETURNED, linewidth=1.5, label=f"{100 * share:g} % of the attention")
    ax.set(xlabel="strongest visual tokens, % of all", ylabel="attention within\nthe video, %", title=title)
    ax.legend(loc="lower right", frameon=False)
    return figure
