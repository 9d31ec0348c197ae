"""What a trace says about itself, and that it survives being saved."""

from __future__ import annotations

import pytest
import torch
from test_methods import generate

from dycoke_lab import DyCoke, capture_attention, load_model
from dycoke_lab.layout import Grid
from dycoke_lab.trace import Trace


@pytest.fixture(scope="module")
def trace(model, inputs):
    with DyCoke(merge_ratio=0.5, prune_ratio=0.5, score_layer=2)(model), capture_attention(model) as trace:
        generate(model, inputs, 3)
    trace.words = [["red", "green", "blue"], ["cyan", "red", "red"]]
    return trace


def test_the_frame_is_tidy_and_says_what_the_tensors_say(trace):
    frame = trace.to_frame()
    assert len(frame) == 3 * 4 * 2 * 128
    pick = frame.query("step == 2 and layer == 3 and sample == 1 and frame == 5 and row == 2 and col == 3").iloc[0]
    token = (5 * 4 + 2) * 4 + 3
    assert pick.attention == pytest.approx(float(trace.stack(3, 1)[2, token]))
    assert bool(pick.attended) == bool(trace.kept(3, 1)[2, token])
    assert pick.word == "red" and pick["head"] == "mean"
    per_frame = frame.query("layer == 1 and sample == 0").groupby(["step", "frame"])["attention"].sum().to_numpy()
    torch.testing.assert_close(trace.per_frame(1).flatten(), torch.tensor(per_frame))


def test_saved_and_loaded_is_the_same(trace, tmp_path):
    trace.save(tmp_path / "trace")
    again = Trace.load(tmp_path / "trace")
    assert again.words == trace.words and again.videos == ((Grid(8, 4, 4),),) * 2
    assert torch.equal(torch.stack(again.attention), torch.stack(trace.attention))
    assert torch.equal(torch.stack(again.attended), torch.stack(trace.attended))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["trace.json", "trace.safetensors"]
    trace.save(tmp_path / "P=0.7")  # no suffix, this
    trace.words = None
    trace.save(tmp_path / "P=0.9")
    assert Trace.load(tmp_path / "P=0.7").words == again.words and (tmp_path / "P=0.9.json").exists()


def test_a_trace_is_short_to_look_at(trace):
    assert repr(trace).startswith("Trace of 3 steps, each (layers, heads, batch, visual) = (4, 1, 2, 128); videos")


def test_an_empty_trace_says_what_to_do(model):
    with capture_attention(model) as trace:
        pass
    with pytest.raises(ValueError, match="the trace is empty: call"):
        trace.to_frame()


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        load_model(str(tmp_path))
