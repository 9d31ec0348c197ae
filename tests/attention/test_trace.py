"""What a trace says about itself, and that it survives being saved."""

from __future__ import annotations

import pytest
import torch
from helpers.matrix import generate
from safetensors.torch import save_file

from dycoke_lab import DyCoke, capture_attention
from dycoke_lab.attention.trace import Trace
from dycoke_lab.models.token_layout import TokenGrid


@pytest.fixture(scope="module")
def trace(family_model, inputs):
    with DyCoke(0.5, 0.5, from_layer=2)(family_model), capture_attention(family_model) as trace:
        generate(family_model, inputs, 3)
    trace.words = [["red", "green", "blue"], ["cyan", "red", "red"]]
    return trace


def test_the_trace_as_a_frame_is_tidy_and_says_what_the_tensors_say(trace):
    frame = trace.to_frame()
    assert len(frame) == 3 * 4 * 2 * 128
    where = "step == 2 and layer == 3 and sample == 1 and frame == 5 and row == 2 and col == 3"
    pick = frame.query(where).iloc[0]
    token = (5 * 4 + 2) * 4 + 3
    assert pick.attention == pytest.approx(float(trace.stack(3, 1)[2, token]))
    assert bool(pick.attended) == bool(trace.kept(3, 1)[2, token])
    assert pick.word == "red" and pick["head"] == "mean"
    sums = frame.query("layer == 1 and sample == 0").groupby(["step", "frame"])["attention"].sum()
    torch.testing.assert_close(trace.per_frame(1).flatten(), torch.tensor(sums.to_numpy()))


def test_a_saved_and_loaded_trace_is_the_same(trace, tmp_path):
    trace.save(tmp_path / "trace")
    again = Trace.load(tmp_path / "trace")
    assert again.words == trace.words and again.videos == ((TokenGrid(8, 4, 4),),) * 2
    assert torch.equal(torch.stack(again.attention), torch.stack(trace.attention))
    assert torch.equal(torch.stack(again.attended), torch.stack(trace.attended))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["trace.json", "trace.safetensors"]
    trace.save(tmp_path / "P=0.7")  # no suffix, this
    trace.words = None
    trace.save(tmp_path / "P=0.9")
    assert Trace.load(tmp_path / "P=0.7").words == again.words and (tmp_path / "P=0.9.json").exists()


@pytest.fixture
def saved(trace, tmp_path):
    trace.save(tmp_path / "trace")
    return tmp_path / "trace"


@pytest.mark.parametrize("suffix", ["safetensors", "json"])
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_a_truncated_trace_is_named_and_refused(saved, suffix, share):
    path = saved.with_name(f"trace.{suffix}")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=rf"/trace\.{suffix} is damaged \(.*restore it from a copy"):
        Trace.load(saved)


def test_files_that_are_no_trace_are_named_and_refused(trace, saved):
    tensors, about = saved.with_name("trace.safetensors"), saved.with_name("trace.json")
    text = about.read_text()
    for other in ("{}", "[]", '{"videos": 3, "words": null}', '{"videos": [[[8, 4]]], "words": null}'):
        about.write_text(other)
        with pytest.raises(ValueError, match=r"/trace\.json is damaged \("):
            Trace.load(saved)
    about.write_text(text.replace("8", "7"))
    with pytest.raises(ValueError, match=r"it is not of the trace that trace\.json is of"):
        Trace.load(saved)
    about.write_text(text)
    for wrong in ({"attention": torch.ones(2)}, {n: torch.ones(1, 2) for n in ("attention", "attended")}):
        save_file(wrong, tensors)
        with pytest.raises(ValueError, match=r"/trace\.safetensors is damaged \("):
            Trace.load(saved)
    tensors.unlink()
    with pytest.raises(FileNotFoundError, match=r"trace\.safetensors"):
        Trace.load(saved)


def test_what_fails_as_it_is_saved_leaves_the_trace_before(trace, saved, monkeypatch):
    before = {path.name: path.read_bytes() for path in saved.parent.iterdir()}

    def full(*_, **__):
        raise OSError("No space left on device")

    for name in ("save_file", "replace_text"):
        with monkeypatch.context() as patch:
            patch.setattr(f"dycoke_lab.attention.trace.{name}", full)
            with pytest.raises(OSError, match="No space"):
                trace.save(saved)
        assert {path.name: path.read_bytes() for path in saved.parent.iterdir()} == before


def test_a_trace_prints_as_one_line(trace):
    start = "Trace of 3 steps, each (layers, heads, batch, visual) = (4, 1, 2, 128); videos"
    assert repr(trace).startswith(start) and "\n" not in repr(trace)


def test_an_empty_trace_says_what_to_do(model):
    with capture_attention(model) as trace:
        pass
    with pytest.raises(ValueError, match="the trace is empty: call"):
        trace.to_frame()
