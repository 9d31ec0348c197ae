"""Parameters, composition by `+`, and the table of methods: what can be known without a model."""

from __future__ import annotations

import inspect
from dataclasses import FrozenInstanceError, dataclass

import pytest
import torch

from dycoke_lab.methods import (
    METHODS,
    PUBLISHED,
    TTM,
    Compression,
    DyCoke,
    Dynamic,
    FastV,
    FirstStep,
    Hindsight,
    LastQuery,
    Merger,
    Random,
    ReferenceCode,
    Selector,
    colour_of,
    compose,
    label_of,
)
from dycoke_lab.results.folders import ROOT


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dynamic(1.0), "prune_ratio=1.0 must be at least 0 and below 1"),
        (lambda: FastV(-0.1), "prune_ratio=-0.1 must be at least 0 and below 1"),
        (lambda: Dynamic("0.7"), "prune_ratio='0.7' must be"),
        (lambda: Dynamic(from_layer=0), "from_layer=0 must be a whole number from 1"),
        (lambda: FastV(from_layer=True), "from_layer=True must be a whole"),
        (lambda: Dynamic(reselect_below=3), "reselect_below=3 must lie between"),
        (lambda: ReferenceCode(reselect_below="1"), "reselect_below='1' must lie"),
        (lambda: Dynamic(inactive="host"), "inactive='host' must be 'device', 'offload' or 'evict'"),
        (lambda: TTM(0.5, positions="new"), "positions='new' must be"),
        (lambda: TTM("0.7"), "merge_ratio='0.7' must lie"),
        (lambda: TTM(threshold=7), "threshold=7 is a cosine"),
        (lambda: TTM(0.5, threshold=0.9), "merge_ratio=0.5 or threshold=0.9, not both"),
        (lambda: DyCoke(merge_ratio=0.5, threshold=0.9), "not both"),
        (lambda: TTM(0.5, window=1), "window=1 must be"),
        (lambda: TTM(0.5, combine="mean"), "combine='mean' must be"),
        (lambda: Hindsight(0.7), "future is missing"),
        (lambda: compose("hindsight", 0.5, 0.7), "future is missing"),
        (lambda: compose("best", 0.5, 0.7), "method='best' must be one of full, ttm, dynamic"),
    ],
)
def test_bad_parameters_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (TTM(0.5), TTM(0.7)),
        (Dynamic(), LastQuery()),
        (FastV(), FastV(0.3)),
        (DyCoke(), TTM(0.5)),
        (Random() + FastV(), DyCoke()),
    ],
    ids=str,
)
def test_two_methods_of_one_seam_do_not_compose(one, two):
    with pytest.raises(ValueError, match="act in the same place"):
        one + two


@pytest.mark.parametrize("scope", ["layer", "head"])
def test_tokens_cannot_return_to_a_layer_that_chooses_for_itself(scope):
    """An inactive token has no attention in that layer, by which it could come back."""
    with pytest.raises(TypeError, match=r"can_return=True.* only with scope='shared'"):
        type("Own", (Selector,), {"scope": scope, "can_return": True, "select": lambda self, step: None})


def test_an_unknown_scope_is_refused():
    with pytest.raises(TypeError, match="scope='token' must be one of shared, layer, head"):
        type("Own", (Selector,), {"scope": "token", "select": lambda self, step: None})


def test_what_is_no_method_does_not_compose():
    with pytest.raises(TypeError, match="only those can be composed"):
        TTM(0.5) + "dynamic"


@pytest.mark.parametrize("one", [TTM(0.5), DyCoke(), FastV()], ids=str)
def test_a_context_without_a_model_says_how_it_is_written(one):
    with pytest.raises(TypeError, match=r"has no model yet: write `with .*model"), one:
        pass


def test_dycoke_is_merging_and_dynamic_pruning():
    assert DyCoke() == TTM(0.7) + Dynamic(0.7, from_layer=3) == TTM() + Dynamic()
    assert DyCoke(0.5, 0.6, 2, reselect_below=0.97, positions="repacked", inactive="evict") == (
        TTM(0.5, positions="repacked") + Dynamic(0.6, from_layer=2, reselect_below=0.97, inactive="evict")
    )
    assert DyCoke(threshold=0.9).merger == TTM(threshold=0.9)
    assert compose("dynamic", 0.7, 0.7) == DyCoke() and compose("full", 0.7) == Compression.of(TTM(0.7))
    assert compose("dynamic", prune_ratio=0.7, threshold=0.9, reselect_below=2.0) == (
        TTM(threshold=0.9) + Dynamic(0.7, reselect_below=2.0)
    )
    assert compose("full").off and compose("fastv", 0.0, 0.5, from_layer=2).reducer == FastV(0.5, 2)


def test_compressions_are_frozen_comparable_and_keys():
    assert {DyCoke(): 1, TTM(0.5) + FastV(): 2}[TTM(0.5) + FastV()] == 2
    assert Dynamic(0.5) + TTM(0.5) == TTM(0.5) + Dynamic(0.5) != TTM(0.5) + Dynamic(0.6)
    assert FirstStep(0.5) != LastQuery(0.5)
    with pytest.raises(FrozenInstanceError):
        Dynamic().prune_ratio = 0.5  # type: ignore[misc]
    one = Hindsight(0.5, future=torch.rand(1, 4))
    assert one == one and one != Hindsight(0.5, future=torch.rand(1, 4)) and {TTM(0.5) + one: 1}


def test_a_compression_tells_its_ratios():
    dycoke = DyCoke(0.7, 0.7)
    assert (dycoke.merge_ratio, dycoke.prune_ratio, dycoke.from_layer) == (0.7, 0.7, 3)
    fastv = TTM(0.5) + FastV(0.65, from_layer=2)
    assert (fastv.merge_ratio, fastv.prune_ratio, fastv.from_layer, fastv.off) == (0.5, 0.65, 2, False)
    assert fastv.selector is None
    assert all(
        one.off for one in (TTM(0), Dynamic(0), FastV(0), LastQuery(0), DyCoke(0, 0), TTM(0) + FastV(0))
    )
    assert (TTM(0) + Dynamic(0)).off and not (TTM(0) + Dynamic(0.5)).off and not DyCoke(0, threshold=None).off


def test_methods_print_as_a_table():
    table = METHODS.table()
    assert list(table.columns) == ["name", "paper", "seam", "needs", "can return"]
    rows = table.set_index("name")
    assert list(rows.index) == list(METHODS) and (rows["paper"] != "").all()
    assert rows.loc["ttm", "seam"] == "merger" and rows.loc["fastv", "seam"] == "prefill reducer"
    assert rows.loc["dynamic", "seam"] == "selector"
    assert (rows.loc["dynamic", "can return"], rows.loc["last_query", "can return"]) == ("yes", "no")
    printed = repr(METHODS)
    assert printed.splitlines()[0].split() == ["name", "paper", "seam", "needs", "can", "return"]
    assert len(printed.splitlines()) == 1 + len(METHODS) and max(map(len, printed.splitlines())) <= 140
    assert "<table" in METHODS._repr_html_()


def test_labels_and_colours_stand_beside_a_method(monkeypatch):
    assert label_of("dynamic") == label_of(Dynamic) == label_of(Dynamic()) == "dynamic (DyCoke)"
    assert label_of("full") == "full cache" and label_of(DyCoke()) == DyCoke().label
    assert colour_of("dynamic") == Dynamic.colour != colour_of("fastv")
    labels = [label_of(name) for name in METHODS]
    assert len(set(labels)) == len(labels) and len({colour_of(name) for name in METHODS}) == len(labels)

    @dataclass(frozen=True)
    class Own(Merger):
        def merge(self, video):
            raise NotImplementedError

    monkeypatch.setitem(METHODS, "own", Own)
    assert label_of("own") == label_of(Own()) == "Own"
    assert colour_of("own") == colour_of(Own) == colour_of(Own()) and colour_of("own").startswith("#")
    with pytest.raises(
        TypeError, match="must be a class with Merger, PrefillReducer or Selector as its base"
    ):
        METHODS["wrong"] = Own()


def test_the_page_says_of_each_published_method_what_its_docstring_says():
    page = (ROOT / "docs" / "methods.md").read_text()
    for name in PUBLISHED:
        kind = METHODS[name]
        keeps = " ".join(inspect.getdoc(kind).split("\n\n")[0].split())
        assert f"| `{kind.__name__}` | `{name}` | {kind.paper.split(',')[0]} | {keeps} |" in page
