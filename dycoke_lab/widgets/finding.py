"""Threshold finder: accuracy as it was measured, with the present setting marked, so that a choice is read off data."""

from __future__ import annotations

from typing import Any

import ipywidgets as w
import pandas as pd

from dycoke_lab.study import SWEEP_PRUNE
from dycoke_lab.tables import heat_table, threshold_table
from dycoke_lab.views import finder_axes, finder_view
from dycoke_lab.widgets.panel import Panel, call, chooser, slider

MEASURES = {"words": "words", "whole answers": "exact"}


class ThresholdFinder(Panel):
    """rows: of `python -m dycoke_lab sweep`. Only settings that were measured can be chosen."""

    def __init__(self, rows: pd.DataFrame, merge_ratio: float = 0.5, prune_ratio: float = 0.7, threshold: float = 0.99) -> None:
        self.heat = {name: heat_table(rows, measure) for name, measure in MEASURES.items()}
        self.curve = {name: threshold_table(rows, measure) for name, measure in MEASURES.items()}
        self.axes = {name: finder_axes(self.heat[name], self.curve[name]) for name in MEASURES}
        heat, thresholds = self.heat["words"], [float(t) for t in sorted(self.curve["words"]["threshold"].unique())]
        self.by = "ratio"
        controls = {
            "merge_ratio": slider(
                w.SelectionSlider, "K, share merged", "One of the ratios measured.", options=list(heat.index), value=merge_ratio
            ),
            "prune_ratio": slider(
                w.SelectionSlider, "P, share pruned", "One of the ratios measured.", options=list(heat.columns), value=prune_ratio
            ),
            "threshold": slider(
                w.SelectionSlider,
                "or: threshold",
                "One of the similarity thresholds measured, instead of K.",
                options=thresholds,
                value=threshold,
            ),
            "measure": chooser(
                "accuracy of", "Single words, or whole answers, where one wrong word counts.", list(MEASURES), "words"
            ),
        }
        super().__init__("Threshold finder", controls, [["merge_ratio", "prune_ratio"], ["threshold", "measure"]])

    def changed(self, name: str) -> None:
        if not self.quiet and name in ("merge_ratio", "threshold"):
            self.by = "ratio" if name == "merge_ratio" else "threshold"
        super().changed(name)

    def reset(self) -> None:
        self.by = "ratio"
        super().reset()

    def code(self) -> str:
        by = {"merge_ratio": float(self["merge_ratio"])} if self.by == "ratio" else {"merge_threshold": self["threshold"]}
        prune = self["prune_ratio"] if self.by == "ratio" else SWEEP_PRUNE  # what thresholds were measured with
        return call({**by, "score_layer": 3, "prune_ratio": float(prune)})

    def draw(self) -> Any:
        return self._picture(self["merge_ratio"], self["prune_ratio"], self["threshold"])

    def upcoming(self) -> Any:
        """The sliders' other places."""
        merge, prune, threshold = (self[name] for name in ("merge_ratio", "prune_ratio", "threshold"))
        yield from (self._picture(other, prune, threshold) for other in self.controls["merge_ratio"].options)
        yield from (self._picture(merge, other, threshold) for other in self.controls["prune_ratio"].options)
        yield from (self._picture(merge, prune, other) for other in self.controls["threshold"].options)

    def _picture(self, merge: float, prune: float, threshold: float) -> Any:
        name = self["measure"]
        key = (merge, prune, threshold, name, self.by)
        return key, lambda: finder_view(self.axes[name], self.heat[name], self.curve[name], *key)
