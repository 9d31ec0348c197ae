"""Figure of the course's page on attention: laid over frames."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from dycoke_lab.viz.clip_runs import Clip, ClipRun, aim
from dycoke_lab.viz.course_tokens import as_picture
from dycoke_lab.viz.plots import RETURNED, RIGHT_ANSWER


def clearest_steps(clip: Clip, run: ClipRun, layer: int) -> list[int]:
    """Return, for each scene, the step whose word names what gets most of the layer's attention, mean over
    heads."""
    aims = aim(clip, run, mean=True)[:, layer, 0].nan_to_num(-1)
    width = clip.places + 1  # a scene: its words and a comma
    starts = range(0, width * (int(clip.scene.max()) + 1), width)
    return [start + int(aims[start : start + width].argmax()) for start in starts]


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
        about += "" if clip.named(step)[best].any() else f"\n(no “{clip.answer[step]}” in it)"
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
