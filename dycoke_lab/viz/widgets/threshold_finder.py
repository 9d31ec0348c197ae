"""Read a ratio or a threshold off measured accuracies: the present setting is marked in them."""

from __future__ import annotations

from typing import Any

import ipywidgets as w
import pandas as pd

from dycoke_lab.evaluation.metrics import heat_table, threshold_table
from dycoke_lab.evaluation.settings import SWEEP_PRUNE
from dycoke_lab.viz.frames import finder_axes, finder_view
from dycoke_lab.viz.widgets.controls import call, chooser, slider
from dycoke_lab.viz.widgets.panel import Panel

MEASURES = {"words": "words", "whole answers": "exact"}
LAYER = 3  # what the sweep was measured with
HARMLESS = 0.9999  # of the committed sweep: all words stay right, and a third of the tokens are merged away


class ThresholdFinder(Panel):
    """rows: of `dycoke-lab sweep`. Only settings that were measured can be chosen."""

    def __init__(
        self,
        rows: pd.DataFrame,
        merge_ratio: float = 0.5,
        prune_ratio: float = 0.7,
        threshold: float = HARMLESS,
    ) -> None:
        self.heat = {name: heat_table(rows, measure) for name, measure in MEASURES.items()}
        self.curve = {name: threshold_table(rows, measure) for name, measure in MEASURES.items()}
        self.axes = {name: finder_axes(self.heat[name], self.curve[name]) for name in MEASURES}
        heat, thresholds = self.heat["words"], sorted(self.curve["words"]["threshold"].unique().tolist())
        self.by = "ratio"
        ratio = "One of the ratios measured."
        similarity = "One of the similarity thresholds measured, instead of K."
        accuracy = "Single words, or whole answers, where one wrong word counts."
        controls = {
            "merge_ratio": _selection("merge ratio K", ratio, list(heat.index), merge_ratio),
            "prune_ratio": _selection("prune ratio P", ratio, list(heat.columns), prune_ratio),
            "threshold": _selection("or: threshold", similarity, thresholds, threshold),
            "measure": chooser("accuracy of", accuracy, list(MEASURES), "words"),
        }
        super().__init__(
            "Threshold finder", controls, [["merge_ratio", "prune_ratio"], ["threshold", "measure"]]
        )

    def changed(self, name: str) -> None:
        if not self.quiet and name in ("merge_ratio", "threshold"):
            self.by = "ratio" if name == "merge_ratio" else "threshold"
        super().changed(name)

    def reset(self) -> None:
        self.by = "ratio"
        super().reset()

    def code(self) -> str:
        if self.by == "ratio":
            merging, prune = call("TTM", float(self["merge_ratio"])), float(self["prune_ratio"])
        else:  # thresholds were measured with one prune ratio
            merging, prune = call("TTM", threshold=self["threshold"]), SWEEP_PRUNE
        return f"{merging} + {call('Dynamic', prune, from_layer=LAYER)}"

    def draw(self) -> Any:
        return self._picture(self["merge_ratio"], self["prune_ratio"], self["threshold"])

    def upcoming(self) -> Any:
        """Yield the sliders' other places."""
        merge, prune, threshold = (self[name] for name in ("merge_ratio", "prune_ratio", "threshold"))
        yield from (self._picture(other, prune, threshold) for other in self.controls["merge_ratio"].options)
        yield from (self._picture(merge, other, threshold) for other in self.controls["prune_ratio"].options)
        yield from (self._picture(merge, prune, other) for other in self.controls["threshold"].options)

    def _picture(self, merge: float, prune: float, threshold: float) -> Any:
        name = self["measure"]
        key = (merge, prune, threshold, name, self.by)
        return key, lambda: finder_view(self.axes[name], self.heat[name], self.curve[name], *key)


def _selection(description: str, tooltip: str, options: list[float], value: float) -> w.SelectionSlider:
    return slider(w.SelectionSlider, description, tooltip, options=options, value=value)
