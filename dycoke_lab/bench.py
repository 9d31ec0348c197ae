"""Time and memory of real prefills and decoding steps, at published shapes with random weights; every result a row of JSON.

A run has a folder of its own. Its rows are appended one by one, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers.cache_utils import DynamicCache

from dycoke_lab.apply import DyCoke, generation_of, score_layer_for
from dycoke_lab.config import DyCokeConfig
from dycoke_lab.models import decoder_of
from dycoke_lab.provenance import provenance
from dycoke_lab.prune import keep_counts
from dycoke_lab.run import cache_bytes
from dycoke_lab.shapes import TEXT, build, prompt

ROWS = "rows.jsonl"
NAMES = {"dycoke": "dynamic", "one-shot": "last_query"}  # as papers say it
EXTRA = 3  # steps after the measured ones, in which selections are timed, since that makes a GPU wait


@dataclass(frozen=True)
class Case:
    """One setting. method "full" is the full cache; "cut" is stock transformers on caches that were cut by hand to the lengths
    that DyCoke's have, which is as little as a decoding step can cost."""

    shape: str
    frames: int
    batch: int
    new_tokens: int
    method: str
    merge_ratio: float
    prune_ratio: float
    gate: float

    def config(self, model: Any) -> DyCokeConfig | None:
        if self.method == "full":
            return None
        if self.method == "cut":
            return DyCokeConfig(merge_ratio=self.merge_ratio, prune_ratio=0.0)
        return DyCokeConfig(
            merge_ratio=self.merge_ratio, prune_ratio=self.prune_ratio, gate=self.gate, score_layer=score_layer_for(model),
            method=NAMES.get(self.method, self.method),
        )  # fmt: skip


def cases(shape: str, frames: int, batch: int, new_tokens: int, methods: Sequence[str], merge: Sequence[float], prune: float,
          gate: float = DyCokeConfig.gate) -> list[Case]:  # fmt: skip
    """The full cache, DyCoke at each merge ratio, and methods of one choice, which merge nothing."""
    found: list[Case] = []
    for method in methods:
        ratios = list(merge) if method in ("dycoke", "cut") else [0.0]
        found += [Case(shape, frames, batch, new_tokens, method, k, 0.0 if method == "full" else prune, gate) for k in ratios]
    return found


def run(found: Sequence[Case], repeats: int, out: Path, device: str, dtype: str, progress: bool = True) -> list[dict[str, Any]]:
    """Measure what `out` does not hold yet, the cases one after the other in each of `repeats` rounds, and return all rows."""
    out.mkdir(parents=True, exist_ok=True)
    path, about = out / ROWS, out / "provenance.json"
    record: dict[str, Any] = json.loads(about.read_text()) if about.exists() else {"device": device, "dtype": dtype, "runs": []}
    if (record["device"], record["dtype"]) != (device, dtype):
        raise ValueError(f"{out} holds a run on {record['device']} in {record['dtype']}: choose another folder with --out")
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {json.dumps([row["case"], row["repeat"]]) for row in rows}
    todo = [(case, n) for n in range(repeats) for case in found if json.dumps([asdict(case), n]) not in done]
    if not todo:
        return rows
    record["runs"].append({**provenance(), "gpu": torch.cuda.get_device_name() if device.startswith("cuda") else None})
    about.write_text(json.dumps(record, indent=1) + "\n")
    (shape,) = {case.shape for case in found}
    model = build(shape, device, getattr(torch, dtype))
    for case, repeat in tqdm(todo, desc=shape, disable=not progress):
        try:
            measured = measure(model, case)
        except torch.OutOfMemoryError as error:
            measured = {"error": f"out of memory: {str(error).splitlines()[0]}"}
            torch.cuda.empty_cache()
        rows.append({"case": asdict(case), "repeat": repeat, **measured})
        with path.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
    return rows


@torch.inference_mode()
def measure(model: Any, case: Case) -> dict[str, Any]:
    """Seconds of each stage, and bytes. `merge` is a part of `prefill`, `select` of a decoding step."""
    cuda = model.device.type == "cuda"

    def now() -> float:
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    inputs = prompt(case.shape, model, case.frames, case.batch)
    config = case.config(model)
    marks: list[float] = []

    def mark(*_: Any) -> None:
        marks.append(now())

    if cuda:
        torch.cuda.reset_peak_memory_stats()
    decoder = decoder_of(model)
    before = decoder.register_forward_pre_hook(mark)
    with DyCoke(config)(model) if config else nullcontext():
        after = decoder.register_forward_pre_hook(mark)
        cache = DynamicCache(config=model.config.get_text_config())
        try:
            began = now()
            model(**inputs, past_key_values=cache, logits_to_keep=1)
            prefill = now() - began
        finally:
            before.remove()
            after.remove()
        word = torch.full((case.batch, 1), TEXT, device=model.device)
        place = torch.full_like(word, inputs["input_ids"].shape[1])
        if case.method == "cut":
            cache = _cut(model, cache, case)
        steps = []
        for number in range(case.new_tokens):
            began = now()
            model(input_ids=word, position_ids=place + number, past_key_values=cache)
            steps.append(now() - began)
        held, read = cache_bytes(cache)
        peak = torch.cuda.max_memory_allocated() if cuda else None
        select = list(_selections(model, cache, word, now)) if config and case.method != "cut" else []
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return {
        "visual": inputs["input_ids"].shape[1], "prefill": prefill, "merge": marks[1] - marks[0], "steps": steps, "select": select,
        "bytes": {"weights": weights, "held": held, "read": read, "peak": peak,
                  "activations": None if peak is None else peak - weights - held},
    }  # fmt: skip


def _cut(model: Any, cache: Any, case: Case) -> DynamicCache:
    """A stock cache with the last columns of another's, as many as DyCoke's layers would attend to."""
    short = DynamicCache(config=model.config.get_text_config())
    available = generation_of(model, cache).available  # type: ignore[union-attr]
    gone = int((available.sum(1) - keep_counts(available, case.prune_ratio))[0])
    first = score_layer_for(model)
    layers: list[Any] = short.layers  # type: ignore[assignment]
    for number, (whole, layer) in enumerate(zip(cache.layers, layers, strict=True)):
        keys, values = whole.keys, whole.values
        if number >= first:
            keys, values = keys[:, :, gone:].clone(), values[:, :, gone:].clone()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
    return short


def _selections(model: Any, cache: Any, word: Any, now: Any) -> Iterator[float]:
    generation = generation_of(model, cache)
    if generation is None:
        return
    see, spent = generation.see, [0.0]

    def timed(call: Any) -> None:
        began = now()
        see(call)
        spent[0] += now() - began

    generation.see = timed  # type: ignore[method-assign]
    for _ in range(EXTRA):
        spent[0] = 0.0
        model(input_ids=word, past_key_values=cache)
        yield spent[0]


def ratios(rows: Sequence[dict[str, Any]], of: str, to: str = "full", draws: int = 2000) -> dict[str, tuple[float, float, float]]:
    """How many times less each case takes than the case `to`, by the median over rounds of this ratio in a round, and its 95 %
    interval (bootstrap over rounds). of: "prefill", "step" (the median one, without the first) or "total"."""
    times: dict[str, dict[int, float]] = {}
    for row in rows:
        if "error" in row:
            continue
        step = statistics.median(row["steps"][1:] or row["steps"])
        value = {"prefill": row["prefill"], "step": step, "total": row["prefill"] + sum(row["steps"])}[of]
        times.setdefault(label(row["case"]), {})[row["repeat"]] = value
    full = times.get(to, {})
    random = np.random.default_rng(0)
    found = {}
    for name, measured in times.items():
        both = [full[n] / value for n, value in measured.items() if n in full]
        if both:
            drawn = np.median(random.choice(both, (draws, len(both))), 1)
            low, high = np.quantile(drawn, [0.025, 0.975])
            found[name] = (statistics.median(both), float(low), float(high))
    return found


def label(case: dict[str, Any]) -> str:
    return f"{case['method']} K={case['merge_ratio']:g}" if case["method"] in ("dycoke", "cut") else case["method"]


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """A table for a terminal: medians over rounds, and how many times less time each case takes than the full cache [95 %]."""
    compared = {of: ratios(rows, of) for of in ("prefill", "step", "total")}
    lines = [
        f"{'':<16}{'prefill s':>11}{'step ms':>10}{'select ms':>11}{'held MB':>9}{'read MB':>9}   times less: prefill, step, total"
    ]
    for name in dict.fromkeys(label(row["case"]) for row in rows):
        here = [row for row in rows if label(row["case"]) == name]
        good = [row for row in here if "error" not in row]
        if not good:
            lines.append(f"{name:<16}{here[0]['error']}")
            continue
        step = statistics.median(statistics.median(row["steps"][1:] or row["steps"]) for row in good)
        select = statistics.median(statistics.median(row["select"]) for row in good) if good[0]["select"] else 0.0
        held, read = (good[0]["bytes"][what] / 1e6 for what in ("held", "read"))
        times = ", ".join("{:.2f} [{:.2f}, {:.2f}]".format(*compared[of][name]) for of in compared if name in compared[of])
        prefill = statistics.median(row["prefill"] for row in good)
        lines.append(f"{name:<16}{prefill:>11.3f}{1000 * step:>10.1f}{1000 * select:>11.2f}{held:>9.1f}{read:>9.1f}   {times}")
    return "\n".join(lines)
