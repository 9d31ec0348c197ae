"""Read a ratio or a threshold off measured accuracies: the present setting is marked in them."""

from __future__ import annotations

from typing import Any

import ipywidgets as w
import pandas as pd

from dycoke_lab.evaluation.metrics import heat_table, threshold_table
from dycoke_lab.evaluation.settings import SWEEP_PRUNE
from dycoke_lab.viz.frames import finder_axes, finder_view
from dycoke_lab.viz.widgets.controls import call, chooser, slider, start_at
from dycoke_lab.viz.widgets.panel import Panel

MEASURES = {"words": "words", "whole answers": "exact"}
LAYER = 3  # what the sweep was measured with
HARMLESS = 0.9999  # of the committed sweep: all words stay right, and a third of the tokens are merged away


class ThresholdFinder(Panel):
    """sweep: rows of `dycoke-lab sweep`. Only settings that were measured can be chosen.

    by: "ratio" or "threshold", which of the two the copied setting merges by: the one that was moved.
    """

    def __init__(
        self,
        sweep: pd.DataFrame,
        merge_ratio: float = 0.5,
        prune_ratio: float = 0.7,
        threshold: float = HARMLESS,
        measure: str = "words",
        by: str = "ratio",
    ) -> None:
        if by not in ("ratio", "threshold"):
            raise ValueError(f"by={by!r} must be one of 'ratio', 'threshold'")
        self.heat = {name: heat_table(sweep, column) for name, column in MEASURES.items()}
        self.curve = {name: threshold_table(sweep, column) for name, column in MEASURES.items()}
        self.axes = {name: finder_axes(self.heat[name], self.curve[name]) for name in MEASURES}
        heat, thresholds = self.heat["words"], sorted(self.curve["words"]["threshold"].unique().tolist())
        self.by = self.first = by
        ratio = "One of the ratios measured."
        similarity = "One of the similarity thresholds measured, instead of K."
        accuracy = "Single words, or whole answers, where one wrong word counts."
        controls = {
            "merge_ratio": _selection("merge ratio K", ratio, heat.index.tolist()),
            "prune_ratio": _selection("prune ratio P", ratio, heat.columns.tolist()),
            "threshold": _selection("or: threshold", similarity, thresholds),
            "measure": chooser("accuracy of", accuracy, list(MEASURES)),
        }
        about = dict(merge_ratio=merge_ratio, prune_ratio=prune_ratio, threshold=threshold, measure=measure)
        start_at(controls, **about)
        super().__init__(
            "Threshold finder", controls, [["merge_ratio", "prune_ratio"], ["threshold", "measure"]]
        )

    def changed(self, name: str) -> None:
        if not self.quiet and name in ("merge_ratio", "threshold"):
            self.by = "ratio" if name == "merge_ratio" else "threshold"
        super().changed(name)

    def reset(self) -> None:
        self.by = self.first
        super().reset()

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "by": self.by}

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


def _selection(description: str, tooltip: str, options: list[float]) -> w.SelectionSlider:
    return slider(w.SelectionSlider, description, tooltip, options=options)
