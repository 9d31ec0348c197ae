"""Runs of the matrix: every line on the same videos, each batch a row; a folder continues where it
stopped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, mean
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers.cache_utils import DynamicCache

from dycoke_lab.attention.capture import capture_attention
from dycoke_lab.evaluation.grids import BATCH, answer_task, batches_of, ended
from dycoke_lab.evaluation.matrix import FULL, Line, Part, made, refused, solve
from dycoke_lab.methods import Compression
from dycoke_lab.models import decoder_of
from dycoke_lab.models.loading import load_model
from dycoke_lab.results.files import read_json
from dycoke_lab.results.rows import ABOUT, RowStore, read_rows
from dycoke_lab.runtime.compat import CACHE
from dycoke_lab.runtime.session import generation_of
from dycoke_lab.runtime.shared_prefill import SharedPrefill, positions_of
from dycoke_lab.specimen.specimens import specimen_named
from dycoke_lab.specimen.tasks import Task, make_task

SOLVED_ON = 4  # validation videos of each number of scenes
QUESTIONS = ("describe", "actor", "compare")


@dataclass(frozen=True)
class Decoded:
    """ids: (batch, words). read, held: of each layer, the share of the visual tokens that a decoding step
    attends to, and that is in the cache; mean over batch, heads and steps. prefill: the share that the
    prompt's last layers were given. frames: (batch, frames), tokens that survive in each."""

    ids: Tensor
    read: Tensor
    held: Tensor
    prefill: Tensor
    frames: Tensor


class Prompts:
    """Prompts of one length, read once for each merger, and decoded under several compressions. inputs: what
    the model is given. per_frame: how many tokens a frame has."""

    def __init__(self, model: Any, inputs: dict[str, Any], per_frame: int) -> None:
        self.model, self.inputs, self.per_frame = model, inputs, per_frame
        self.full = SharedPrefill(model, inputs)
        self._merged: tuple[Any, SharedPrefill] | None = None

    @torch.inference_mode()
    def decode(self, compression: Compression, steps: int) -> Decoded:
        """Return so many greedy tokens, and what was attended to."""
        if compression.reducer is None:
            shared = self._prefill(compression)
            with shared.start(compression.selector) as cache:
                return self._steps(compression, cache, shared.logits, steps)
        positions = positions_of(self.model, self.inputs)
        cache = DynamicCache(config=decoder_of(self.model).config)
        given = {**self.inputs, "position_ids": positions, CACHE: cache}
        with compression(self.model):
            out = self.model(**given, use_cache=True, logits_to_keep=1)
            return self._steps(compression, cache, out.logits[:, -1], steps)

    def _prefill(self, compression: Compression) -> SharedPrefill:
        merger = compression.merger
        if merger is None:
            return self.full
        if self._merged is None or self._merged[0] != merger:
            self._merged = None  # let go of the last one first
            self._merged = merger, SharedPrefill(self.model, self.inputs, Compression.of(merger))
        return self._merged[1]

    def _steps(self, compression: Compression, cache: Any, logits: Tensor, steps: int) -> Decoded:
        generation, layers = generation_of(self.model, cache), len(decoder_of(self.model).layers)
        assert generation is not None
        written, kept = [logits.argmax(-1)], []
        for number in range(1, steps):
            written.append(self.full.step(cache, written[-1], number).argmax(-1))
            kept.append(torch.stack([_attended(generation, layer) for layer in range(layers)]))
        attended = torch.stack(kept).mean(0)  # layers, batch, visual
        entered = torch.stack([generation.columns_at(n).retained for n in range(layers)]).float()
        selector = compression.selector
        stays = selector is not None and not selector.evicts
        return Decoded(
            torch.stack(written, 1),
            attended.mean((1, 2)),
            (entered if stays else attended).mean((1, 2)),
            entered.mean((1, 2)),
            attended[-1].unflatten(1, (-1, self.per_frame)).sum(2),
        )


class Batch(Prompts):
    """The prompts of a task."""

    def __init__(self, model: Any, task: Task) -> None:
        inputs = {"input_ids": task.ids, "attention_mask": torch.ones_like(task.ids), **task.inputs}
        super().__init__(model, inputs, task.specimen.world.tokens)
        self.task = task

    @cached_property
    def trace(self) -> Any:
        """The attention of the full cache's answer."""
        with capture_attention(self.model) as trace:
            answer_task(self.model, self.task)
        return trace


def _attended(generation: Any, layer: int) -> Tensor:
    """Return the share of key heads that attend to each visual token, (batch, visual)."""
    selection = generation.selection_for(layer)
    if selection is None:
        found: Tensor = generation.columns_at(layer).retained.float()
        return found
    present: Tensor = selection.present()[1].float()
    return present.mean(1)


class Solver:
    """Finds the fields of a line's methods on some prompts."""

    def __init__(self, prompts: Sequence[Prompts], from_layer: int) -> None:
        self.prompts, self.from_layer = prompts, from_layer
        self.known: dict[Part, Any] = {}

    def survivors(self, compression: Compression) -> float:
        """Return the share of visual tokens that the layers from L on attend to, mean over videos."""
        return mean(float(p.decode(compression, 2).read[self.from_layer :].mean()) for p in self.prompts)

    def fields(self, part: Part) -> dict[str, Any]:
        if part not in self.known:
            self.known[part] = solve(part, self.from_layer, self.survivors)
        found: dict[str, Any] = self.known[part]
        return found


def validation(model: Any, specimen: str) -> list[Batch]:
    """Return validation videos of each number of scenes, on which a specimen's knobs are solved."""
    scenes = specimen_named(specimen).world.scenes
    tasks = [make_task("describe", SOLVED_ON, n, specimen=specimen, split="validation") for n in scenes]
    return [Batch(model, task) for task in tasks]


def run_matrix(
    specimen: str, seed: int, from_layer: int, lines: Sequence[Line], videos: int, out: Path,
    questions: Sequence[str] = QUESTIONS, progress: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """Run the lines that the folder `out` lacks, and the full cache, on so many videos; return all rows.
    Lines that the specimen cannot run are left out, and told."""
    with RowStore(out, videos=videos, from_layer=from_layer) as store:
        model, _ = load_model(specimen, seed)
        why = {line.key: refused(model, line, from_layer) for line in lines}
        lines = [line for line in lines if why[line.key] is None]
        for reason in sorted(set(filter(None, why.values()))):
            print(f"left out: {reason}")
        rows = store.rows()
        solved = {row["line"]: row["fields"] for row in rows if "fields" in row}
        done = {(row["line"], row["question"], row["scenes"], row["first"]) for row in rows if "right" in row}
        batches = [(q, n, first, size) for q in questions for n, first, size in batches_of(specimen, videos)]
        todo = [
            (batch, [line for line in (FULL, *lines) if (line.key, *batch[:3]) not in done])
            for batch in batches
        ]
        count = sum(len(group) for _, group in todo)
        if count:
            store.begin(lines=len(lines) + 1, batches=count)
            _solve_missing(model, specimen, from_layer, lines, solved, store, progress)
            _run_missing(model, specimen, seed, from_layer, todo, solved, store, progress)
    return read_matrix(out)


def _solve_missing(
    model: Any, specimen: str, from_layer: int, lines: Sequence[Line], solved: dict[str, Any],
    store: RowStore, progress: bool,
) -> None:  # fmt: skip
    missing = [line for line in lines if line.key not in solved]
    solver = Solver(validation(model, specimen), from_layer) if missing else None
    for line in tqdm(missing, desc="knobs", disable=not progress):
        assert solver is not None
        solved[line.key] = [solver.fields(part) for part in line.parts]
        store.append([{"line": line.key, "fields": solved[line.key]}])


def _run_missing(
    model: Any, specimen: str, seed: int, from_layer: int, todo: Any, solved: dict[str, Any],
    store: RowStore, progress: bool,
) -> None:  # fmt: skip
    with tqdm(total=sum(len(group) for _, group in todo), desc="batches", disable=not progress) as bar:
        for (question, scenes, first, size), group in todo:
            if not group:
                continue
            task = make_task(question, size, scenes, first // BATCH, specimen)
            batch, steps = Batch(model, task), task.answer.shape[1]
            full = batch.decode(Compression(), steps)
            expected = ended(full.ids, task)
            # lines of one merger follow each other, since they share its prefill
            for line in sorted(group, key=lambda line: _merger_key(line, solved)):
                found = full if line is FULL else batch.decode(
                    _compression(line, from_layer, solved, batch), steps
                )  # fmt: skip
                about = {"line": line.key, "question": question, "scenes": scenes, "first": first}
                store.append([about | _row(found, expected, task)])
                bar.update()


def _merger_key(line: Line, solved: dict[str, Any]) -> str:
    return "" if line is FULL else f"{line.parts[0].method} {solved[line.key][0]}"


def _compression(line: Line, from_layer: int, solved: dict[str, Any], batch: Batch) -> Compression:
    found = Compression()
    for part, fields in zip(line.parts, solved[line.key], strict=True):
        if part.method == "hindsight":
            fields = fields | {"future": batch.trace.future(from_layer)}
        found = found + made(Part(part.method, None, tuple(fields.items())), from_layer)
    return found


def _row(found: Decoded, expected: Tensor, task: Task) -> dict[str, Any]:
    """right: for each video, a digit for each part of the answer. changed, agree: whether the answer differs
    from the full cache's, and how many of its tokens are the same."""
    ids = ended(found.ids, task)
    right, same = ids == task.answer, ids == expected
    parts = torch.stack([right[:, part].sum(1) for part in task.parts], 1).tolist()

    def rounded(values: Tensor) -> list[float]:
        return [round(value, 4) for value in values.tolist()]

    return {
        "words": sum(map(len, task.parts)),
        "right": ["".join(map(str, digits)) for digits in parts],
        "exact": _bits(right.all(1)),
        "changed": _bits(~same.all(1)),
        "agree": round(float(same.float().mean()), 5),
        "read": rounded(found.read),
        "held": rounded(found.held),
        "prefill": rounded(found.prefill),
        "per frame": round(float(found.frames.mean()), 3),
    }


def _bits(values: Tensor) -> str:
    return "".join(str(int(value)) for value in values.tolist())


def _name(method: str, share: float | None, fields: dict[str, Any], solved: str = "") -> str:
    """What was chosen otherwise than by default stands in brackets."""
    chosen = [*(f"{name}={value}" for name, value in fields.items()), *([f"by {solved}"] if solved else [])]
    return f"{method} ({', '.join(chosen)})" if chosen else method


def read_matrix(folder: Path) -> pd.DataFrame:
    """Return a row for each line, question and video of a folder, or of all folders seed-* in it (then with
    a column `seed`): what the line is, its fields, and what was found. survive: the share that the layers
    from L on attend to. Empty while only knobs were solved."""
    parts = sorted(folder.glob("seed-*"))
    if parts:
        seeds = [int(part.name.removeprefix("seed-")) for part in parts]
        tables = [read_matrix(part).assign(seed=s) for s, part in zip(seeds, parts, strict=True)]
        return pd.concat(tables, ignore_index=True)
    rows, from_layer = read_rows(folder), int(read_json(folder / ABOUT)["from_layer"])
    fields = {row["line"]: json.dumps(row["fields"]) for row in rows if "fields" in row}
    table: dict[str, list[Any]] = {}
    for row in (row for row in rows if "right" in row):
        group, share, methods = json.loads(row["line"])
        names, count = [_name(*part) for part in methods], len(row["right"])
        same = {
            "line": row["line"], "group": group, "share": share, "method": " + ".join(names) or "full",
            "fields": fields.get(row["line"], "[]"), "question": row["question"], "scenes": row["scenes"],
            "words": row["words"], "agree": row["agree"], "survive": fmean(row["read"][from_layer:]),
            "read": fmean(row["read"]), "held": fmean(row["held"]), "prefill": fmean(row["prefill"]),
            "per frame": row["per frame"],
        }  # fmt: skip
        each = {
            "video": [f"{row['scenes']}-{row['first'] + n}" for n in range(count)],
            "right": row["right"], "exact": map(int, row["exact"]), "changed": map(int, row["changed"]),
        }  # fmt: skip
        for name, values in (each | {name: [value] * count for name, value in same.items()}).items():
            table.setdefault(name, []).extend(values)
    return pd.DataFrame(table)
