"""Figures and tables of time and memory show what the rows hold."""

from __future__ import annotations

from itertools import pairwise

import matplotlib.pyplot as plt
import pytest

from dycoke_lab.bench.configs import configs
from dycoke_lab.bench.model_shapes import SHAPES
from dycoke_lab.bench.roofline import H100
from dycoke_lab.bench.summary import table
from dycoke_lab.viz import bench_figures


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


def test_agreement_is_the_share_of_the_roofline(measured, lines):
    found = bench_figures.agreement(measured[2]).set_index(["config", "stage"])
    full = next(line for line in lines if line["config"] == "full")
    assert found.loc[("full", "step"), "roofline / measured"] == pytest.approx(full["step roofline"])


def test_gains_are_drawn_side_by_side(no_peak):
    tables = {name: bench_figures.gain("tiny", no_peak, 0.7, 0.0, [4, 8], [1, 2]) for name in "ab"}
    assert len(bench_figures.gains(tables, "title").axes) == 2
    saved = bench_figures.gain("llava-ov-7b", H100, 0.7, 0.0, [32, 128], [1, 8])
    assert saved.loc[32, 1] < 0.02 < 0.1 < saved.loc[128, 8]


def test_paper_column_is_its_formula_and_the_honest_one_about_twice_as_high():
    found = bench_figures.paper().set_index(["model", "setting"])
    for name, line in found.iterrows():
        if "fastv" not in name[1]:  # another layer than L = 3, it seems: 13 to 17 % off
            assert line["its formula, T"] == pytest.approx(line["FLOPs, T (paper)"], rel=0.035)
        assert 1.75 < line["honest, T"] / line["its formula, T"] < 2.5
        assert line["merging, G"] + line["selecting, G"] < 0.001 * 1000 * line["honest, T"]


def test_memory_of_inactive_tokens_is_freed_by_offloading_and_eviction():
    line = bench_figures.memory("llava-ov-7b", [128], [8]).iloc[0]
    shape = SHAPES["llava-ov-7b"]
    retained = 128 * 196 - 96 * (196 - 59)
    inactive = retained - int(0.3 * retained + 0.5)
    assert line["merged"] == line["inactive on the device"]
    freed = 8 * 25 * inactive * shape.kv_bytes() / 1e9
    assert line["merged"] - line["inactive offloaded"] == pytest.approx(freed)
    assert line["inactive offloaded"] == line["evicted"]
    assert line["logits of the whole prompt"] == pytest.approx(8 * (128 * 196 + 45) * 152_128 * 2 / 1e9)


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
