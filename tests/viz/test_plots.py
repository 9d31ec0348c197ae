"""The figures: a user's own method is drawn like the others, axes are in %, labels do not overlap."""

from __future__ import annotations

from itertools import pairwise

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex

from dycoke_lab.evaluation.grids import read_grid
from dycoke_lab.evaluation.metrics import FULL_ON_THE_REST, threshold_table
from dycoke_lab.methods import METHODS, Dynamic, Selector, colour_of
from dycoke_lab.methods.scores import top
from dycoke_lab.results.folders import SWEEP
from dycoke_lab.viz import plots
from dycoke_lab.viz.widgets.threshold_finder import HARMLESS


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


class Mine(Selector):
    """A method of one's own, with neither label nor colour."""

    def select(self, step):
        return top(step.scores, step.candidates, step.budget)


@pytest.fixture
def mine(monkeypatch):
    monkeypatch.setitem(METHODS, "mine", Mine)
    return "mine"


def table(methods):
    """Accuracies as `evaluation.metrics.accuracy` returns them."""
    rows = []
    for method in methods:
        for measure in ("words", "part 0", "part 1"):
            prune = 0.0 if method == "full" else 0.7
            about = dict(merge_ratio=0.5, prune_ratio=prune, method=method)
            rows.append({**about, "measure": measure, "step": len(rows)})
    return pd.DataFrame(rows).assign(mean=0.8, low=0.7, high=0.9)


def test_a_method_of_ones_own_is_drawn_by_its_class_name(mine):
    names, labels = ["full", "dynamic", mine], ["full cache", Dynamic.label, "Mine"]
    rows = table(names)
    figure = plots.lines(rows, "step", "mean", "method", "title", "step", "%", percent=True)
    curves = figure.axes[0].get_lines()
    assert [line.get_label() for line in curves] == labels
    assert to_hex(curves[2].get_color()) == to_hex(colour_of(mine))


def test_each_curve_has_the_baseline_of_its_name():
    rows = table(["a", "b"]).rename(columns={"method": "curve"})
    baseline = {"a": 0.25, "b": 0.1}
    figure = plots.lines(rows, "step", "mean", "curve", "t", "x", "%", baseline=baseline, percent=True)
    drawn = [line for line in figure.axes[0].get_lines() if len(line.get_xdata())]
    dashed = [line for line in drawn if line.get_linestyle() == "--"]
    solid = [line for line in drawn if line.get_linestyle() == "-"]
    assert [line.get_ydata()[0] for line in dashed] == [25, 10]
    assert [line.get_color() for line in dashed] == [line.get_color() for line in solid]
    assert solid[0].get_ydata().tolist() == [80, 80, 80]


def test_labels_of_32_frames_do_not_overlap():
    plots.style()
    figure = plots.steps_by_frames(torch.rand(6, 32), list("abcdef"), [], [], "title")
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
    assert len(boxes) > 8
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_token_states_tell_active_from_inactive_and_returned():
    active = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 1], [1, 0, 0, 1]], dtype=torch.bool)
    retained = torch.tensor([True, True, False, True])
    figure = plots.token_states(active, retained, ["a", "b", "c"], 2, "title")
    assert figure.axes[0].images[0].get_array().tolist() == [[1, 0, 1], [0, 2, 1], [2, 0, 1]]
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names == ["active", "just returned", "inactive"]


@pytest.mark.data
def test_the_default_threshold_is_harmless_in_the_committed_sweep():
    curve = threshold_table(read_grid(SWEEP), draws=200)
    here = curve[curve["threshold"] == HARMLESS].set_index("method")
    assert here.loc[FULL_ON_THE_REST, "mean"] == 1.0 and here["mean"].min() > 0.998
    assert here["left"].max() < 0.7  # and still merges away nearly a third of the tokens
