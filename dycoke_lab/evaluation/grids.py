"""Grids of settings on the specimens: greedy decoding under each setting, each result a row.

Settings that differ in the selector alone share their prefill (`runtime/shared_prefill.py`), which is most of
the cost. A grid has a folder of its own. Its rows are appended batch by batch, so that an interrupted run
continues where it stopped; provenance.json says how it was made.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from dycoke_lab.attention.capture import capture_attention
from dycoke_lab.attention.coverage import chosen
from dycoke_lab.evaluation.settings import EvaluationConfig
from dycoke_lab.methods import METHODS, Compression, PrefillReducer
from dycoke_lab.models.loading import load_model, specimen_names, specimen_seeds
from dycoke_lab.results.rows import RowStore, read_rows
from dycoke_lab.runtime.shared_prefill import SharedPrefill
from dycoke_lab.specimen.specimens import specimen_named
from dycoke_lab.specimen.tasks import Task, make_task
from dycoke_lab.specimen.world import QUESTIONS

BATCH = 64


def run_grid(configs: list[EvaluationConfig], videos: int, out: Path, progress: bool = True) -> pd.DataFrame:
    """Run the configs that the folder `out` lacks, each on so many videos, and return all its rows."""
    least = max(len(specimen_named(config.specimen).world.scenes) for config in configs)
    if videos < least:
        raise ValueError(f"videos={videos} must be at least {least}: one for each number of scenes")
    with RowStore(out, videos=videos) as store:
        _run_missing(configs, videos, store, progress)
    return read_grid(out)


def _run_missing(configs: list[EvaluationConfig], videos: int, store: RowStore, progress: bool) -> None:
    done = {_key(row) for row in store.rows()}
    groups: dict[Any, list[EvaluationConfig]] = {}
    for config in configs:
        groups.setdefault(config.prefill, []).append(config)
    todo = [
        (batch, [config for config in group if (config, *batch) not in done])
        for group in groups.values() for batch in batches_of(group[0].specimen, videos)
    ]  # fmt: skip
    count = sum(len(group) for _, group in todo)
    if count:
        store.begin(configs=len(configs), batches=count)
    name, model = None, None
    with tqdm(total=count, desc="batches", disable=not progress) as bar:
        for (scenes, first, size), group in todo:
            if not group:
                continue
            if (group[0].specimen, group[0].seed) != name:
                name = group[0].specimen, group[0].seed
                model, _ = load_model(*name)
            runs = BatchRuns(model, group[0], scenes, first, size)
            for config in group:
                store.append([{"config": asdict(config), **runs.row(config)}])
                bar.update()


def batches_of(specimen: str, videos: int) -> list[tuple[int, int, int]]:
    """Return (scenes, number of its first video, videos) of each batch."""
    choices = specimen_named(specimen).world.scenes
    batches = []
    for index, scenes in enumerate(choices):
        count = videos // len(choices) + (index < videos % len(choices))
        batches += [(scenes, first, min(BATCH, count - first)) for first in range(0, count, BATCH)]
    return batches


def _key(row: dict[str, Any]) -> tuple[EvaluationConfig, int, int, int]:
    return EvaluationConfig(**row["config"]), row["scenes"], row["first"], len(row["right"])


class BatchRuns:
    """One batch of videos of one specimen, asked one question after one merging, under several settings."""

    def __init__(self, model: Any, config: EvaluationConfig, scenes: int, first: int, count: int) -> None:
        self.model, self.scenes, self.first = model, scenes, first
        about = config.question, count, scenes, first // BATCH
        self.task = make_task(*about, specimen=config.specimen)
        self.merging = replace(config, method="full").compression()

    def row(self, config: EvaluationConfig) -> dict[str, Any]:
        """Return what is found under a setting.

        right: for each video, how many words are right, a digit for each part of the answer. exact: whether
        all are. words: how many there are. motion: of the camera. left: the share of visual tokens that
        merging retained. selections: of dynamic pruning, at a decoding step.
        """
        right = self.answer(config) == self.task.answer
        parts = torch.stack([right[:, part].sum(1) for part in self.task.parts], 1).tolist()
        return {
            "scenes": self.scenes,
            "first": self.first,
            "words": sum(len(part) for part in self.task.parts),
            "right": ["".join(map(str, digits)) for digits in parts],
            "exact": "".join(str(int(exact)) for exact in right.all(1).tolist()),
            "motion": "".join(map(str, self.task.videos.motion.tolist())),
            "left": round(float(self.shared.retained.float().mean()), 4),
            "selections": self.selections(config),
        }

    def selections(self, config: EvaluationConfig) -> float | None:
        """Return how many selections dynamic pruning makes at a decoding step, mean over the batch, on the
        full cache's answers."""
        if config.method != "dynamic" or config.question != "describe":
            return None
        kept = chosen(config.compression().selector, self._trace)  # type: ignore[arg-type]
        changes = (kept[1:] != kept[:-1]).any(-1)
        return round(float((1 + changes.sum(0)).float().mean()) / len(kept), 4)

    def answer(self, config: EvaluationConfig) -> torch.Tensor:
        """Return what the model writes, (batch, words of the answer)."""
        if config.method != "full" and issubclass(METHODS[config.method], PrefillReducer):
            return answer_task(self.model, self.task, config.compression())
        fields = {"future": self.future(config)} if config.method == "hindsight" else {}
        length = self.task.answer.shape[1]
        return ended(self.shared.greedy(config.compression(**fields).selector, length), self.task)

    @cached_property
    def shared(self) -> SharedPrefill:
        return SharedPrefill(self.model, {"input_ids": self.task.ids, **self.task.inputs}, self.merging)

    def future(self, config: EvaluationConfig) -> torch.Tensor:
        """Return what the full cache's whole answer attends to."""
        if config.future_of == "scoring":
            return self._trace.future(config.from_layer - 1, config.from_layer)
        return self._trace.future(config.from_layer)

    @cached_property
    def _trace(self) -> Any:
        with self.merging(self.model), capture_attention(self.model) as trace:
            _generate(self.model, self.task)
        return trace


def ended(ids: torch.Tensor, task: Task) -> torch.Tensor:
    """Pad what follows an end token."""
    known = task.specimen.ids
    after = (ids == known["<|end|>"]).cumsum(1) - (ids == known["<|end|>"]).long() > 0
    return ids.masked_fill(after, known["<pad>"])


def answer_task(model: Any, task: Task, compression: Compression | None = None) -> torch.Tensor:
    """Return what the model writes, (batch, words of the answer), by stock greedy `generate`."""
    with (compression or Compression())(model):
        return _generate(model, task)


def read_grid(folder: Path) -> pd.DataFrame:
    """Return a row for each setting and video of a folder, with the parts of `config` as columns; or of all
    folders seed-* in it.

    Raises FileNotFoundError if there are none.
    """
    parts = sorted(folder.glob("seed-*"))
    if parts:
        return pd.concat([read_grid(part) for part in parts], ignore_index=True)
    columns: dict[str, list[Any]] = {}

    def extend(name: str, values: list[Any]) -> None:
        columns.setdefault(name, []).extend(values)

    for row in read_rows(folder):
        config, count = row.pop("config"), len(row["right"])
        extend("config", [json.dumps(config)] * count)
        extend("video", [f"{row['scenes']}-{row['first'] + number}" for number in range(count)])
        extend("right", row["right"])
        for name in ("exact", "motion"):
            extend(name, [int(digit) for digit in row[name]])
        about = {name: row.get(name) for name in ("scenes", "words", "left", "selections")}
        for name, value in {**about, **asdict(EvaluationConfig(**config))}.items():
            extend(name, [value] * count)
    return pd.DataFrame(columns)


def specimen_accuracy(videos: int) -> list[dict[str, Any]]:
    """Return the full-cache accuracy of each specimen, by question and number of scenes."""
    table = []
    for name, seed in [(known, seed) for known in specimen_names() for seed in specimen_seeds(known)]:
        model, _ = load_model(name, seed)
        for question in QUESTIONS:
            config = EvaluationConfig(seed, question, 0.0, 0.0, 0, "full", specimen=name)
            rows = [BatchRuns(model, config, *batch).row(config) for batch in batches_of(name, videos)]
            for scenes in (None, *sorted({row["scenes"] for row in rows})):
                chosen = [row for row in rows if scenes in (None, row["scenes"])]
                count = sum(len(row["right"]) for row in chosen)
                right = sum(int(digit) for row in chosen for digits in row["right"] for digit in digits)
                found = {
                    "words": right / sum(row["words"] * len(row["right"]) for row in chosen),
                    "exact": sum(row["exact"].count("1") for row in chosen) / count,
                }
                about = {"specimen": name, "seed": seed, "question": question, "scenes": scenes or "all"}
                table.append(about | {"videos": count} | found)
    return table


@torch.inference_mode()
def _generate(model: Any, task: Task) -> torch.Tensor:
    length = task.answer.shape[1]
    inputs = {"input_ids": task.ids, "attention_mask": torch.ones_like(task.ids), **task.inputs}
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=length)[:, task.ids.shape[1] :]
    return torch.nn.functional.pad(ids, (0, length - ids.shape[1]), value=task.specimen.ids["<pad>"])
