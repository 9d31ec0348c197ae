"""A benchmark continues where it stopped, counts bytes rightly, and reports what memory does not suffice
for.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from dycoke_lab.bench import benchmark, interleaving
from dycoke_lab.bench.benchmark import run_benchmark
from dycoke_lab.bench.configs import WARM_UP, BenchmarkConfig, configs
from dycoke_lab.bench.model_shapes import SHAPES
from dycoke_lab.bench.roofline import work
from dycoke_lab.bench.summary import device_of, summary
from dycoke_lab.results.folders import BENCH
from dycoke_lab.results.rows import ROWS, read_rows


def test_rows_hold_the_bytes_that_are_counted_by_hand(measured):
    shape = SHAPES["tiny"]
    token = 2 * shape.kv_bytes(4)  # a batch of two
    for row in measured[1]:
        config = BenchmarkConfig(**row["config"])
        if config.method == "vision":
            assert row["vision"] > 0
            continue
        retained = 8 * 16 - 6 * (16 - int((1 - config.merge_ratio) * 16 + 0.5))
        text = row["prompt_tokens"] - 8 * 16 + config.new_tokens + (WARM_UP if config.graph else 0)
        pruned = config.method in ("truncated", "dycoke", "fastv", "one-shot")
        active = int(0.3 * retained + 0.5) if pruned else retained
        assert row["bytes"]["read"] == token * (3 * (retained + text) + (active + text))
        inactive = token * (retained - active) if config.method == "dycoke" else 0
        assert row["bytes"]["held"] - row["bytes"]["read"] == inactive
        assert len(row["steps"]) == 5 and 0 < row["merge"] < row["prefill"]
        assert row["bytes"]["peak in prefill"] is None  # a CPU's is not known
        assert (row["changed"] is not None) == (config.method == "dycoke" and not config.graph)
        assert bool(row["select"]) == (config.method in ("dycoke", "one-shot") and not config.graph)


@pytest.mark.data
@pytest.mark.parametrize("folder", sorted(path.parent.name for path in BENCH.glob("*/rows.jsonl")))
def test_committed_rows_hold_the_bytes_that_their_shape_says(folder):
    element = device_of(BENCH / folder)[1]
    for row in read_rows(BENCH / folder):
        config = BenchmarkConfig(**row["config"])
        if "steps" in row:
            own = work(config, element)
            assert (row["bytes"]["held"], row["bytes"]["read"]) == (own.held, own.read), config


@pytest.mark.slow
def test_interrupted_benchmark_continues_and_a_finished_one_stays(measured, monkeypatch):
    found, rows, folder = measured
    path, about = folder / ROWS, folder / "provenance.json"
    whole, record = path.read_text(), about.read_text()
    lines = whole.splitlines()
    assert len(lines) == len(found) * 2 == len(rows)
    try:
        path.write_text("\n".join(lines[:-2]) + "\n")
        again = run_benchmark(found, 2, folder, "cpu", "float32", progress=False)
        assert [row["config"] for row in read_rows(folder)] == [row["config"] for row in rows]
        assert again[:-2] == rows[:-2] and len(json.loads(about.read_text())["runs"]) == 2
        path.write_text("\n".join(lines)[:-40])  # killed while the last line was written
        assert run_benchmark(found, 2, folder, "cpu", "float32", progress=False)[:-1] == rows[:-1]
        again = read_rows(folder)
        monkeypatch.setattr(benchmark, "build_model", None)  # a finished benchmark needs no model
        assert run_benchmark(found, 2, folder, "cpu", "float32") == again
        with pytest.raises(ValueError, match="dtype='float32', not 'bfloat16'"):
            run_benchmark(found, 2, folder, "cpu", "bfloat16")
    finally:
        path.write_text(whole)
        about.write_text(record)


def test_benchmark_refuses_what_it_cannot_run(tmp_path):
    found = configs("tiny", 4, 1, 2, ["full"], [0.5], [0.7])
    for arguments, message in (
        ((found, 0, tmp_path, "cpu", "float32"), "repeats=0 must be at least 1"),
        ((found, 2, tmp_path, "cpu", "int8"), "dtype='int8' must be one of float32"),
        ((found, 2, tmp_path, "cpu", "float16"), "dtype='float16' takes minutes"),
        (
            ([*found, BenchmarkConfig("llava-ov-0.5b", 4, 1, 2, "full")], 2, tmp_path, "cpu", "float32"),
            "one shape",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            run_benchmark(*arguments)
    assert not list(tmp_path.iterdir())


def test_job_that_has_no_time_left_is_not_begun(tmp_path):
    found = configs("tiny", 4, 1, 2, ["full"], [0.5], [0.7])
    assert run_benchmark(found, 3, tmp_path, "cpu", "float32", minutes=0.0, progress=False) == []
    assert len(run_benchmark(found, 3, tmp_path, "cpu", "float32", minutes=9.0, progress=False)) == 3


@pytest.mark.slow
def test_log_has_one_line_a_config_without_a_terminal(tmp_path, capsys):
    found = configs("tiny", 4, 1, 2, ["vision", "full", "dycoke"], [0.5], [0.7])
    run_benchmark(found, 1, tmp_path, "cpu", "float32")
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("This machine")]
    assert len(lines) == 3 and lines[2].startswith("4 frames, batch 1, dycoke K=0.5 P=0.7: prefill 0.0")


@pytest.mark.slow
def test_running_out_of_memory_is_a_result_and_more_is_not_tried(tmp_path, monkeypatch):
    def full_is_too_much(model, found, seed=0):
        if any(config.method == "full" and config.batch > 1 for config in found):
            raise torch.OutOfMemoryError("no room")
        return interleaved(model, found, seed)

    interleaved = interleaving.interleaved
    monkeypatch.setattr(interleaving, "interleaved", full_is_too_much)
    found = [
        config
        for batch in (1, 2, 4)
        for config in configs("tiny", 4, batch, 2, ["full", "dycoke"], [0.5], [0.7])
    ]
    rows = run_benchmark(found, 1, tmp_path, "cpu", "float32", progress=False)
    errors = [row.get("error") for row in rows]
    too_much = ["out of memory: no room", None, "out of memory with less already: not tried", None]
    assert errors == [None, None, *too_much]
    assert rows[1]["in_turns"] and rows[3]["in_turns"] is None  # alone, since they did not fit side by side
    assert "no room" in summary(tmp_path)
    assert run_benchmark(found, 1, tmp_path, "cpu", "float32", progress=False) == rows  # a result, and done
    monkeypatch.setattr(benchmark, "hardware_name", lambda device: "another CPU")
    with pytest.raises(ValueError, match="not 'another CPU'"):
        run_benchmark(found, 2, tmp_path, "cpu", "float32", progress=False)


def test_model_that_does_not_fit_is_a_result(tmp_path, monkeypatch):
    found = configs("llava-ov-7b", 4, 1, 2, ["full", "dycoke"], [0.5], [0.7])
    monkeypatch.setattr(benchmark.os, "sysconf", lambda name: 1000)
    rows = run_benchmark(found, 1, tmp_path, "cpu", "float32", progress=False)
    assert [row["error"] for row in rows] == ["out of memory: the model itself does not fit"] * 2
    assert "does not fit" in summary(tmp_path)


class OnGPU:
    """A model that says it is on a GPU."""

    device = torch.device("cuda")


def test_gpu_measures_memory_alone_and_steps_in_turns(monkeypatch):
    calls = []

    def interleaved(model, found, seed=0):
        calls.append([(config.method, config.new_tokens) for config in found])
        if any(config.method == "merge" for config in found):
            raise torch.OutOfMemoryError("no room")
        own = dict.fromkeys(interleaving.PEAKS, len(found))
        return [{"bytes": {"held": config.new_tokens, **own}, "in_turns": len(found) > 1} for config in found]

    monkeypatch.setattr(interleaving, "interleaved", interleaved)
    group = configs("tiny", 4, 1, 9, ["full", "merge", "dycoke"], [0.5], [0.7])
    full, merge, dycoke = interleaving.measure(OnGPU(), group, 0, failed=[])
    assert calls == [[("full", 2)], [("merge", 2)], [("dycoke", 2)], [("full", 9), ("dycoke", 9)]]
    assert merge == {"error": "out of memory: no room"}
    expected = {"held": 9, **dict.fromkeys(interleaving.PEAKS, 1)}  # peaks are those of the runs alone
    assert full == dycoke == {"bytes": expected, "in_turns": True}
    larger = [replace(config, batch=2, frames=8, new_tokens=3) for config in group]
    rows = interleaving.measure(OnGPU(), larger, 0, failed=[group[1]])
    assert rows[1] == {"error": "out of memory with less already: not tried"} and "bytes" in rows[0]


NOT_ON_A_GPU_MACHINE = (
    "av",
    "matplotlib",
    "seaborn",
    "scipy",
    "sklearn",
    "papermill",
    "IPython",
    "ipywidgets",
)
ALONE = """
import sys
sys.modules.update(dict.fromkeys({names}))  # importing one of them fails
from dycoke_lab.cli import main
job = ["--frames", "2", "--new-tokens", "2", "--repeats", "1", "--methods", "full,dycoke"]
main(["bench", *job, "--out", {out!r}])
"""


@pytest.mark.slow
def test_bench_needs_no_figures_videos_or_notebooks(tmp_path):
    names = (*NOT_ON_A_GPU_MACHINE, "dycoke_lab.viz", "dycoke_lab.evaluation", "dycoke_lab.video")
    code = ALONE.format(names=names, out=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "dycoke K=0.7 P=0.7" in done.stdout
