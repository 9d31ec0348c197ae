"""Does the first look tell what later steps attend to? Measured step by step on held-out videos."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from dycoke_lab.attention.capture import capture_attention
from dycoke_lab.attention.drift import drift_table, mass_on, step_cosine, top_tokens
from dycoke_lab.evaluation.grids import answer_task
from dycoke_lab.specimen.tasks import Task


def look_again(
    model: Any, task: Task, layer: int, share: float = 0.1
) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """Return what one layer attends to at each step of a task's answers, without any pruning.

    A table with a row for each video and step: columns of `drift_table`; by_frame, the cosine of what each
    frame gets with the step before; first_look and own, the share of the step's attention within the video on
    the top tokens of step 0 and on its own top tokens; scene, which the step's word names, -1 for none. And
    (steps, frames): which frame gets how much, mean over videos.
    """
    with capture_attention(model) as trace:
        answer_task(model, task)
    steps = task.answer.shape[1]
    del trace.attention[steps:], trace.attended[steps:]
    tables, maps = [], []
    for sample in range(len(task.ids)):
        attention, frames = trace.stack(layer, sample), trace.per_frame(layer, sample)
        own = top_tokens(attention, share)
        table = drift_table(attention, share).assign(
            video=sample,
            by_frame=step_cosine(frames),
            first_look=mass_on(attention, own[0].expand_as(own)),
            own=mass_on(attention, own),
            scene=task.scene[sample].numpy(),
        )
        tables.append(table)
        maps.append((frames / frames.sum(1, keepdim=True)).double().numpy())
    return pd.concat(tables, ignore_index=True), np.mean(maps, 0)


def kinds_of_steps(scene: Tensor) -> list[str]:
    """Return, for each step of an answer, what separates it from the step before: "first", "same scene",
    "new scene", or "comma" for a step that names nothing. scene: (steps,), as a task has it."""
    found: list[str] = []
    last = None
    for number in scene.tolist():
        if number < 0:
            found.append("comma" if found else "first")
            continue
        found.append("first" if last is None else "same scene" if number == last else "new scene")
        last = number
    return found


def by_step(table: pd.DataFrame, measures: list[str]) -> pd.DataFrame:
    """Return a row for each step and measure: the mean, the lowest and highest tenth over videos."""
    long = table.melt(["video", "step"], measures, "measure")
    groups = long.groupby(["measure", "step"], sort=False)["value"]
    found = pd.concat([groups.mean().rename("mean"), groups.quantile(0.1).rename("low")], axis=1)
    return found.assign(high=groups.quantile(0.9)).reset_index()


def held_by_first_look(table: pd.DataFrame) -> float:
    """Return the share of later steps' attention that the first look's top tokens hold, mean over videos; of
    steps that name something."""
    later = table[(table["step"] > 0) & (table["scene"] >= 0)]
    return float(later.groupby("video")["first_look"].mean().mean())
