"""Time and memory of real prefills and decoding steps, at published shapes with random weights; every result
a row.

A benchmark has a folder of its own. Rows are appended job by job, so that an interrupted benchmark continues
where it stopped.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from dycoke_lab.bench.configs import BenchmarkConfig
from dycoke_lab.bench.interleaving import Row, empty_memory, measure, warm_up
from dycoke_lab.bench.model_shapes import SHAPES, build_model
from dycoke_lab.bench.roofline import hardware_name, measured_device
from dycoke_lab.results.rows import RowStore

BUSY = 0.5  # of provenance's "load"
DTYPES = ("float32", "bfloat16", "float16")
Todo = tuple[BenchmarkConfig, int]  # and the number of the round


def run_benchmark(
    configs: Sequence[BenchmarkConfig],
    repeats: int,
    folder: Path,
    device: str,
    dtype: str,
    minutes: float | None = None,
    progress: bool = True,
) -> list[Row]:
    """Measure what `folder` does not hold yet, all configs in each of `repeats` rounds, and return all rows.

    Decoding steps of configs that do the same job take turns (`interleaving.measure`). minutes: start no job
    after so many. Raises ValueError for a folder with rows of another device or dtype, and for configs of
    more than one shape.
    """
    if repeats < 1:
        raise ValueError(f"repeats={repeats} must be at least 1")
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} must be one of {', '.join(DTYPES)}")
    if dtype == "float16" and device == "cpu":
        raise ValueError(
            "dtype='float16' takes minutes on a CPU: choose bfloat16 or float32, which take seconds"
        )
    if len(shapes := {config.shape for config in configs}) > 1:
        raise ValueError(
            f"configs have the shapes {', '.join(sorted(shapes))}: measure one shape in one folder"
        )
    if device.startswith("cuda") and torch.device(device).index is not None:
        torch.cuda.set_device(device)
    with RowStore(folder, device=device, dtype=dtype, hardware=hardware_name(device)) as store:
        return _measure_missing(configs, repeats, store, minutes, progress)


def _measure_missing(
    configs: Sequence[BenchmarkConfig], repeats: int, store: RowStore, minutes: float | None, progress: bool
) -> list[Row]:
    device, dtype = store.record["device"], getattr(torch, store.record["dtype"])
    rows = store.rows()
    done = {(BenchmarkConfig(**row["config"]), row["repeat"]) for row in rows}
    todo = [(config, n) for n in range(repeats) for config in configs if (config, n) not in done]
    if not todo:
        return rows
    began, busy = time.monotonic(), os.getloadavg()[0] > BUSY
    if progress and busy:
        print(
            "This machine is busy with something else: do not trust times, nor their ratios", file=sys.stderr
        )
    run = store.begin(peak=asdict(measured_device(device, dtype)))
    models: dict[bool, Any] = {}
    in_terminal = progress and sys.stderr.isatty()
    with tqdm(total=len(todo), desc=configs[0].shape, disable=not in_terminal) as bar:
        for group in _same_job(todo):
            if minutes is not None and time.monotonic() - began > 60 * minutes:
                break
            (first, repeat), group_configs = group[0], [config for config, _ in group]
            vision = first.method == "vision"
            if vision not in models:
                models.clear()  # two large models need not fit
                empty_memory()
                models[vision] = _model(first, device, dtype)
            failed = [BenchmarkConfig(**row["config"]) for row in rows if "error" in row]
            if models[vision] is None:
                found = [{"error": "out of memory: the model itself does not fit"} for _ in group]
            else:
                found = measure(models[vision], group_configs, repeat, failed)
            heads = [{"config": asdict(config), "repeat": repeat, "run": run} for config in group_configs]
            new = [{**head, **row} for head, row in zip(heads, found, strict=True)]
            store.append(new)
            rows += new
            bar.update(len(group))
            if progress and not in_terminal:
                for row in new:
                    print(_line(row), file=sys.stderr)
    return rows


def _same_job(todo: Sequence[Todo]) -> list[list[Todo]]:
    """Group what can take turns. Steps of static shapes are compared with each other only."""
    groups: dict[Any, list[Todo]] = {}
    for config, repeat in todo:
        groups.setdefault((repeat, config.method == "vision", config.graph, config.job), []).append(
            (config, repeat)
        )
    return list(groups.values())


def _model(config: BenchmarkConfig, device: str, dtype: torch.dtype) -> Any:
    """Return the model that this config needs, after a short run; None if it does not fit."""
    vision = config.method == "vision"
    needed = SHAPES[config.shape].parameters * torch.empty(0, dtype=dtype).element_size()
    if device == "cpu" and not vision and needed > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
        return None  # Linux would promise the memory, and kill the process when it is used
    try:
        model = build_model(config.shape, device, dtype, vision=vision)
        warm_up(model, config)
        return model
    except torch.OutOfMemoryError:
        return None


def _line(row: Row) -> str:
    """Name a row and its result, for a log."""
    config = BenchmarkConfig(**row["config"])
    result = row.get("error") or f"{row.get('vision', 0):.3f} s to encode the frames"
    if "steps" in row:
        steps = [1000 * step for step in row["steps"]]
        middle, least = statistics.median(steps), min(steps)
        result = f"prefill {row['prefill']:.3f} s, step {middle:.1f} ms (minimum {least:.1f})"
    return f"{config.frames} frames, batch {config.batch}, {config.label}: {result}"
