"""The tables of docs/speed-and-memory.md, from the committed rows, as Markdown."""

from __future__ import annotations

from pathlib import Path

from dycoke_lab.bench.configs import EVERY_STEP, BenchmarkConfig
from dycoke_lab.bench.summary import JOB, by_config, interval, table
from dycoke_lab.results.rows import read_rows

SPEED_ROWS = {
    "DyCoke, K=0.7 P=0.7": {"method": "dycoke", "merge_ratio": 0.7, "prune_ratio": 0.7},
    "the same, selecting anew at each step": {
        "method": "dycoke",
        "merge_ratio": 0.7,
        "prune_ratio": 0.7,
        "reselect_below": EVERY_STEP,
    },
    "merging alone, K=0.7": {"method": "merge", "merge_ratio": 0.7},
    "FastV, P=0.7": {"method": "fastv", "prune_ratio": 0.7},
    "one-shot (last query), P=0.7": {"method": "one-shot", "prune_ratio": 0.7},
}
SPEED_COLUMNS = ("prefill / full", "step / full", "step / full-in-place", "step / truncated")


def speed_table(folder: Path) -> str:
    """Return the table of docs/speed-and-memory.md as Markdown: ratios with their intervals, [low, high]."""
    job = next(config.job for config in by_config(read_rows(folder)) if config.method == "full")
    lines = {line["config"]: line for line in table(folder) if tuple(line[name] for name in JOB) == job}
    rows = [
        "| | prefill / full | step / full | step / full in place | step / truncated | KV held / full |",
        "|---" * 6 + "|",
    ]
    for name, settings in SPEED_ROWS.items():
        line = lines[BenchmarkConfig(*job, **settings).label]  # type: ignore[arg-type]
        cells = [interval(line[of]) for of in SPEED_COLUMNS] + [f"{line['held'] / lines['full']['held']:.2f}"]
        rows.append(" | ".join([f"| {name}", *cells]) + " |")
    return "\n".join(rows)


GPU_ROWS = {
    "full cache": {"method": "full"},
    "merging alone, K=0.7": {"method": "merge", "merge_ratio": 0.7},
    "DyCoke, K=0.7 P=0.7": {"method": "dycoke", "merge_ratio": 0.7, "prune_ratio": 0.7},
    "caches truncated by hand": {"method": "truncated", "merge_ratio": 0.7, "prune_ratio": 0.7},
}
GPU_COLUMNS = {"prefill": 1.0, "step": 1e3, "held": 1e-9}


def gpu_table(folder: Path, frames: int, batch: int) -> str:
    """Return a job's prefill, decoding step as one CUDA graph, and peak memory; each also divided by the full
    cache's."""
    configs = [config for config in by_config(read_rows(folder)) if config.graph]
    job = next(config.job for config in configs if (config.frames, config.batch) == (frames, batch))
    found = {line["config"]: line for line in table(folder) if tuple(line[name] for name in JOB) == job}
    full = found[BenchmarkConfig(*job, "full", graph=True).label]
    rows = ["| | prefill, s | step, ms | peak memory, GB | KV held, GB |", "|---" * 5 + "|"]
    for name, settings in GPU_ROWS.items():
        line = found[BenchmarkConfig(*job, **settings, graph=True).label]  # type: ignore[arg-type]
        shown = {of: _beside(line[of], full[of], factor) for of, factor in GPU_COLUMNS.items()}
        peak, of_full = (max(one["peak in prefill"], one["peak in decoding"]) for one in (line, full))
        cells = [shown["prefill"], shown["step"], _beside(peak, of_full, 1e-9), shown["held"]]
        rows.append(" | ".join([f"| {name}", *cells]) + " |")
    return "\n".join(rows)


def _beside(value: float, full: float, factor: float) -> str:
    return f"{value * factor:.3g} ({value / full:.2f})"
