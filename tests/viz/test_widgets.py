"""The Python side of the explorers: what they show, ask the model for, and never show."""

from __future__ import annotations

import html
import threading
import time

import ipywidgets as w
import pandas as pd
import pytest
import torch
from traitlets import TraitError

from dycoke_lab import methods
from dycoke_lab.bench.predictions import paper
from dycoke_lab.evaluation.metrics import heat_table, threshold_table
from dycoke_lab.methods import TTM, Compression, DyCoke, Dynamic, LastQuery, temporal_merge
from dycoke_lab.viz.clip_runs import ClipRunner, equivalent_ratio, equivalent_threshold
from dycoke_lab.viz.frames import attention_view, compare_view, finder_axes, finder_view, png
from dycoke_lab.viz.widgets import (
    AttentionExplorer,
    BlockExplorer,
    CompareKept,
    HeadMap,
    MergeExplorer,
    OneShotVsDynamic,
    ThresholdFinder,
)
from dycoke_lab.viz.widgets.latest import Latest
from dycoke_lab.viz.widgets.merge_explorer import merge_figure, prefill_saved

CLIP = "constructed-2-scenes.mp4"
THRESHOLD = 0.99  # one of the made-up sweep's


@pytest.fixture(scope="module")
def runner():
    return ClipRunner()


@pytest.fixture(scope="module")
def sweep():
    """Rows as `dycoke-lab sweep` leaves them, with made-up accuracies."""
    settings = [(k, p, None) for k in (0.0, 0.5, 0.7) for p in (0.0, 0.7, 0.9)]
    settings += [(0.0, p, t) for t in (0.9, THRESHOLD) for p in (0.0, 0.7)]
    rows = []
    for number, (merge, prune, threshold) in enumerate(settings):
        for seed in (0, 1):
            for video in range(6):
                right = 6 + (number + 2 * seed + 5 * video) % 3
                about = dict(seed=seed, video=f"2-{video}", question="describe", from_layer=3)
                about |= dict(merge_ratio=merge, prune_ratio=prune, merge_threshold=threshold)
                about |= dict(method="dynamic" if prune else "full", left=1 - 0.75 * merge)
                rows.append({**about, "right": f"4{right - 4}", "words": 8, "exact": int(right == 8)})
    return pd.DataFrame(rows)


def panels(runner, sweep):
    yield MergeExplorer(runner, CLIP)
    yield AttentionExplorer(runner, CLIP)
    yield OneShotVsDynamic(runner, CLIP)
    yield ThresholdFinder(sweep, threshold=THRESHOLD)
    yield BlockExplorer(runner, CLIP)
    yield HeadMap(runner, CLIP)
    yield CompareKept(runner, CLIP)


def test_every_control_is_labelled_and_bounded(runner, sweep):
    for panel in panels(runner, sweep):
        panel.wait()
        for name, control in panel.controls.items():
            assert control.description, name
            tips = control.tooltips if isinstance(control, w.ToggleButtons) else [control.tooltip]
            assert all(tips), name
            if isinstance(control, w.IntSlider | w.FloatSlider):
                control.value = 10**6
                assert control.value == control.max
                control.value = -(10**6)
                assert control.value == control.min
            else:
                with pytest.raises(TraitError):
                    control.value = "no such thing"
        panel.reset()
        panel.wait()
        assert {name: panel[name] for name in panel.controls} == panel.start


@pytest.mark.parametrize(
    ("explorer", "slider"),
    [(MergeExplorer, "frame"), (AttentionExplorer, "step"), (OneShotVsDynamic, "step")],
)
def test_reset_goes_back_to_the_start_after_a_shorter_clip(runner, explorer, slider):
    panel = explorer(runner, "constructed-4-scenes.mp4")
    long = panel.controls[slider].max
    panel.controls[slider].value = panel.start[slider] = long
    panel.controls["clip"].value = CLIP
    panel.wait()
    assert panel[slider] == panel.controls[slider].max < long
    panel.reset()
    panel.wait()
    assert panel[slider] == panel.controls[slider].max == long


def test_the_copied_code_is_the_setting(runner, sweep):
    merging, attention, comparing, finding, *_ = panels(runner, sweep)

    def pasted(panel):
        return Compression.of(eval(panel.code(), vars(methods)))

    assert pasted(merging) == merging.compression() == Compression.of(TTM(0.7))
    merging.controls["threshold"].value = 0.9
    assert pasted(merging) == merging.compression() == Compression.of(TTM(threshold=0.9))
    merging.controls["combine"].value = "average"
    assert pasted(merging) == Compression.of(TTM(threshold=0.9, combine="average"))
    assert pasted(attention) == attention.compression() == DyCoke(0.5, 0.9)
    attention.controls["reselect_below"].value = 0.5
    attention.controls["merge_ratio"].value = 0.0
    assert pasted(attention) == attention.compression() == DyCoke(0.0, 0.9, reselect_below=0.5)
    assert comparing.code() == "TTM(0.5) + LastQuery(0.9, from_layer=3)"
    assert pasted(comparing) == comparing.compressions()[0]
    comparing.controls["merge_ratio"].value = 0.0
    assert pasted(comparing) == comparing.compressions()[0] == Compression.of(LastQuery(0.9, 3))
    finding.controls["threshold"].value = 0.9
    assert pasted(finding) == TTM(threshold=0.9) + Dynamic(0.7)
    finding.reset()
    assert pasted(finding) == TTM(0.5) + Dynamic(0.7)
    finding.controls["prune_ratio"].value = 0.9
    assert finding.code() == "TTM(0.5) + Dynamic(0.9, from_layer=3)"
    for panel in (merging, attention, comparing, finding):
        assert panel.code() in html.unescape(panel.setting.value)
        panel.wait()


def test_the_static_figure_equals_the_widgets_picture(runner, sweep):
    merging, attention, comparing, finding, *_ = panels(runner, sweep)
    clip = runner.clip(CLIP)
    merged = temporal_merge(clip.features, 0.7)
    static = merge_figure(
        runner, CLIP, merged, equivalent_threshold(merged.similarity, 0.7), 1, lead="K = 0.7"
    )
    assert png(static) == merging.picture.value
    dynamic = runner.run(CLIP, DyCoke(0.5, 0.9))
    assert png(attention_view(clip, dynamic, 6, 2, None)) == attention.picture.value
    once = runner.run(CLIP, TTM(0.5) + LastQuery(0.9))
    names = [("one-shot, last query", once), ("dynamic (DyCoke)", dynamic)]
    assert png(compare_view(clip, names, 6)) == comparing.picture.value
    heat, curve = heat_table(sweep), threshold_table(sweep)
    static = finder_view(finder_axes(heat, curve), heat, curve, 0.5, 0.7, THRESHOLD, "words")
    assert png(static) == finding.picture.value


def test_ratio_and_threshold_merge_away_the_same_number(runner):
    panel = MergeExplorer(runner, CLIP)
    features = runner.clip(CLIP).features
    similarity = temporal_merge(features, 0.0).similarity
    values = sorted(similarity[~similarity.isnan()].tolist(), reverse=True)
    for ratio in (0.2, 0.5, 0.9):
        gone = similarity.numel() - len(temporal_merge(features, ratio).kept)
        assert equivalent_threshold(similarity, ratio) == values[gone - 1]
    assert equivalent_threshold(similarity, 0.0) == 1.0
    panel.controls["threshold"].value = 0.8
    gone = sum(value >= 0.8 for value in values) / len(values)
    assert equivalent_ratio(similarity, 0.8) == pytest.approx(gone)
    assert panel["merge_ratio"] == pytest.approx(gone, abs=0.011)
    assert len(panel.merged().kept) == len(temporal_merge(features, threshold=0.8).kept)
    panel.controls["merge_ratio"].value = 0.5
    assert panel["threshold"] == pytest.approx(equivalent_threshold(similarity, 0.5), abs=0.00011)
    panel.wait()
    assert "merging" in panel.words.value and "…" not in panel.words.value


def test_the_merge_explorer_counts_flops_as_the_papers_table_does():
    line = paper().set_index(["model", "setting"]).loc[("llava-ov-7b", "dycoke K=0.7 P=0.7")]
    retained = 0.25 * (1 + 3 * 59 / 196)  # of 196 tokens a frame, K = 0.7 retains 59
    assert 100 * prefill_saved(retained) == pytest.approx(line["saved, % (honest)"], abs=0.2)
    assert prefill_saved(1.0) == 0.0


def test_every_token_is_active_inactive_or_merged_away(runner):
    run = runner.run(CLIP, DyCoke(0.5, 0.9))
    previous = None
    for step in range(len(run.words)):
        active, inactive, returned, merged_away = run.states(step)
        assert ((active.int() + inactive.int() + merged_away.int()) == 1).all()
        assert torch.equal(returned, active & ~previous if previous is not None else torch.zeros_like(active))
        previous = active


def test_states_of_a_run_that_prunes_nothing(runner):
    active, inactive, returned, merged_away = runner.run(CLIP, Compression.of(TTM(0.5))).states(3)
    assert torch.equal(active, ~merged_away) and merged_away.any()
    assert not inactive.any() and not returned.any()
    assert runner.run(CLIP, Compression()).states(3).active.all()


def test_the_model_runs_in_the_background_and_the_newest_setting_is_shown(runner):
    panel = AttentionExplorer(runner, CLIP)
    panel.wait()
    assert 'data-busy="false"' in panel.status.value
    shown = panel.run
    panel.controls["prune_ratio"].value = 0.33
    assert 'data-busy="true"' in panel.status.value and panel.run is shown  # the old picture stays meanwhile
    panel.controls["prune_ratio"].value = 0.43
    panel.wait()
    assert panel.run.compression.prune_ratio == 0.43 and 'data-busy="false"' in panel.status.value
    assert runner.known(CLIP, panel.compression()) is panel.run


def test_an_overtaken_result_is_never_shown():
    latest, shown, begun, go = Latest(pause=0.0), [], threading.Event(), threading.Event()

    def slow():
        begun.set()
        go.wait(5)
        return "old"

    latest.submit(slow, shown.append, shown.append)
    assert begun.wait(5)
    latest.submit(lambda: "skipped", shown.append, shown.append)
    latest.submit(lambda: "new", shown.append, shown.append)
    go.set()
    latest.wait()
    assert shown == ["new"]
    latest.submit(lambda: 1 / 0, shown.append, lambda error: shown.append(type(error)))
    latest.wait()
    assert shown == ["new", ZeroDivisionError]


def test_upcoming_pictures_are_drawn_ahead_once_a_page_shows_the_panel(runner):
    panel = AttentionExplorer(runner, CLIP)
    panel.wait()
    assert len(panel.pictures) == 1
    panel.picture._view_count = 1  # as a page reports it
    panel.wait()
    assert len(panel.pictures) == len(panel.run.words)
    started = time.perf_counter()
    for step in range(9):
        panel.controls["step"].value = step
    assert time.perf_counter() - started < 9 * 0.15
    panel.wait()


def test_the_finder_offers_only_what_was_measured(sweep):
    panel = ThresholdFinder(sweep, threshold=THRESHOLD)
    assert list(panel.controls["merge_ratio"].options) == [0.0, 0.5, 0.7]
    assert list(panel.controls["threshold"].options) == [0.9, THRESHOLD]
    heat = heat_table(sweep, "exact")
    ratios = sweep[sweep["merge_threshold"].isna()].set_index(["merge_ratio", "prune_ratio"])
    assert heat.loc[0.5, 0.9] == pytest.approx(ratios.loc[(0.5, 0.9), "exact"].mean())
    panel.wait()


@pytest.mark.parametrize("explorer", [AttentionExplorer, OneShotVsDynamic])
def test_a_clip_of_the_other_world_is_run_on_its_own_model(runner, explorer):
    panel = explorer(runner, CLIP)
    panel.controls["clip"].value = "footage-still.mp4"
    layer = panel.controls["from_layer"]
    assert layer.max == 11 and layer.value == 3
    layer.value = 8
    panel.wait()
    assert panel.shown == "footage-still.mp4"
    assert runner.known(
        "footage-still.mp4", panel.runs[1].compression if hasattr(panel, "runs") else panel.run.compression
    )
    panel.controls["clip"].value = CLIP
    assert layer.value == layer.max == 5
    panel.wait()
    assert panel.shown == CLIP and "from_layer=5" in panel.code()


def test_an_overtaken_job_of_several_runs_ends_early():
    latest, done, shown, begun, go = Latest(pause=0.0), [], [], threading.Event(), threading.Event()

    def slow():
        for part in latest.each(range(4)):
            done.append(part)
            begun.set()
            go.wait(5)

    latest.submit(slow, shown.append, shown.append)
    assert begun.wait(5)
    latest.submit(lambda: "new", shown.append, shown.append)
    go.set()
    latest.wait()
    assert done == [0] and shown == ["new"]


def test_what_is_asked_for_goes_before_what_another_panel_draws_ahead(runner):
    ahead, asked = OneShotVsDynamic(runner, CLIP, merge_ratio=0.2), AttentionExplorer(runner, CLIP)
    ahead.wait(), asked.wait()
    drawn, take = [], asked.take
    asked.take = lambda result: (drawn.append(len(ahead.pictures)), take(result))
    ahead.picture._view_count = 1  # as a page reports it; 19 settings are run now
    asked.controls["prune_ratio"].value = 0.62
    asked.wait()
    ahead.wait()
    assert len(ahead.pictures) >= len(ahead.runs[0].words) + 18 > drawn[0] + 15
