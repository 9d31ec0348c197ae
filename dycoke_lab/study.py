"""Grids of runs on the specimens: every cell is stock `generate` under one setting, every result a tidy row.

A run has a folder of its own. Its rows are appended cell by cell, so that an interrupted run goes on where it
stopped; provenance.json says how it was made.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from dycoke_lab.apply import DyCoke
from dycoke_lab.capture import capture_attention
from dycoke_lab.config import DyCokeConfig
from dycoke_lab.loading import load_model
from dycoke_lab.merge import keep_mask
from dycoke_lab.methods import METHODS, Oracle
from dycoke_lab.provenance import provenance, replace_text
from dycoke_lab.specimen.language import ID
from dycoke_lab.specimen.tasks import Task, make_task
from dycoke_lab.specimen.world import SCENES

ROWS = "rows.csv"
BATCH = 64
SWEEP_PRUNE = 0.7  # what thresholds are measured with, beside the full cache
SWEEP_THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999)


@dataclass(frozen=True, order=True)
class Cell:
    """One setting on one specimen. method "full" is the full cache (after merging, if merge_ratio > 0)."""

    seed: int
    question: str
    merge_ratio: float
    prune_ratio: float
    score_layer: int
    method: str
    gate: float = 0.9
    merge_threshold: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.method, str):
            raise TypeError(f"method={self.method!r} must be a name, by which rows are known: add yours to dycoke_lab.METHODS")

    def config(self) -> DyCokeConfig:
        pruned = self.method != "full"
        return DyCokeConfig(
            merge_ratio=self.merge_ratio, prune_ratio=self.prune_ratio if pruned else 0.0, gate=self.gate,
            score_layer=self.score_layer if pruned else 1, method=self.method if pruned else "dynamic",
            merge_threshold=self.merge_threshold,
        )  # fmt: skip


def grid(
    seeds: Iterable[int], questions: Iterable[str] = ("describe",), merge: Iterable[float] = (0.0, 0.5, 0.7),
    prune: Iterable[float] = (0.7, 0.9), layers: Iterable[int] = (3,), methods: Iterable[str] = tuple(METHODS),
) -> list[Cell]:  # fmt: skip
    """All combinations, and the full cache at each merge ratio."""
    cells = [
        Cell(s, q, k, p, layer, m)
        for s in seeds for q in questions for k in merge for layer in layers for p in prune for m in methods
    ]  # fmt: skip
    full = {replace(cell, prune_ratio=0.0, score_layer=0, method="full") for cell in cells}
    return sorted([*full, *cells])


def evidence(seed: int) -> list[Cell]:
    """The grid of the committed evidence: everything at the paper's L, the main methods at every other L, and the
    short questions as a contrast."""
    main = ("dynamic", "last_query", "random", "uniform")
    return sorted({
        *grid([seed]),
        *grid([seed], prune=(0.95,), methods=(*main, "fastv", "keep_first", "keep_none")),
        *grid([seed], merge=(0.5,), prune=(0.9,), layers=(1, 2, 4, 5), methods=(*main, "keep_none")),
        *grid([seed], ("actor", "compare"), merge=(0.0, 0.5), prune=(0.9,), methods=(*main, "fastv", "keep_first")),
    })  # fmt: skip


def sweep(seed: int) -> list[Cell]:
    """The grid that thresholds are chosen by: dynamic pruning over K x P, and over the similarity threshold, at L = 3."""
    ratios = [round(0.1 * k, 1) for k in range(10)]
    prune = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
    cells = grid([seed], merge=ratios, prune=prune, methods=("dynamic",))
    for threshold in SWEEP_THRESHOLDS:
        full = Cell(seed, "describe", 0.0, 0.0, 0, "full", merge_threshold=threshold)
        cells += [full, replace(full, prune_ratio=SWEEP_PRUNE, score_layer=3, method="dynamic")]
    return cells


def run(cells: list[Cell], videos: int, out: Path, progress: bool = True) -> pd.DataFrame:
    """Run what `out` does not hold yet and return all its rows. `videos` is for each specimen and question."""
    if videos < len(SCENES):
        raise ValueError(f"videos={videos} must be at least {len(SCENES)}: one for each number of scenes")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    path, about = out / ROWS, out / "provenance.json"
    record: dict[str, Any] = json.loads(about.read_text()) if about.exists() else {"videos": videos, "runs": []}
    if record["videos"] != videos:
        raise ValueError(f"{out} holds a run of {record['videos']} videos, not {videos}: choose another folder")
    done: set[str] = set()
    if path.exists():  # a kill may have left part of a cell, or of a line
        lines = path.read_text()
        lines = lines[: lines.rfind("\n") + 1]
        if lines:
            rows = pd.read_csv(io.StringIO(lines), dtype=str)
            whole = rows.groupby("cell")["video"].transform("nunique") == videos
            replace_text(path, rows[whole].to_csv(index=False))
            done = set(rows[whole]["cell"])
        else:
            path.unlink()
    elif (out / (ROWS + ".gz")).exists():
        raise FileExistsError(f"{out} holds a finished run: choose another folder with --out, or delete this one")
    todo = [cell for cell in cells if _key(cell) not in done]
    if todo:
        record["runs"].append({**provenance(), "cells": len(todo)})
        replace_text(about, json.dumps(record, indent=1) + "\n")
    seed, model = None, None
    encoded: dict[Any, Any] = {}
    for cell in tqdm(todo, desc="cells", disable=not progress):
        if cell.seed != seed:
            seed, (model, _), encoded = cell.seed, load_model("specimen", cell.seed), {}
        rows = pd.DataFrame(evaluate(model, cell, videos, encoded))
        rows.insert(0, "cell", _key(cell))
        rows.to_csv(path, mode="a", header=not path.exists(), index=False)
    return read_rows(out)


def evaluate(model: Any, cell: Cell, videos: int, encoded: dict[Any, Any] | None = None) -> Iterator[dict[str, Any]]:
    """One row a video: words right, by position in the answer as a string of digits, whether all is exact, and
    `left`, the share of visual tokens that merging left.

    encoded: a dict to keep the vision tower's output in between cells.
    """
    encoded = {} if encoded is None else encoded
    for scenes in SCENES:
        count = videos // len(SCENES) + (scenes - SCENES[0] < videos % len(SCENES))
        for batch in range(0, count, BATCH):
            task = make_task(cell.question, min(BATCH, count - batch), scenes, batch // BATCH)
            written = answer(model, task, cell.config() if cell.method != "oracle" else cell, encoded)
            right = written == task.answer
            parts = torch.stack([right[:, part].sum(1) for part in task.parts], 1).tolist()
            left = merging_left(task, cell.config(), _encode(model, task, encoded))
            for number, (digits, exact) in enumerate(zip(parts, right.all(1).tolist(), strict=True)):
                yield {
                    "video": f"{scenes}-{batch + number}", "scenes": scenes, "right": "".join(map(str, digits)),
                    "words": sum(len(part) for part in task.parts), "exact": int(exact), "left": round(left[number], 4),
                }  # fmt: skip


@torch.inference_mode()
def answer(
    model: Any, task: Task, config: DyCokeConfig | Cell | None = None, encoded: dict[Any, Any] | None = None
) -> torch.Tensor:
    """What the model writes, (batch, words of the answer), by stock greedy `generate`."""
    video = _encode(model, task, {} if encoded is None else encoded)
    prompt = {"input_ids": task.ids, "attention_mask": torch.ones_like(task.ids)}

    def write() -> torch.Tensor:
        inputs = {**prompt, "mm_encoder_outputs": {"video": video}}
        length = task.answer.shape[1]
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=length)[:, task.ids.shape[1] :]
        return torch.nn.functional.pad(ids, (0, length - ids.shape[1]), value=ID["<pad>"])

    if isinstance(config, Cell):  # the oracle looks at a run with the full cache first
        merged = replace(config.config(), prune_ratio=0.0, method="dynamic")
        with DyCoke(merged)(model), capture_attention(model) as trace:
            write()
        config = replace(config.config(), method=Oracle(future=trace.future(config.score_layer)))
    with DyCoke(config)(model) if config else nullcontext():
        return write()


@torch.inference_mode()
def _encode(model: Any, task: Task, encoded: dict[Any, Any]) -> Any:
    """What the vision tower makes of the task's videos, from `encoded` if it is there."""
    key = task.videos.pixels.sum((1, 2, 3, 4)).numpy().tobytes()  # batches of one shape differ in their videos
    if key not in encoded:
        encoded[key] = model.get_video_features(task.videos.pixels * 2 - 1, return_dict=True)
    return encoded[key]


def merging_left(task: Task, config: DyCokeConfig, video: Any) -> list[float]:
    """For each video of the task, the share of its visual tokens that merging leaves."""
    frames = task.videos.scene.shape[1]
    features = torch.stack(list(video.pooler_output))[:, :-1].unflatten(1, (frames, -1))  # without the line break
    keep, _ = keep_mask(features, config.merge_ratio, config.window, config.merge_threshold)
    return keep.flatten(1).float().mean(1).tolist()


def pack_rows(folder: Path) -> None:
    """Compress a finished run's rows."""
    pd.read_csv(folder / ROWS, dtype=str).to_csv(folder / (ROWS + ".gz"), index=False, compression={"method": "gzip", "mtime": 1})
    (folder / ROWS).unlink()


def read_rows(folder: Path) -> pd.DataFrame:
    """A run's rows, with the cell's settings as columns: those of rows.csv, of rows.csv.gz where it was packed, or of
    all the folders seed-* in it, one run each. Raises FileNotFoundError where there is none of these."""
    parts = sorted(folder.glob("seed-*"))
    if parts:
        return pd.concat([read_rows(part) for part in parts], ignore_index=True)
    path = folder / ROWS if (folder / ROWS).exists() else folder / (ROWS + ".gz")
    rows = pd.read_csv(path, dtype={"right": str, "video": str, "cell": str})
    cells = pd.DataFrame({key: json.loads(key) for key in rows["cell"].unique()}).T.rename_axis("cell")
    cells = cells.infer_objects()
    return rows.merge(cells, left_on="cell", right_index=True)


def _key(cell: Cell) -> str:
    return json.dumps(asdict(cell))
