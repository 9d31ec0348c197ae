"""What a line of the matrix costs at a published shape: time, keys and values, arithmetic. All lines read the
same prompt and write the same tokens, round by round, in an order drawn for each round."""

from __future__ import annotations

import gc
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm
from transformers.cache_utils import DynamicCache

from dycoke_lab.bench import flops
from dycoke_lab.bench.model_shapes import (
    BEFORE,
    ENDING,
    QUESTION,
    SHAPES,
    TEXT,
    VIDEO,
    Shape,
    build_model,
)
from dycoke_lab.bench.roofline import H100
from dycoke_lab.evaluation.matrix import FULL, OTHERWISE, TOGETHER, Line, Part, made, plan_at
from dycoke_lab.evaluation.matrix_runs import Prompts, Solver
from dycoke_lab.methods import METHODS, Compression, Merger
from dycoke_lab.models import decoder_of
from dycoke_lab.results.files import read_json
from dycoke_lab.results.folders import RESULTS
from dycoke_lab.results.rows import ABOUT, RowStore, read_rows
from dycoke_lab.runtime.compat import CACHE
from dycoke_lab.runtime.compressed_cache import cache_bytes, write_in_place
from dycoke_lab.runtime.session import Session
from dycoke_lab.runtime.shared_prefill import positions_of

COSTS = RESULTS / "matrix-costs"
SHAPE, FROM_LAYER = "llava-ov-0.5b", 3  # the paper's L
H100_BATCH = 8
NEAR = 0.01  # of the share of survivors
STEPS, UNTIMED = 10, 2  # the first steps make room in the cache
OWN = ("before", "before_layer", "observe", "after")  # where a session does what a compression asks for


def lines_at(share: float) -> list[Line]:
    """Return the lines that are measured: each method alone with its defaults, and DyCoke's two stages."""
    varied = [Part(name, share, fields) for name, fields in OTHERWISE.items()]
    return [
        line for line in plan_at(share)
        if line.parts[0] not in varied and line.parts[0].method != "hindsight"
        and (line.group != TOGETHER or line.parts[0].method == "ttm")
    ]  # fmt: skip


def prompt(name: str, model: Any, frames: int, seed: int = 0) -> dict[str, Any]:
    """Return one prompt: random frames that are alike, through the model's small tower, and a question."""
    shape, drawn = SHAPES[name], torch.Generator().manual_seed(seed)
    size = (3, 14 * shape.tower.patches, 14 * shape.tower.patches)
    scene = torch.randn(1, 1, *size, generator=drawn)
    pixels = scene + 0.5 * torch.randn(1, frames, *size, generator=drawn)
    visual = frames * shape.grid[0] * shape.grid[1] + ENDING[shape.family]
    text = torch.randint(TEXT, shape.vocab, (1, BEFORE + QUESTION), generator=drawn)
    ids = torch.cat([text[:, :BEFORE], torch.full((1, visual), VIDEO), text[:, BEFORE:]], 1)
    return {
        "input_ids": ids, "attention_mask": torch.ones_like(ids),
        "pixel_values_videos": pixels.to(model.dtype),
    }  # fmt: skip


def run_costs(
    out: Path, lines: Sequence[Line], frames: int = 16, rounds: int = 3, name: str = SHAPE,
    progress: bool = True,
) -> None:  # fmt: skip
    """Solve what the folder `out` lacks, and measure the rounds that it lacks; a row each."""
    with RowStore(
        out, shape=name, frames=frames, from_layer=FROM_LAYER, threads=torch.get_num_threads()
    ) as store:
        rows = store.rows()
        known = {row["line"]: row["fields"] for row in rows if "fields" in row}
        done = {(row["line"], row["round"]) for row in rows if "round" in row}
        missing = [line for line in (FULL, *lines) if line.key not in known]
        turns = [(n, line) for n in range(rounds) for line in _drawn((FULL, *lines), n)]
        turns = [(n, line) for n, line in turns if (line.key, n) not in done]
        if not missing and not turns:
            return
        store.begin(lines=len(lines) + 1, rounds=rounds)
        model = build_model(name)
        inputs = prompt(name, model, frames)
        if missing:
            _solve(name, model, inputs, missing, known, store, progress)
        for number, line in tqdm(turns, desc="rounds", disable=not progress):
            found = timed(model, inputs, compression(line, known[line.key]))
            store.append([{"line": line.key, "round": number, **found}])


def compression(line: Line, fields: Sequence[dict[str, Any]]) -> Compression:
    """Return what a line applies, its knobs solved."""
    found = Compression()
    for part, values in zip(line.parts, fields, strict=True):
        found = found + made(Part(part.method, None, tuple(values.items())), FROM_LAYER)
    return found


def _drawn(lines: Sequence[Line], seed: int) -> list[Line]:
    return random.Random(seed).sample(lines, len(lines))


def _solve(
    name: str, model: Any, inputs: dict[str, Any], lines: Sequence[Line], known: dict[str, Any],
    store: RowStore, progress: bool,
) -> None:  # fmt: skip
    """Solve each line's knobs, and note what its layers are given, hold and read."""
    per_frame = SHAPES[name].grid[0] * SHAPES[name].grid[1]
    shallow = build_model(name, layers=1)  # what a merger leaves is known before the decoder's first layer
    shallow.load_state_dict(model.state_dict(), strict=False)
    whole = Prompts(model, inputs, per_frame)
    solvers = Solver([whole], FROM_LAYER), Solver([Prompts(shallow, inputs, per_frame)], 0)
    for line in tqdm(lines, desc="knobs", disable=not progress):
        fields = [_fields(solvers[issubclass(METHODS[part.method], Merger)], part) for part in line.parts]
        known[line.key] = fields
        found = whole.decode(compression(line, fields), 2)
        shares = {
            stage: [round(x, 5) for x in getattr(found, stage).tolist()]
            for stage in ("prefill", "held", "read")
        }
        store.append([{"line": line.key, "fields": fields, **shares}])


def _fields(solver: Solver, part: Part) -> dict[str, Any]:
    """Return a part's fields: many knobs are the share itself, or what is left of 1."""
    assert part.share is not None
    name, low, high = part.knob
    for guess in (part.share, 1 - part.share):
        if low <= guess <= high:
            found = solver.survivors(Compression.of(made(part, FROM_LAYER, guess)))
            if abs(found - part.share) <= NEAR:
                return dict(part.fields) | {name: guess}
    return solver.fields(part)


@contextmanager
def own_time() -> Iterator[list[float]]:
    """Yield a list of one number: the seconds that sessions have spent on their compression."""
    spent = [0.0]

    def timing(do: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return do(*args, **kwargs)
            finally:
                spent[0] += time.perf_counter() - began

        return call

    real = {name: getattr(Session, name) for name in OWN}
    try:
        for name, do in real.items():
            setattr(Session, name, timing(do))
        yield spent
    finally:
        for name, do in real.items():
            setattr(Session, name, do)


@torch.inference_mode()
def timed(model: Any, inputs: dict[str, Any], applied: Compression) -> dict[str, Any]:
    """Return the seconds of the prefill and of each step, the part that the compression takes, and the bytes
    of keys and values at the end. The full cache is written in place, too."""
    cache = DynamicCache(config=decoder_of(model).config)
    positions = positions_of(model, inputs)
    tokens = torch.randint(TEXT, 60, (STEPS, 1, 1), generator=torch.Generator().manual_seed(1))
    steps, own_steps = [], []
    gc.collect()
    with own_time() as spent, applied(model):
        began = time.perf_counter()
        model(**inputs, position_ids=positions, use_cache=True, logits_to_keep=1, **{CACHE: cache})
        if applied.off:
            write_in_place(cache)
        prefill, own_prefill = time.perf_counter() - began, spent[0]
        for number in range(STEPS):
            began, before = time.perf_counter(), spent[0]
            at = positions[..., -1:] + 1 + number
            model(input_ids=tokens[number], position_ids=at, use_cache=True, **{CACHE: cache})
            steps.append(time.perf_counter() - began)
            own_steps.append(spent[0] - before)
        held, read = cache_bytes(cache)
    return {
        "prefill": prefill, "own prefill": own_prefill, "steps": steps[UNTIMED:],
        "own steps": own_steps[UNTIMED:], "held": held, "read": read,
    }  # fmt: skip


def cost_table(folder: Path) -> pd.DataFrame:
    """Return a row for each line that a folder of costs holds, the full cache (written in place) first.

    prefill, step: seconds, in % of the full cache's in the same round, median over rounds. own prefill, own
    step: milliseconds that the compression takes of them, median. held, read: bytes of keys and values of the
    whole prompt, at the last step, in %. prefill FLOPs, step FLOPs: of the model, counted, in %. H100
    prefill, H100 step: the least time of a batch of 8 on an H100 by the roofline, bfloat16, in %. What the
    compression itself computes and moves is in its time, not in these. survive: visual tokens that the layers
    from L on read, in %.
    """
    rows = read_rows(folder)
    about = read_json(folder / ABOUT)
    shape = SHAPES[about["shape"]]
    visual = about["frames"] * shape.grid[0] * shape.grid[1]
    shares = {row["line"]: row for row in rows if "fields" in row}
    timed_rows = pd.DataFrame([row for row in rows if "round" in row])
    timed_rows["step"] = timed_rows["steps"].map(median)
    timed_rows["own step"] = 1000 * timed_rows["own steps"].map(fmean)
    timed_rows["own prefill"] *= 1000
    full = timed_rows[timed_rows["line"] == FULL.key].set_index("round")
    for name in ("prefill", "step", "held", "read"):
        timed_rows[name] *= 100 / full[name].reindex(timed_rows["round"]).to_numpy()
    columns = ["prefill", "own prefill", "step", "own step", "held", "read"]
    table = timed_rows.groupby("line")[columns].median()
    whole, found = _least(shape, visual, shares[FULL.key]), []
    for key, times in table.iterrows():
        group, _, methods = json.loads(str(key))
        least = _least(shape, visual, shares[key])
        found.append({
            "line": key, "group": group, "method": " + ".join(m[0] for m in methods) or "full",
            "survive": 100 * fmean(shares[key]["read"][about["from_layer"] :]), **times,
            **{name: 100 * value / whole[name] for name, value in least.items()},
        })  # fmt: skip
    order = [FULL.key, *(line.key for line in lines_at(0.25))]
    table = pd.DataFrame(found)
    return table.sort_values("line", key=lambda keys: keys.map(order.index)).reset_index(drop=True)


def _least(shape: Shape, visual: int, shares: dict[str, Any]) -> dict[str, float]:
    """Return FLOPs of a prompt of so many visual tokens, and the least seconds of a batch on an H100."""
    other, two = BEFORE + QUESTION + ENDING[shape.family], 2  # bytes of a bfloat16
    early = [round(other + share * visual) for share in shares["prefill"]]
    late = [round(other + share * visual) for share in shares["read"]]
    weights, kv = two * shape.weights, H100_BATCH * shape.kv_bytes(two) * sum(late)
    arithmetic = {"prefill FLOPs": flops.prefill(shape, early), "step FLOPs": flops.step(shape, late)}
    return arithmetic | {
        "H100 prefill": max(H100_BATCH * arithmetic["prefill FLOPs"] / H100.flops, weights / H100.bandwidth),
        "H100 step": max(H100_BATCH * arithmetic["step FLOPs"] / H100.flops, (weights + kv) / H100.bandwidth),
    }
