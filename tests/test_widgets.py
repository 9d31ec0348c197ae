"""The Python side of the explorers: what they show, ask the model for, and never show."""

from __future__ import annotations

import threading
import time

import ipywidgets as w
import numpy as np
import pandas as pd
import pytest
import torch
from traitlets import TraitError

from dycoke_lab import DyCokeConfig, flops, load_model, temporal_merge
from dycoke_lab.explore import Lab, count_wrong, equivalent_ratio, equivalent_threshold, wrong_words
from dycoke_lab.tables import heat_table, threshold_table
from dycoke_lab.views import attention_view, compare_view, finder_axes, finder_view, png
from dycoke_lab.widgets import AttentionExplorer, MergeExplorer, OneShotAgainstDynamic, ThresholdFinder
from dycoke_lab.widgets.merging import merge_figure
from dycoke_lab.widgets.panel import Latest

CLIP = "2-scenes.mp4"


@pytest.fixture(scope="module")
def lab():
    return Lab(*load_model("specimen"))


@pytest.fixture(scope="module")
def sweep():
    """Rows as `python -m dycoke_lab sweep` leaves them, with made-up accuracies."""
    generator, rows = np.random.default_rng(0), []
    settings = [(k, p, None) for k in (0.0, 0.5, 0.7) for p in (0.0, 0.7, 0.9)]
    settings += [(0.0, p, t) for t in (0.9, 0.99) for p in (0.0, 0.7)]
    for merge, prune, threshold in settings:
        for seed in (0, 1):
            for video in range(6):
                right = int(generator.integers(6, 9))
                rows.append(dict(
                    seed=seed, video=f"2-{video}", question="describe", merge_ratio=merge, prune_ratio=prune, score_layer=3,
                    merge_threshold=threshold, method="dynamic" if prune else "full", right=f"4{right - 4}", words=8,
                    exact=int(right == 8), left=1 - 0.75 * merge,
                ))  # fmt: skip
    return pd.DataFrame(rows)


def panels(lab, sweep):
    yield MergeExplorer(lab, CLIP)
    yield AttentionExplorer(lab, CLIP)
    yield OneShotAgainstDynamic(lab, CLIP)
    yield ThresholdFinder(sweep)


def test_every_control_is_labelled_and_bounded(lab, sweep):
    for panel in panels(lab, sweep):
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
    ("explorer", "slider"), [(MergeExplorer, "frame"), (AttentionExplorer, "step"), (OneShotAgainstDynamic, "step")]
)
def test_a_shorter_clip_does_not_hold_the_start_down(lab, explorer, slider):
    panel = explorer(lab, "4-scenes.mp4")
    long = panel.controls[slider].max
    panel.controls[slider].value = panel.start[slider] = long
    panel.controls["clip"].value = CLIP
    panel.wait()
    assert panel[slider] == panel.controls[slider].max < long
    panel.reset()
    panel.wait()
    assert panel[slider] == panel.controls[slider].max == long


def test_the_code_is_the_setting(lab, sweep):
    merging, attention, comparing, finding = panels(lab, sweep)

    def told(panel):  # as a user pastes it
        return eval(panel.code(), {"DyCokeConfig": DyCokeConfig})

    assert told(merging) == merging.config()
    merging.controls["threshold"].value = 0.9
    assert told(merging) == merging.config() and merging.config().merge_threshold == 0.9
    attention.controls["gate"].value = 0.5
    assert told(attention) == attention.config()
    assert told(comparing) == comparing.configs()[0]
    finding.controls["threshold"].value = 0.9
    assert told(finding) == DyCokeConfig(merge_threshold=0.9, prune_ratio=0.7)
    finding.reset()
    assert told(finding) == DyCokeConfig(merge_ratio=0.5, prune_ratio=0.7)
    finding.controls["prune_ratio"].value = 0.9
    assert told(finding) == DyCokeConfig(merge_ratio=0.5, prune_ratio=0.9)
    for panel in (merging, attention, comparing, finding):
        assert panel.code() in panel.setting.value.replace("&#x27;", "'")
        panel.wait()


def test_the_static_figure_is_what_the_widget_shows(lab, sweep):
    merging, attention, comparing, finding = panels(lab, sweep)
    clip = lab.clip(CLIP)
    merged = temporal_merge(clip.features, 0.7)
    static = merge_figure(lab, CLIP, merged, equivalent_threshold(merged.similarity, 0.7), frame=1)
    assert png(static) == merging.picture.value
    config = DyCokeConfig(merge_ratio=0.5, prune_ratio=0.9)
    assert png(attention_view(clip, lab.run(CLIP, config), 6, 2, None)) == attention.picture.value
    once = lab.run(CLIP, DyCokeConfig(merge_ratio=0.5, prune_ratio=0.9, method="last_query"))
    names = [("one-shot, last query", once), ("dynamic (DyCoke)", lab.run(CLIP, config))]
    assert png(compare_view(clip, names, 6)) == comparing.picture.value
    heat, curve = heat_table(sweep), threshold_table(sweep)
    assert png(finder_view(finder_axes(heat, curve), heat, curve, 0.5, 0.7, 0.99, "words")) == finding.picture.value


def test_ratio_and_threshold_say_the_same(lab):
    panel = MergeExplorer(lab, CLIP)
    similarity = temporal_merge(lab.clip(CLIP).features, 0.0).similarity
    values = sorted(similarity[~similarity.isnan()].tolist(), reverse=True)
    for ratio in (0.2, 0.5, 0.9):
        dropped = similarity.numel() - len(temporal_merge(lab.clip(CLIP).features, ratio).kept)
        assert equivalent_threshold(similarity, ratio) == values[dropped - 1]
    assert equivalent_threshold(similarity, 0.0) == 1.0
    panel.controls["threshold"].value = 0.8
    dropped = sum(value >= 0.8 for value in values) / len(values)
    assert equivalent_ratio(similarity, 0.8) == pytest.approx(dropped)
    assert panel["ratio"] == pytest.approx(dropped, abs=0.011)
    assert len(panel.merged().kept) == len(temporal_merge(lab.clip(CLIP).features, threshold=0.8).kept)
    panel.controls["ratio"].value = 0.5
    assert panel["threshold"] == pytest.approx(equivalent_threshold(similarity, 0.5), abs=0.00011)
    panel.wait()
    assert "merging" in panel.words.value and "…" not in panel.words.value


def test_tokens_are_in_waiting_or_merged(lab):
    run = lab.run(CLIP, DyCokeConfig(merge_ratio=0.5, prune_ratio=0.9))
    before = None
    for step in range(len(run.words)):
        kept, waiting, back, merged = run.states(step)
        assert ((kept.int() + waiting.int() + merged.int()) == 1).all()
        assert torch.equal(back, kept & ~before if before is not None else torch.zeros_like(kept))
        before = kept


def test_the_model_runs_off_the_drag_and_only_the_newest_setting_is_shown(lab):
    panel = AttentionExplorer(lab, CLIP)
    panel.wait()
    assert 'data-busy="false"' in panel.status.value
    shown = panel.run
    panel.controls["prune_ratio"].value = 0.33
    assert 'data-busy="true"' in panel.status.value and panel.run is shown  # the old picture stands meanwhile
    panel.controls["prune_ratio"].value = 0.43
    panel.wait()
    assert panel.run.config.prune_ratio == 0.43 and 'data-busy="false"' in panel.status.value
    assert lab.known(CLIP, panel.config()) is panel.run


def test_an_overtaken_result_is_never_shown():
    latest, shown, begun, go = Latest(still=0.0), [], threading.Event(), threading.Event()

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


def test_what_is_likely_next_is_drawn_ahead_once_somebody_looks(lab):
    panel = AttentionExplorer(lab, CLIP)
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


def test_wrong_words_are_those_that_differ_in_their_place():
    assert wrong_words(["a", "b", "c"], ["a", "x"]) == [False, True, True]
    assert [count_wrong(text.split(), ["a", "b", "c"]) for text in ("a b c", "a", "a x c d", "")] == [0, 2, 2, 3]


def test_the_finder_offers_only_what_was_measured(sweep):
    panel = ThresholdFinder(sweep)
    assert list(panel.controls["merge_ratio"].options) == [0.0, 0.5, 0.7]
    heat = heat_table(sweep, "exact")
    group = sweep[sweep["merge_threshold"].isna() & (sweep["merge_ratio"] == 0.5) & (sweep["prune_ratio"] == 0.9)]
    assert heat.loc[0.5, 0.9] == pytest.approx(group["exact"].mean())
    curve = threshold_table(sweep, draws=200)
    assert (curve["low"] <= curve["mean"]).all() and (curve["mean"] <= curve["high"]).all() and len(curve) == 4
    panel.wait()


@pytest.mark.parametrize(
    ("shape", "merge", "tera"),
    [((24, 896, 4864), 0, 3.4), ((24, 896, 4864), 0.5, 1.8), (flops.LLAVA_OV_7B, 0, 41.4), (flops.LLAVA_OV_7B, 0.7, 17.9),
     ((80, 8192, 29568), 0, 436.1), ((80, 8192, 29568), 0.5, 262.5)],
)  # fmt: skip
def test_flops_are_those_of_the_papers_table(shape, merge, tera):
    assert flops.prefill_flops((1 - 0.75 * merge) * 6272, *shape) / 1e12 == pytest.approx(tera, rel=0.035)
    assert 0 <= flops.saved(1 - 0.75 * merge, 6272, shape) < 1
