"""Figures of time and memory show what the rows hold."""

from __future__ import annotations

from itertools import pairwise

import matplotlib.pyplot as plt
import pytest

from dycoke_lab.bench.configs import configs
from dycoke_lab.bench.predictions import gain
from dycoke_lab.bench.summary import table
from dycoke_lab.viz import bench_figures

pytestmark = pytest.mark.slow  # it measures first


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def lines(measured):
    (lines,) = bench_figures.jobs(measured[2])
    assert len(lines) == len(table(measured[2]))
    return lines


def test_stages_add_up_to_the_whole(lines):
    (ax,) = bench_figures.stages(lines, "title").axes
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == [line["config"] for line in lines if line["config"] not in ("vision", "capture")]
    vision, full = (next(line for line in lines if line["config"] == name) for name in ("vision", "full"))
    assert sum(bar.get_width() for bar in ax.patches[:5]) == pytest.approx(vision["vision"] + full["total"])


@pytest.mark.parametrize("to", ["full-in-place", "full", "truncated"])
def test_against_draws_every_dycoke_config(lines, to):
    figure = bench_figures.against(lines, "title", to, 1.05)
    (ax,) = figure.axes
    assert len(ax.get_yticklabels()) == 4  # K = .5 and .7, at every step, in static steps
    if to == "full-in-place":
        (default,) = bench_figures.against(lines, "title").axes
        assert default.get_xlabel() == ax.get_xlabel() and "written in place" in ax.get_xlabel()
    assert not overlapping(figure)


def test_roofline_has_a_point_for_each_stage(measured):
    figure = bench_figures.roofline(measured[2], "title")
    (ax,) = figure.axes
    assert ax.get_ylabel() == "billion operations per second" and not overlapping(figure)


def test_shown_has_the_ratios_with_their_intervals(lines):
    found = bench_figures.shown(lines)
    assert list(found.index) == [line["config"] for line in lines if line["config"] != "vision"]
    assert "[" in found.loc["dycoke K=0.7 P=0.7", "step / full-in-place"]


def test_gains_are_drawn_side_by_side(no_peak):
    tables = {name: gain("tiny", no_peak, 0.7, 0.0, [4, 8], [1, 2]) for name in "ab"}
    assert len(bench_figures.gains(tables, "title").axes) == 2


def overlapping(figure):
    """Tick labels of an axis that cover each other."""
    figure.canvas.draw()
    renderer, found = figure.canvas.get_renderer(), []
    for ax in figure.axes:
        for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
            boxes = [label.get_window_extent(renderer) for label in labels if label.get_text()]
            found += [(a, b) for a, b in pairwise(boxes) if a.overlaps(b)]
    return found


@pytest.mark.parametrize("frames", [1, 32])
def test_ticks_do_not_overlap_for_many_configs(frames):
    many = configs("tiny", frames, 1, 2, ["dycoke"], [0.0, 0.3, 0.5, 0.7], [0.3, 0.7, 0.9], [0.9, 2.0])
    ratio = (0.9, 0.85, 0.95)
    lines = [{"config": config.label, "frames": frames, "step / full-in-place": ratio} for config in many]
    assert not overlapping(bench_figures.against(lines, "title"))
