"""Time and memory of real prefills and decoding steps, at published shapes with random weights; every result a row of JSON.

A run has a folder of its own. Its rows are appended round by round (on a GPU one by one), so that an interrupted run goes on
where it stopped.
"""

from __future__ import annotations

import gc
import json
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from dycoke_lab.case import Case
from dycoke_lab.cost import measured
from dycoke_lab.provenance import provenance, replace_text
from dycoke_lab.shapes import SHAPES, build, encode
from dycoke_lab.trial import Trial

ROWS = "rows.jsonl"
BUSY = 0.5  # of provenance's "load"
DTYPES = ("float32", "bfloat16", "float16")
NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")
Row = dict[str, Any]


def run(
    found: Sequence[Case], repeats: int, out: Path, device: str, dtype: str, minutes: float | None = None, progress: bool = True
) -> list[Row]:
    """Measure what `out` does not hold yet, all cases in each of `repeats` rounds, and return all rows.

    On a CPU the decoding steps of all cases that do the same job take turns, so that a machine that gets slower does so for all.
    On a GPU one case runs after the other, so that the peak of memory is its own. minutes: start nothing new after so many.
    """
    if repeats < 1:
        raise ValueError(f"repeats={repeats} must be at least 1")
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} must be one of {', '.join(DTYPES)}")
    if dtype == "float16" and device == "cpu":
        raise ValueError("dtype='float16' takes minutes for what bfloat16 and float32 do in a second on a CPU: choose one of those")
    out.mkdir(parents=True, exist_ok=True)
    path, about = out / ROWS, out / "provenance.json"
    record: dict[str, Any] = json.loads(about.read_text()) if about.exists() else {"device": device, "dtype": dtype, "runs": []}
    if (record["device"], record["dtype"]) != (device, dtype):
        raise ValueError(f"{out} holds a run on {record['device']} in {record['dtype']}: choose another folder with --out")
    rows = read(out)
    if path.exists() and not path.read_text().endswith("\n"):  # a kill has left part of a line
        replace_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    done = {(Case(**row["case"]), row["repeat"]) for row in rows}
    todo = [(case, n) for n in range(repeats) for case in found if (case, n) not in done]
    if not todo:
        return rows
    shapes = {case.shape for case in found}
    if len(shapes) > 1:
        raise ValueError(f"found holds cases of {', '.join(sorted(shapes))}: one shape a run")
    (shape,) = shapes
    kind = getattr(torch, dtype)
    began = time.monotonic()
    cuda = device.startswith("cuda")
    if cuda and torch.device(device).index is not None:
        torch.cuda.set_device(device)
    before = provenance()  # what the machine is busy with is asked before it is kept busy
    peak = asdict(measured(device, kind))
    for last in record["runs"][-1:]:
        name = last["hardware"]["cpu"] if last["peak"]["name"] == "this CPU" else last["peak"]["name"]  # as older runs have it
        if name != peak["name"]:
            raise ValueError(f"{out} holds a run on {name}, this is {peak['name']}: choose another folder with --out")
    record["runs"].append({**before, "peak": peak})
    if progress and record["runs"][-1]["hardware"]["load"] > BUSY:
        tqdm.write("This machine does something else, too: times and their ratios are not to be trusted, even of steps in turns")
    number = len(record["runs"]) - 1
    replace_text(about, json.dumps(record, indent=1) + "\n")
    groups = _same_job(todo)
    models: dict[bool, Any] = {}
    failed = [row for row in rows if "error" in row]
    with tqdm(total=len(todo), desc=shape, disable=not progress) as bar:
        for group in groups:
            if minutes is not None and time.monotonic() - began > 60 * minutes:
                break
            vision = group[0][0].method == "vision"
            if vision not in models:
                models.clear()  # two large models need not fit
                _empty()
                models[vision] = _model(shape, device, kind, group[0][0])
            for part in [[one] for one in group] if cuda else [group]:
                new = [{**row, "run": number} for row in _measure(models[vision], part, failed, bar.set_postfix_str)]
                rows += new
                failed += [row for row in new if "error" in row]
                with path.open("a") as file:
                    file.writelines(json.dumps(row) + "\n" for row in new)
                bar.update(len(part))
    return rows


def read(out: Path) -> list[Row]:
    """The rows that a folder holds; of a line that was being written when the run was killed, nothing."""
    path = out / ROWS
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")] if path.exists() else []


def _same_job(todo: Sequence[tuple[Case, int]]) -> list[list[tuple[Case, int]]]:
    groups: dict[Any, list[tuple[Case, int]]] = {}
    for case, repeat in todo:
        groups.setdefault((repeat, case.method == "vision", case.job), []).append((case, repeat))
    return list(groups.values())


def _model(shape: str, device: str, dtype: torch.dtype, case: Case) -> Any:
    """The model that this case needs, warm; None if it does not fit."""
    vision = case.method == "vision"
    needed = SHAPES[shape].parameters * torch.empty(0, dtype=dtype).element_size()
    if device == "cpu" and not vision and needed > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
        return None  # a CPU's memory is promised, and the process killed when it is used
    try:
        model = build(shape, device, dtype, vision=vision)
        _warm_up(model, case)
        return model
    except torch.OutOfMemoryError:
        return None


def _warm_up(model: Any, case: Case) -> None:
    """Whatever is loaded and compiled once, before the first time that counts."""
    few = replace(case, frames=4, batch=1, new_tokens=2, graph=False, whole_logits=False)
    if case.method == "vision":
        _encode(model, replace(few, frames=1))
    else:
        together(model, [replace(few, method="full"), replace(few, method="dycoke", merge_ratio=0.5, prune_ratio=0.5, gate=2.0)])


def _empty() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def _measure(model: Any, group: Sequence[tuple[Case, int]], failed: Sequence[Row], tell: Callable[[str], None]) -> list[Row]:
    head = [{"case": asdict(case), "repeat": repeat} for case, repeat in group]
    case, repeat = group[0]
    if model is None:
        return [{**row, "error": "out of memory: the model itself does not fit"} for row in head]
    if len(group) == 1 and any(_larger(case, Case(**row["case"])) for row in failed):
        return [{**head[0], "error": "out of memory with less already: not tried"}]
    gc.collect()
    try:
        vision = case.method == "vision"
        if model.device.type == "cuda" and not vision:  # whatever is loaded and compiled for these sizes
            together(model, [replace(case, new_tokens=2, graph=False) for case, _ in group], repeat, tell)
        found = [{"vision": _encode(model, case)}] if vision else together(model, [case for case, _ in group], repeat, tell)
        return [{**row, **result} for row, result in zip(head, found, strict=True)]
    except RuntimeError as error:  # torch.OutOfMemoryError is one; pinned memory and a CPU's have none of their own
        text = f"out of memory: {str(error).partition(chr(10))[0]}"
        if not isinstance(error, torch.OutOfMemoryError) and not any(sign in str(error) for sign in NO_MEMORY):
            raise
    _empty()  # out here, where the error no longer holds on to what filled the memory
    return [{**row, "error": text} for row in head]


def _larger(case: Case, other: Case) -> bool:
    """Whether a case is the same as another, with as many samples and frames or more."""
    return (
        case.batch >= other.batch
        and case.frames >= other.frames
        and replace(case, batch=0, frames=0) == replace(other, batch=0, frames=0)
    )


def together(model: Any, found: Sequence[Case], seed: int = 0, tell: Callable[[str], None] = lambda text: None) -> list[Row]:
    """Cases with as many new tokens: one prefill after the other, then their decoding steps in turns; both in an order that is
    drawn, for each word anew."""
    order, began = random.Random(seed), time.time()
    trials = [Trial(model, case) for case in found]
    try:
        for trial in order.sample(trials, len(trials)):
            tell(trial.case.label)
            trial.read()
        for number in range(found[0].new_tokens):
            tell(f"word {number + 1}")
            for trial in order.sample(trials, len(trials)):
                trial.step()
        return [{**trial.finish(), "in_turns": began if len(trials) > 1 else None} for trial in trials]
    finally:
        for trial in trials:
            trial.close()


@torch.inference_mode()
def _encode(model: Any, case: Case) -> float:
    call = encode(case.shape, model, case.frames, case.batch)
    wait = torch.cuda.synchronize if model.device.type == "cuda" else lambda: None
    wait()
    began = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - began
