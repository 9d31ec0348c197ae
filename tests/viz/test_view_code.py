"""Each explorer's view can be kept as a line of Python: it makes the view again, or says what is wrong."""

from __future__ import annotations

import html
import inspect
import re

import pytest

from dycoke_lab.evaluation.grids import read_grid
from dycoke_lab.results import SWEEP
from dycoke_lab.viz import widgets
from dycoke_lab.viz.clip_runs import ClipRunner
from dycoke_lab.viz.widgets.controls import listed, ranges

CLIP, OTHER = "constructed-2-scenes.mp4", "constructed-3-scenes.mp4"
PRUNING = {"prune_ratio": 0.7, "merge_ratio": 0.3, "from_layer": 4}
CHANGES = {
    "AttentionExplorer": {"clip": OTHER, "step": 12, "layer": 1, "head": 2, "reselect_below": 0.5, **PRUNING},
    "BlockExplorer": {
        "clip": OTHER, "step": 9, "unit": "token", "head": 1, "from_layer": 2, "frame": 11, "token": 7
    },
    "CompareKept": {"clip": OTHER, "step": 9, "methods": ("random", "dynamic"), "frame": 2, **PRUNING},
    "HeadMap": {"clip": OTHER, "step": 12, "layer": 4, "head": 3, "mean": True},
    "MergeExplorer": {"clip": OTHER, "frame": 9, "window": 3, "combine": "average", "merge_ratio": 0.41},
    "OneShotVsDynamic": {"clip": OTHER, "step": 11, "method": "random", **PRUNING},
    "ThresholdFinder": {
        "merge_ratio": 0.7, "prune_ratio": 0.9, "threshold": 0.99, "measure": "whole answers"
    },
}  # fmt: skip
WRONG = [
    ("AttentionExplorer", {"clip": "nosuch.mp4"}, "clip='nosuch.mp4' must be one of constructed-2"),
    ("AttentionExplorer", {"step": 10}, "step=10 must be a whole number from 0 to 9"),
    ("AttentionExplorer", {"layer": 6}, "layer=6 must be a whole number from 0 to 5"),
    ("AttentionExplorer", {"head": 4}, "head=4 must be one of 'mean over heads', 0, 1, 2, 3"),
    ("AttentionExplorer", {"prune_ratio": 1.2}, "prune_ratio=1.2 must be"),
    ("AttentionExplorer", {"from_layer": 6}, "from_layer=6 must be"),
    ("AttentionExplorer", {"reselect_below": -0.5}, "reselect_below=-0.5 must be from 0 to 1.05"),
    ("BlockExplorer", {"hidden": [3, 128]}, "hidden=[128] must be whole numbers from 0 to 127"),
    ("BlockExplorer", {"hidden": [3], "head": 4}, "head=4 must be one of 'all heads', 0, 1, 2, 3"),
    ("BlockExplorer", {"unit": "word"}, "unit='word' must be one of 'frame', 'scene', 'thing', 'token'"),
    ("BlockExplorer", {"token": 16}, "token=16 must be a whole number from 0 to 15"),
    ("CompareKept", {"prune_ratio": 0.0}, "prune_ratio=0.0 must be from 0.05 to 0.95"),
    ("CompareKept", {"frame": 8}, "frame=8 must be a whole number from 0 to 7"),
    ("HeadMap", {"layer": 1, "head": 1.5}, "head=1.5 must be a whole number from 0 to 3"),
    ("HeadMap", {"mean": "yes"}, "mean='yes' must be one of False, True"),
    ("MergeExplorer", {"merge_ratio": 2}, "merge_ratio=2 must be from 0 to 1"),
    ("MergeExplorer", {"threshold": 0.123}, "threshold=0.123 must be one of 0.0, 0.3, 0.5"),
    ("MergeExplorer", {"combine": "add"}, "combine='add' must be one of 'drop', 'average'"),
    ("MergeExplorer", {"window": 9}, "window=9 must be a whole number from 2 to 8"),
    ("OneShotVsDynamic", {"step": "6"}, "step='6' must be a whole number from 0 to 9"),
    ("OneShotVsDynamic", {"method": "nosuch"}, "'nosuch'"),
    ("ThresholdFinder", {"merge_ratio": 0.55}, "merge_ratio=0.55 must be one of 0.0, "),
    ("ThresholdFinder", {"by": "both"}, "by='both' must be one of 'ratio', 'threshold'"),
]  # fmt: skip


@pytest.fixture(scope="module")
def known():
    """What a cell has: the explorers, a runner, the committed sweep."""
    return {**vars(widgets), "runner": ClipRunner(), "sweep": read_grid(SWEEP)}


def made(known, name, **given):
    source = ["sweep"] if name == "ThresholdFinder" else ["runner"]
    clip = {} if name == "ThresholdFinder" else {"clip": CLIP}
    panel = known[name](*(known[part] for part in source), **{**clip, **given})
    panel.wait()
    return panel


def same(one, two):
    """Two panels show the same, by their controls, their codes, their words and their pictures."""
    assert {name: one[name] for name in one.controls} == {name: two[name] for name in two.controls}
    assert (one.code(), one.view(), one.words.value) == (two.code(), two.view(), two.words.value)
    assert one.picture.value == two.picture.value


@pytest.mark.parametrize("name", widgets.__all__)
def test_a_views_code_makes_it_again(known, name):
    panel = made(known, name)
    first = panel.picture.value
    assert len(panel.view()) < 80 + 30 * (name == "MergeExplorer")
    for control, value in CHANGES[name].items():
        assert panel[control] != value, control
        panel.controls[control].value = value
        panel.wait()
        assert f"{control}={value!r}" in panel.view()
    assert panel.picture.value != first
    code = html.unescape(re.findall(r"<code[^>]*>(.*?)</code>", panel.setting.value)[-1])
    assert code == panel.view() and "\n" not in code
    again = eval(code, known)
    again.wait()
    same(panel, again)
    again.reset()
    again.wait()
    same(panel, again)


def test_every_control_is_an_argument(known):
    for name in widgets.__all__:
        panel = made(known, name)
        assert set(panel.controls) <= set(inspect.signature(known[name]).parameters)
        assert set(CHANGES[name]) | {"threshold"} >= set(panel.controls)


def test_what_leads_and_what_is_hidden_is_part_of_the_code(known):
    panel = made(known, "MergeExplorer")
    panel.controls["threshold"].value = 0.97
    panel.wait()
    assert panel.view() == f"MergeExplorer(runner, clip={CLIP!r}, threshold=0.97)"
    same(panel, eval(panel.view(), known))
    panel = made(known, "ThresholdFinder", threshold=0.99)
    panel.controls["merge_ratio"].value = 0.3
    assert "by=" not in panel.view()
    same(panel, eval(panel.view(), known))
    panel = made(known, "BlockExplorer", unit="scene")
    panel.toggle(0)
    panel.put(unit="token")
    panel.toggle(100)
    panel.wait()
    assert panel.view() == f"BlockExplorer(runner, clip={CLIP!r}, hidden=[*range(0, 48), 100], unit='token')"
    same(panel, eval(panel.view(), known))


@pytest.mark.parametrize(("name", "given", "said"), WRONG)
def test_a_wrong_argument_is_named_with_what_is_allowed(known, name, given, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        made(known, name, **given)


def test_numbers_are_written_short():
    assert ranges([]) == "[]" and ranges([3]) == "[3]"
    assert ranges({9, 3, 4, 5, 11}) == "[*range(3, 6), 9, 11]"
    assert listed([0.5, "a"]) == "0.5, 'a'" and listed(list(range(20))).endswith("7, ..., 17, 18, 19")
