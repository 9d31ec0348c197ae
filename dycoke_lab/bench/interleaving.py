"""Measure the configs of one job side by side: their decoding steps take turns."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from dycoke_lab.bench.configs import BenchmarkConfig
from dycoke_lab.bench.model_shapes import encoding
from dycoke_lab.bench.roofline import columns
from dycoke_lab.bench.timed_run import TimedRun

Row = dict[str, Any]
NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")
PEAKS = ("peak in prefill", "peak in decoding", "activations")
STEPS_ALONE = 2  # of a run that only measures memory


def measure(
    model: Any, group: Sequence[BenchmarkConfig], seed: int, failed: Sequence[BenchmarkConfig]
) -> list[Row]:
    """Return a row of results for each config, {"error": ...} where memory does not suffice.

    The configs share a job, so that their decoding steps can take turns: a machine that gets slower does so
    for all. On a GPU each first runs alone for a few steps, which gives its peaks of memory and loads its
    kernels. Where they do not fit side by side, they run one by one. failed: configs that have run out of
    memory before; as many tokens or more are not tried.
    """
    empty_memory()
    found: dict[BenchmarkConfig, Row] = {}
    for config in group:
        if any(_at_least(config, other) for other in failed):
            found[config] = {"error": "out of memory with less already: not tried"}
        elif config.method == "vision":
            found[config] = _attempt(lambda config=config: {"vision": _encode(model, config)})
        elif model.device.type == "cuda":
            found[config] = _attempt(lambda config=config: _alone(model, config))
    fitting = [
        config for config in group if config.method != "vision" and "error" not in found.get(config, {})
    ]
    if fitting:
        together: Any = _attempt(lambda: interleaved(model, fitting, seed))
        if "error" in together and len(fitting) > 1:
            one_by_one = [
                _attempt(lambda config=config: interleaved(model, [config], seed)) for config in fitting
            ]
            together = [row if "error" in row else row[0] for row in one_by_one]
        for number, config in enumerate(fitting):
            row = dict(together if "error" in together else together[number])
            if "bytes" in row and config in found:
                row["bytes"] |= {name: found[config]["bytes"][name] for name in PEAKS}
            found[config] = row
    return [found[config] for config in group]


def interleaved(model: Any, configs: Sequence[BenchmarkConfig], seed: int = 0) -> list[Row]:
    """Run configs with as many new tokens: one prefill after the other, then their decoding steps in turns.

    The order is drawn, for each token anew. in_turns: when this began, None for a single config.
    """
    order, began = random.Random(seed), time.time()
    runs: list[TimedRun] = []
    collecting = gc.isenabled()
    try:
        runs += [TimedRun(model, config) for config in configs]
        drawn = order.sample(runs, len(runs))
        if model.device.type == "cuda":  # long prompts first, while there is still room for their activations
            drawn.sort(key=lambda run: -columns(run.config).prompt)
        for run in drawn:
            run.prefill()
        gc.disable()  # beside many models Python's collector takes 33 ms now and then: seen on an H100
        for _ in range(configs[0].new_tokens):
            for run in order.sample(runs, len(runs)):
                run.step()
        return [{**run.finish(), "in_turns": began if len(runs) > 1 else None} for run in runs]
    finally:
        if collecting:
            gc.enable()
        for run in runs:
            run.close()


def warm_up(model: Any, config: BenchmarkConfig) -> None:
    """Load and compile whatever is loaded and compiled once, before the first time that counts."""
    few = replace(config, frames=4, batch=1, new_tokens=2, graph=False, whole_logits=False)
    if config.method == "vision":
        _encode(model, replace(few, frames=1))
        return
    dycoke = dict(method="dycoke", merge_ratio=0.5, prune_ratio=0.5, reselect_below=2.0, inactive="device")
    interleaved(model, [replace(few, method="full"), replace(few, **dycoke)])  # type: ignore[arg-type]


def empty_memory() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def _alone(model: Any, config: BenchmarkConfig) -> Row:
    (row,) = interleaved(model, [replace(config, new_tokens=STEPS_ALONE)])
    return row


def _attempt(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (
        RuntimeError
    ) as error:  # torch.OutOfMemoryError is one; pinned memory and a CPU's have none of their own
        text = f"out of memory: {str(error).partition(chr(10))[0]}"
        if not isinstance(error, torch.OutOfMemoryError) and not any(
            sign in str(error) for sign in NO_MEMORY
        ):
            raise
    empty_memory()  # out here, where the error no longer holds what filled the memory
    return {"error": text}


def _at_least(config: BenchmarkConfig, other: BenchmarkConfig) -> bool:
    """Whether a config is the same as another, with as many batch elements and frames or more."""
    same = replace(config, batch=0, frames=0, new_tokens=0) == replace(other, batch=0, frames=0, new_tokens=0)
    return same and config.batch >= other.batch and config.frames >= other.frames


@torch.inference_mode()
def _encode(model: Any, config: BenchmarkConfig) -> float:
    call = encoding(config.shape, model, config.frames, config.batch)
    synchronise = torch.cuda.synchronize if model.device.type == "cuda" else lambda: None
    if model.device.type == "cuda":
        call()  # compiles for these sizes
    synchronise()
    began = time.perf_counter()
    call()
    synchronise()
    return time.perf_counter() - began
