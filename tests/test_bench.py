"""The bench counts bytes rightly and goes on where it stopped; decoding steps allocate nothing large."""

from __future__ import annotations

import gc
import json
import weakref
from contextlib import nullcontext
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest
import torch
from families import decoder_of
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.cache_utils import DynamicCache

from dycoke_lab import DyCoke, bench, capture_attention, report, speed
from dycoke_lab.case import Case, cases
from dycoke_lab.cli import main
from dycoke_lab.cost import H100, Device, seconds, work
from dycoke_lab.generation import Generation
from dycoke_lab.layout import Grid
from dycoke_lab.models import adapter_for
from dycoke_lab.provenance import ROOT, provenance
from dycoke_lab.shapes import SHAPES, TEXT, build, prompt
from dycoke_lab.trial import Trial, twin

BENCH = ROOT / "data" / "results" / "bench"
LARGE = 60_000  # bytes; keys of a layer in the test of allocations are 64 KB and more


METHODS = ["vision", "full", "capture", "merge", "cut", "dycoke", "fastv", "one-shot"]


@pytest.fixture(scope="module", autouse=True)
def no_peak():
    """Products of large matrices take longer than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "measured", lambda device, dtype: Device("a test's", 1e9, 1e10))
        yield


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench")
    found = cases("tiny", 8, 2, 5, METHODS, [0.5, 0.7], [0.7])
    return found, bench.run(found, 2, out, "cpu", "float32", progress=False), out


def test_bytes_are_those_predicted(ran):
    _, rows, _ = ran
    shape = SHAPES["tiny"]
    token = 2 * shape.kv_bytes(4)  # a batch of two
    for row in rows:
        case = Case(**row["case"])
        if case.method == "vision":
            assert row["vision"] > 0
            continue
        left = 8 * 16 - 6 * (16 - int((1 - case.merge_ratio) * 16 + 0.5))
        text = row["columns"] - 8 * 16 + case.new_tokens
        kept = left if case.method in ("full", "capture", "merge") else int(0.3 * left + 0.5)
        assert row["bytes"]["read"] == token * (3 * (left + text) + (kept + text))
        assert row["bytes"]["held"] - row["bytes"]["read"] == (token * (left - kept) if case.method == "dycoke" else 0)
        assert row["bytes"]["peak in prefill"] is None and len(row["steps"]) == 5 and 0 < row["merge"] < row["prefill"]
        assert (len(row["select"]) == 0) == (case.method in ("full", "capture", "merge", "cut"))
        assert (row["changed"] is not None) == (case.method in ("dycoke", "one-shot"))


def test_an_interrupted_run_goes_on_and_a_finished_one_stays(ran, monkeypatch):
    found, rows, out = ran
    path = out / bench.ROWS
    lines = path.read_text().splitlines()
    assert len(lines) == len(found) * 2 == len(rows)
    path.write_text("\n".join(lines[:-2]) + "\n")
    again = bench.run(found, 2, out, "cpu", "float32", progress=False)
    assert [json.loads(line)["case"] for line in path.read_text().splitlines()] == [row["case"] for row in rows]
    assert again[:-2] == rows[:-2] and len(json.loads((out / "provenance.json").read_text())["runs"]) == 2
    path.write_text("\n".join(lines)[:-40])  # killed while the last line was written
    assert bench.run(found, 2, out, "cpu", "float32", progress=False)[:-1] == rows[:-1]
    assert len(path.read_text().splitlines()) == len(rows)
    again = bench.read(out)
    monkeypatch.setattr(bench, "build", None)  # a finished run needs no model
    assert bench.run(found, 2, out, "cpu", "float32") == again
    with pytest.raises(ValueError, match="holds a run on cpu in float32"):
        bench.run(found, 2, out, "cpu", "bfloat16")
    for arguments, message in (
        ((found, 0, out, "cpu", "float32"), "repeats=0 must be at least 1"),
        ((found, 2, out, "cpu", "int8"), "dtype='int8' must be one of float32"),
        (([*found, Case("llava-ov-0.5b", 4, 1, 2, "full")], 2, out, "cpu", "float32"), "one shape a run"),
    ):
        with pytest.raises(ValueError, match=message):
            bench.run(*arguments)
    with pytest.raises(ValueError, match="new_tokens=0 must be at least 1"):
        cases("tiny", 4, 1, 0, ["full"], [0.5], [0.5])
    path.write_text("\n".join(lines) + "\n")


def test_a_round_that_has_no_time_left_is_not_begun(tmp_path):
    found = cases("tiny", 4, 1, 2, ["full"], [0.5], [0.7])
    assert bench.run(found, 3, tmp_path, "cpu", "float32", minutes=0.0, progress=False) == []
    assert len(bench.run(found, 3, tmp_path, "cpu", "float32", minutes=9.0, progress=False)) == 3


def test_running_out_of_memory_is_a_result_and_more_is_not_tried(tmp_path, monkeypatch):
    def full_is_too_much(model, found, *rest):
        if found[0].method == "full" and found[0].batch > 1:
            raise torch.OutOfMemoryError("no room")
        return together(model, found, *rest)

    together = bench.together
    monkeypatch.setattr(bench, "together", full_is_too_much)
    monkeypatch.setattr(bench, "_same_job", lambda todo: [[one] for one in todo])  # as on a GPU
    found = [case for batch in (1, 2, 4) for case in cases("tiny", 4, batch, 2, ["full", "dycoke"], [0.5], [0.7])]
    rows = bench.run(found, 1, tmp_path, "cpu", "float32", progress=False)
    errors = [row.get("error") for row in rows]
    assert errors == [None, None, "out of memory: no room", None, "out of memory with less already: not tried", None]
    assert "no room" in report.summary(tmp_path)
    assert bench.run(found, 1, tmp_path, "cpu", "float32", progress=False) == rows  # a result, and done
    monkeypatch.setattr(bench, "measured", lambda device, dtype: Device("another", 1e9, 1e10))
    with pytest.raises(ValueError, match="holds a run on a test's, this is another"):
        bench.run([*found, Case("tiny", 4, 1, 2, "cut")], 1, tmp_path, "cpu", "float32", progress=False)


def test_a_model_that_does_not_fit_is_a_result(tmp_path, monkeypatch):
    found = cases("llava-ov-7b", 4, 1, 2, ["full", "dycoke"], [0.5], [0.7])
    monkeypatch.setattr(bench.os, "sysconf", lambda name: 1000)
    rows = bench.run(found, 1, tmp_path, "cpu", "float32", progress=False)
    assert [row["error"] for row in rows] == ["out of memory: the model itself does not fit"] * 2
    assert "does not fit" in report.summary(tmp_path)


@pytest.mark.parametrize("method", ["first_step", "reference_code", "keep_none", "random"])
@torch.no_grad()
def test_bytes_of_other_methods_are_those_predicted(method):
    trial = Trial(build("tiny"), Case("tiny", 8, 2, 3, method, 0.7, 0.7))
    trial.read()
    for _ in range(3):
        trial.step()
    assert trial.finish()["bytes"]["held"] == work(trial.case, 4).held


@pytest.mark.parametrize("method", METHODS[1:])
def test_what_has_been_measured_is_let_go(method):
    """Else the next case's peak of memory would hold it, too."""
    gc.collect()
    gc.disable()
    try:
        trial = Trial(build("tiny"), Case("tiny", 8, 1, 2, method, 0.5, 0.5))
        trial.read()
        trial.step()
        caches, twins = weakref.ref(trial.cache), weakref.ref(trial.model)
        trial.finish()
        assert caches() is None
        del trial
        gc.enable()
        gc.collect()
        assert twins() is None
    finally:
        gc.enable()


def test_ratios_are_medians_within_rounds_or_between_steps_that_took_turns():
    def row(repeat, seconds, turns=None, run=0):
        return {
            "run": run,
            "repeat": repeat,
            "prefill": seconds,
            "merge": 0.1,
            "steps": [9.0, seconds, seconds, 4 * seconds],
            "in_turns": turns,
        }

    full, other = [row(n, 2.0 * (n + 1)) for n in range(3)], [row(n, float(n + 1)) for n in range(3)]
    assert report.ratio("prefill", other, full) == (0.5, 0.5, 0.5) == report.ratio("step", other, full)
    assert report.ratio("step", other, []) is None and report.ratio("step", [{"run": 0, "repeat": 0, "error": "no"}], full) is None
    turns = [row(0, 3.0, 17.5)], [row(0, 2.0, 17.5)], [row(0, 1.0, 99.0)]
    assert report.ratio("step", turns[0], turns[1]) == (1.5, 1.5, 1.5)
    assert report.ratio("step", turns[0], turns[2]) is None  # another time, when the machine was another
    assert report.ratio("prefill", [row(0, 3.0)], [row(0, 2.0, run=1)]) is None
    assert str(report.ratio("prefill", [row(0, 3.0)], [row(0, 2.0)])) == "(1.5, nan, nan)"
    spread = [row(n, seconds) for n, seconds in enumerate((3.0, 4.0, 9.0))]
    assert report.ratio("prefill", spread, [row(n, 2.0) for n in range(3)]) == (2.0, 1.5, 4.5)  # smallest and largest
    other_run = [row(0, 3.0, 17.5), {**row(1, 3.0, 18.5), "steps": [9.0, 3.0]}]
    assert report.ratio("step", other_run, other_run) == (1.0, 1.0, 1.0)
    alone = {**row(0, 3.0, 17.5), "steps": [3.0]}
    assert report.ratio("step", [alone], [alone])[0] == 1.0


def test_the_table_has_a_line_for_each_case(ran):
    found, _, out = ran
    lines = report.table(out)
    assert [line["case"] for line in lines] == [case.label for case in found]
    named = {line["case"]: line for line in lines}
    dycoke = named["dycoke K=0.7 P=0.7"]
    assert dycoke["step / full"][1] <= dycoke["step / full"][0] <= dycoke["step / full"][2] and dycoke["step / cut"][0] > 0
    assert named["full"]["step / full"] == (1, 1, 1) and named["full"]["step / cut"] is None
    least = seconds(work(Case(**ran[1][1]["case"]), 4), Device("", 1e9, 1e10), 5)
    assert named["full"]["step roofline"] == pytest.approx(least["step"] / named["full"]["step"])
    text = report.summary(out)
    assert all(case.label in text for case in found) and "tiny · 8 frames · batch 2 · 5 new tokens" in text


def test_figures_of_a_bench(ran):
    _, _, out = ran
    (lines,) = speed.jobs(out)
    assert len(lines) == len(report.table(out))
    figure = speed.stages(lines, "title")
    (ax,) = figure.axes
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == [line["case"] for line in lines if line["case"] not in ("vision", "capture")]
    vision, full = (next(line for line in lines if line["case"] == name) for name in ("vision", "full"))
    assert sum(bar.get_width() for bar in ax.patches[:5]) == pytest.approx(vision["vision"] + full["total"])
    for to in ("cut", "full"):
        (ax,) = speed.against(lines, to, 1.05, "title").axes
        assert len(ax.get_yticklabels()) == 2  # dycoke, at each K
    (ax,) = speed.roofline(out, "title").axes
    assert ax.get_ylabel() == "billion operations a second"
    assert list(speed.shown(lines).index) == [line["case"] for line in lines if line["case"] != "vision"]
    agreement = speed.agreement(out).set_index(["case", "stage"])
    assert agreement.loc[("full", "step"), "model / measured"] == pytest.approx(full["step roofline"])
    tables = {"none": speed.gain("tiny", Device("", 1e9, 1e10), 0.7, 0.0, [4, 8], [1, 2])}
    assert len(speed.gains(tables, "title").axes) == 1
    plt.close("all")


def test_the_command_prints_a_table(tmp_path, capsys):
    main(["bench", "--frames", "4", "--new-tokens", "3", "--repeats", "1", "--methods", "full,dycoke", "--merge-ratio", ".7",
          "--out", str(tmp_path / "x")])  # fmt: skip
    out = capsys.readouterr().out
    assert "dycoke K=0.7" in out and "step / full" in out
    for wrong in (
        ["--shape", "huge"], ["--methods", "magic"], ["--merge-ratio", "2"], ["--prune-ratio", "x"],
        ["--device", "nowhere", "--out", str(tmp_path / "y")],
    ):  # fmt: skip
        with pytest.raises(SystemExit) as stop:
            main(["bench", *wrong])
        assert str(stop.value.code).startswith("error: ")


def test_twins_share_their_weights_and_nothing_else():
    model = build("tiny")
    other = twin(model)
    assert all(a.data_ptr() == b.data_ptr() for a, b in zip(model.parameters(), other.parameters(), strict=True))
    with DyCoke(merge_ratio=0.5)(other):
        assert decoder_of(other)._forward_pre_hooks and not decoder_of(model)._forward_pre_hooks
    assert decoder_of(other).config is not decoder_of(model).config


@pytest.mark.parametrize("name", ["llava-ov-0.5b", "llava-ov-7b", "qwen2.5-vl-3b", "qwen2.5-vl-7b"])
def test_published_shapes_have_their_published_size(name):
    model = build(name, "meta")
    decoder = sum(p.numel() for p in decoder_of(model).parameters())
    output = 0 if SHAPES[name].tied else model.lm_head.weight.numel()
    billions = {"llava-ov-0.5b": 0.49, "llava-ov-7b": 7.6, "qwen2.5-vl-3b": 3.1, "qwen2.5-vl-7b": 7.6}[name]
    assert (decoder + output) / 1e9 == pytest.approx(billions, rel=0.02)
    assert SHAPES[name].parameters == pytest.approx(decoder + output, rel=0.001)


@pytest.mark.parametrize("name", list(SHAPES))
def test_a_prompt_has_the_frames_of_its_shape(name):
    """Also where the model has a small vision tower, which is not to be measured."""
    model = build(name, "meta")
    inputs = prompt(name, SimpleNamespace(device="cpu", dtype=torch.float32, config=model.config), 3, 2)
    layout = adapter_for(model).find_videos(model.config, inputs)
    assert layout.videos == ((Grid(3, *SHAPES[name].grid),),) * 2


def test_a_copy_without_git_says_its_commit_by_the_environment(tmp_path, monkeypatch):
    monkeypatch.setattr("dycoke_lab.provenance.ROOT", tmp_path)
    monkeypatch.delenv("DYCOKE_LAB_COMMIT", raising=False)
    assert provenance()["commit"] == "unknown"
    monkeypatch.setenv("DYCOKE_LAB_COMMIT", "0123abc")
    assert provenance()["commit"] == "0123abc"


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in BENCH.glob("*/rows.jsonl")))
def test_committed_rows_hold_the_bytes_that_their_shape_says(folder):
    element = report.device_of(BENCH / folder)[1]
    for row in bench.read(BENCH / folder):
        case = Case(**row["case"])
        if case.method != "vision" and "error" not in row:
            own = work(case, element)
            assert (row["bytes"]["held"], row["bytes"]["read"]) == (own.held, own.read), case


class Counter(TorchDispatchMode):
    """Operations that allocate much memory."""

    def __init__(self):
        super().__init__()
        self.large = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and not out.is_sparse:
            mine = {arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, torch.Tensor)}
            new = out.untyped_storage()
            self.large += (
                new.nbytes() >= LARGE and new.data_ptr() not in mine and name != "_scaled_dot_product_flash_attention_for_cpu"
            )
        return out


def test_a_decoding_step_allocates_nothing_the_size_of_a_cache():
    """Stock copies all keys and values at each step. Here a step writes in place, however many there have been."""
    model = build("tiny")
    inputs = prompt("tiny", model, 32, 1)
    word = torch.tensor([[TEXT]])

    def large(context):
        found = []
        with context, torch.no_grad():
            cache = DynamicCache(config=model.config.get_text_config())
            model(**inputs, past_key_values=cache)
            for _ in range(40):
                with Counter() as counter:
                    model(input_ids=word, past_key_values=cache)
                found.append(counter.large)
        return found

    assert large(nullcontext()) == [2 * SHAPES["tiny"].layers] * 40  # all keys, and all values
    for settings in (
        dict(merge_ratio=0.0, prune_ratio=0.1, gate=-1.0), dict(merge_ratio=0.1, prune_ratio=0.0),
        dict(merge_ratio=0.0, prune_ratio=0.1, method="fastv"),
    ):  # fmt: skip
        assert large(DyCoke(**settings, score_layer=1)(model))[1:] == [0] * 39
    assert large(capture_attention(model))[1:] == [0] * 39


@pytest.mark.parametrize("batch", [1, 2])
def test_only_a_batch_or_a_mask_has_layers_asked_about_masks(batch, monkeypatch):
    crop, asked = Generation.crop, []
    monkeypatch.setattr(Generation, "crop", lambda self, call: asked.append(call.layer) or crop(self, call))
    model = build("tiny")
    word = torch.full((batch, 1), TEXT)
    with DyCoke(merge_ratio=0.5, prune_ratio=0.5, gate=2.0, score_layer=1)(model), torch.no_grad():
        cache = DynamicCache(config=model.config.get_text_config())
        model(**prompt("tiny", model, 4, batch), past_key_values=cache)
        asked.clear()
        model(input_ids=word, past_key_values=cache)
    assert asked == ([] if batch == 1 else list(range(1, SHAPES["tiny"].layers)))


def test_the_readme_says_what_the_rows_say():
    readme = (ROOT / "README.md").read_text()
    lines = {line["case"]: line for line in report.table(BENCH / "main-32-frames-cpu")}

    def shown(found):
        return "{:.2f} [{:.2f}, {:.2f}]".format(*found) if found else ""

    for name, case in (
        ("DyCoke, K=0.7 P=0.7", "dycoke K=0.7 P=0.7"), ("the same, chosen anew", "dycoke K=0.7 P=0.7 gate 2"),
        ("DyCoke, K=0.5 P=0.7", "dycoke K=0.5 P=0.7"), ("the same, chosen anew", "dycoke K=0.5 P=0.7 gate 2"),
        ("DyCoke's merging alone, K=0.7", "merge K=0.7"), ("DyCoke's merging alone, K=0.5", "merge K=0.5"),
        ("FastV, P=0.7", "fastv K=0 P=0.7"),
        ("one-shot, last query, P=0.7", "one-shot K=0 P=0.7"), ("full cache, looked at by `capture_attention`", "capture"),
    ):  # fmt: skip
        cells = [shown(lines[case][of]) for of in ("prefill / full", "step / full", "step / cut")]
        cells.append(f"{lines[case]['held'] / lines['full']['held']:.2f}")
        assert f"| {name} | {' | '.join(cells)} |".replace("|  |", "| |") in readme
    (vision,) = (line["vision"] for line in lines.values() if "vision" in line)
    full, ours = lines["full"], lines["dycoke K=0.7 P=0.7"]
    whole = (vision + full["total"]) / (vision + ours["total"])
    assert f"{vision / full['prefill']:.1f} times as long as reading the whole prompt" in readme
    assert f"DyCoke at K=0.7 is {whole:.2f} times as fast from the frames to the {full['new_tokens']}th word" in readme
    short = [line for folder in ("floor-1-frame-cpu", "floor-2-frames-cpu") for line in report.table(BENCH / folder)]
    steps = [line["step / full"][0] for line in short if "gate 2" in line["case"]]
    assert f"a step takes {min(steps):.3f} to {max(steps):.3f} of one with the full cache" in readme
    for case, told in (("", "a step takes {} of one with merging alone"), (" gate 2", "and {} with a new choice each time")):
        found = "{:.3f} [{:.3f}, {:.3f}]".format(*lines[f"dycoke K=0.7 P=0.7{case}"]["step / merge"])
        assert told.format(found) in " ".join(readme.split())
    (barely,) = (line for line in report.table(BENCH / "uncompressed-32-frames-cpu") if line["case"] != "full")
    assert barely["changed"] == 0 and f"that alone, a step takes {barely['step / full'][0]:.2f} of stock's" in readme
    saved = speed.gain("llava-ov-7b", H100, 0.7, 0.0, [32, 128], [1, 8])
    assert saved.loc[32, 1] < 0.01 and f"{100 * saved.loc[128, 8]:.0f} % at 128 frames and batch 8" in readme
