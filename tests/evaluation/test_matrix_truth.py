"""A merger that keeps what it is given, and the table that is made with it."""

from __future__ import annotations

import pytest
import torch
from helpers.tiny_specimens import tiny

from dycoke_lab.evaluation import matrix_truth
from dycoke_lab.evaluation.matrix_truth import Given, things_and_background
from dycoke_lab.methods import VideoTokens
from dycoke_lab.specimen.tasks import make_task


def test_it_keeps_what_it_is_given_and_equals_itself_alone():
    keep = torch.tensor([[True, False, False, True]])
    assert Given(keep).merge(VideoTokens(torch.randn(1, 1, 2, 2, 3))).into.tolist() == [[0, -1, -1, 3]]
    assert Given(keep) != Given(~keep)


def test_as_many_tokens_are_left_as_it_says(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(matrix_truth, "load_model", lambda *_: (tiny("footage").build().eval(), None))
    found = things_and_background("footage", videos=4).set_index("kept")
    shows = make_task("describe", 4, 4, 1, "footage", split="validation").videos.actor >= 0
    part = 100 * shows.float().mean().item()
    assert found["left"]["all tokens"] == 100
    assert found["left"]["tokens that show a thing"] == pytest.approx(part)
    assert found["left"]["these, and 30 % of the others"] == pytest.approx(part + 0.3 * (100 - part), abs=3)
    few = found["left"]["these, and 10 % of the others"]
    assert found["left"].iloc[-1] == pytest.approx(few, abs=3) and found["words"].between(0, 100).all()


def test_the_trained_model_confuses_scenes_without_their_background():
    found = things_and_background("footage", videos=8).set_index("kept")
    things, mixed = found.loc["tokens that show a thing"], found.loc["these, and 30 % of the others"]
    assert found.loc["all tokens", "words"] > 95 > mixed["words"] > things["words"] + 30
    assert things["another scene"] > 30 > mixed["another scene"] >= found.loc["all tokens", "another scene"]
