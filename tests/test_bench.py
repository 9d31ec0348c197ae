"""The bench counts bytes rightly and goes on where it stopped; decoding steps ask the device for nothing."""

from __future__ import annotations

import json

import pytest
import torch
from families import decoder_of, frames
from test_generate import SETTINGS, config_for
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.cache_utils import DynamicCache

from dycoke_lab import bench, generation
from dycoke_lab.cli import main
from dycoke_lab.shapes import SHAPES, build


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench")
    found = bench.cases("tiny", 8, 2, 5, ["full", "dycoke", "cut", "fastv", "one-shot"], [0.5, 0.7], 0.7)
    return found, bench.run(found, 2, out, "cpu", "float32", progress=False), out


def test_bytes_are_those_predicted(rows):
    _, measured, _ = rows
    shape = SHAPES["tiny"]
    token = 2 * shape.kv_bytes(4)  # a batch of two
    for row in measured:
        case = row["case"]
        left = 8 * 16 - 6 * (16 - int((1 - case["merge_ratio"]) * 16 + 0.5))
        text = row["visual"] - 8 * 16 + case["new_tokens"]
        kept = left if case["method"] == "full" else int(0.3 * left + 0.5)
        assert row["bytes"]["read"] == token * (3 * (left + text) + (kept + text))
        assert row["bytes"]["held"] - row["bytes"]["read"] == (token * left if case["method"] == "dycoke" else 0)
        assert row["bytes"]["peak"] is None and len(row["steps"]) == 5
        assert (len(row["select"]) == 0) == (case["method"] in ("full", "cut"))


def test_an_interrupted_run_goes_on_and_a_finished_one_stays(rows, monkeypatch):
    found, measured, out = rows
    path = out / bench.ROWS
    lines = path.read_text().splitlines()
    assert len(lines) == len(found) * 2 == len(measured)
    path.write_text("\n".join(lines[:-2]) + "\n")
    again = bench.run(found, 2, out, "cpu", "float32", progress=False)
    assert [json.loads(line)["case"] for line in path.read_text().splitlines()] == [row["case"] for row in measured]
    assert again[:-2] == measured[:-2] and len(json.loads((out / "provenance.json").read_text())["runs"]) == 2
    monkeypatch.setattr(bench, "build", None)  # a finished run needs no model
    assert bench.run(found, 2, out, "cpu", "float32") == again
    with pytest.raises(ValueError, match="holds a run on cpu in float32"):
        bench.run(found, 2, out, "cpu", "bfloat16")


def test_running_out_of_memory_is_a_result(tmp_path, monkeypatch):
    found = bench.cases("tiny", 4, 1, 2, ["full", "dycoke"], [0.5], 0.7)

    def full_is_too_much(model, case):
        if case.method == "full":
            raise torch.OutOfMemoryError("no room")
        return measure(model, case)

    measure = bench.measure
    monkeypatch.setattr(bench, "measure", full_is_too_much)
    rows = bench.run(found, 1, tmp_path, "cpu", "float32", progress=False)
    assert rows[0]["error"] == "out of memory: no room" and "steps" in rows[1]
    assert "no room" in bench.summary(rows)


def test_ratios_are_medians_within_rounds():
    def row(method, repeat, seconds):
        case = {"method": method, "merge_ratio": 0.5}
        return {"case": case, "repeat": repeat, "prefill": seconds, "steps": [9.0, seconds, seconds]}

    rows = [row("full", n, 2.0 * (n + 1)) for n in range(3)] + [row("dycoke", n, float(n + 1)) for n in range(3)]
    assert bench.ratios(rows, "prefill") == {"full": (1, 1, 1), "dycoke K=0.5": (2, 2, 2)}
    assert bench.ratios(rows, "step")["dycoke K=0.5"] == (2, 2, 2)


def test_the_command_prints_a_table(tmp_path, capsys):
    main(["bench", "--frames", "4", "--new-tokens", "3", "--repeats", "1", "--methods", "full,dycoke", "--merge-ratio", ".7",
          "--out", str(tmp_path / "x")])  # fmt: skip
    out = capsys.readouterr().out
    assert "dycoke K=0.7" in out and "times less" in out
    for wrong in (
        ["--shape", "huge"],
        ["--methods", "magic"],
        ["--merge-ratio", "2"],
        ["--device", "nowhere", "--out", str(tmp_path / "y")],
    ):
        with pytest.raises(SystemExit) as stop:
            main(["bench", *wrong])
        assert str(stop.value.code).startswith("error: ")


@pytest.mark.parametrize("name", ["llava-ov-0.5b", "llava-ov-7b", "qwen2.5-vl-3b", "qwen2.5-vl-7b"])
def test_published_shapes_have_their_published_size(name):
    model = build(name, "meta")
    decoder = sum(p.numel() for p in decoder_of(model).parameters())
    output = 0 if SHAPES[name].tied else model.lm_head.weight.numel()
    billions = {"llava-ov-0.5b": 0.49, "llava-ov-7b": 7.6, "qwen2.5-vl-3b": 3.1, "qwen2.5-vl-7b": 7.6}[name]
    assert (decoder + output) / 1e9 == pytest.approx(billions, rel=0.02)
    assert SHAPES[name].parameters == pytest.approx(decoder + output, rel=0.001)


class Counter(TorchDispatchMode):
    """Operations that make the CPU wait for a GPU: they read a number, or a size, off the device."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal")

    def __init__(self):
        super().__init__()
        self.waits, self.made = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if any(name.startswith(wait) for wait in self.WAITS):
            self.waits.append(name)
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.untyped_storage().nbytes() > 50_000:
            self.made += 1
        return out


@pytest.mark.parametrize("settings", [s for s in SETTINGS if s["prune_ratio"]], ids=str)
def test_a_decoding_step_waits_for_no_number(family, model, prompts, settings, monkeypatch):
    """As a GPU would have it; on a CPU a step may look at numbers, since they are its own."""
    monkeypatch.setattr(generation, "free_to_look", lambda device: False)
    model.set_attn_implementation("sdpa")
    inputs = family.inputs(["user\n", ("video", frames(8 * family.paired, 1)), "then?"])
    cache = DynamicCache(config=model.config.get_text_config())
    word = torch.tensor([[60]])
    with config_for(family, settings)(model), torch.no_grad():
        model(**inputs, past_key_values=cache)
        for _ in range(2):
            model(input_ids=word, past_key_values=cache)
        with Counter() as counter:
            model(input_ids=word, past_key_values=cache)
    assert counter.waits == []
