"""Grids of settings on the specimens: each is stock `generate` under one setting, each result a tidy row.

A grid has a folder of its own. Its rows are appended setting by setting, so that an interrupted run continues
where it stopped; provenance.json says how it was made.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from dycoke_lab.attention.capture import capture_attention
from dycoke_lab.methods import METHODS, Compression, Dynamic, Merger, VideoTokens, compose
from dycoke_lab.models.loading import load_model, specimen_seeds
from dycoke_lab.results.rows import RowStore, read_rows
from dycoke_lab.specimen.language import ID
from dycoke_lab.specimen.tasks import QUESTIONS, Task, make_task
from dycoke_lab.specimen.world import GRID, SCENES

BATCH = 64
SWEEP_PRUNE = 0.7  # P of the runs over similarity thresholds
SWEEP_THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999)


@dataclass(frozen=True, order=True)
class EvaluationConfig:
    """One setting on one specimen. method: a name of METHODS, or "full", the full cache after merging."""

    seed: int
    question: str
    merge_ratio: float
    prune_ratio: float
    from_layer: int
    method: str
    reselect_below: float = Dynamic.reselect_below
    merge_threshold: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.method, str):
            raise TypeError(
                f"method={self.method!r} must be a name, which rows can hold: add yours to dycoke_lab.METHODS"
            )

    def compression(self, **fields: Any) -> Compression:
        """Return what to switch on. fields: further parameters of the method."""
        if hasattr(METHODS.get(self.method), "reselect_below"):
            fields["reselect_below"] = self.reselect_below
        return compose(
            self.method, self.merge_ratio, self.prune_ratio, self.from_layer, self.merge_threshold, **fields
        )


def combinations(
    seeds: Iterable[int], questions: Iterable[str] = ("describe",), merge: Iterable[float] = (0.0, 0.5, 0.7),
    prune: Iterable[float] = (0.7, 0.9), layers: Iterable[int] = (3,), methods: Iterable[str] | None = None,
) -> list[EvaluationConfig]:  # fmt: skip
    """Return all combinations, and the full cache at each merge ratio. methods: None for all that prune."""
    if methods is None:
        methods = [name for name, cls in METHODS.items() if not issubclass(cls, Merger)]
    configs = [
        EvaluationConfig(seed, question, k, p, layer, method)
        for seed in seeds for question in questions for k in merge for layer in layers for p in prune
        for method in methods
    ]  # fmt: skip
    full = {replace(config, prune_ratio=0.0, from_layer=0, method="full") for config in configs}
    return sorted([*full, *configs])


def evidence_grid(seed: int) -> list[EvaluationConfig]:
    """Return the committed evidence's grid: all methods at L = 3, the main ones at other L and questions."""
    main = ("dynamic", "last_query", "random", "uniform")
    short, more = ("actor", "compare"), ("fastv", "keep_first")
    return sorted({
        *combinations([seed]),
        *combinations([seed], prune=(0.95,), methods=(*main, *more, "keep_none")),
        *combinations([seed], merge=(0.5,), prune=(0.9,), layers=(1, 2, 4, 5), methods=(*main, "keep_none")),
        *combinations([seed], short, merge=(0.0, 0.5), prune=(0.9,), methods=(*main, *more)),
    })  # fmt: skip


def sweep_grid(seed: int) -> list[EvaluationConfig]:
    """Return the grid to choose thresholds by: dynamic pruning over K x P, and over the similarity."""
    ratios = [round(0.1 * k, 1) for k in range(10)]
    prune = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
    configs = combinations([seed], merge=ratios, prune=prune, methods=("dynamic",))
    for threshold in SWEEP_THRESHOLDS:
        full = EvaluationConfig(seed, "describe", 0.0, 0.0, 0, "full", merge_threshold=threshold)
        configs += [full, replace(full, prune_ratio=SWEEP_PRUNE, from_layer=3, method="dynamic")]
    return configs


def run_grid(configs: list[EvaluationConfig], videos: int, out: Path, progress: bool = True) -> pd.DataFrame:
    """Run the configs that the folder `out` lacks, each on so many videos, and return all its rows."""
    if videos < len(SCENES):
        raise ValueError(f"videos={videos} must be at least {len(SCENES)}: one for each number of scenes")
    store = RowStore(out, videos=videos)
    counts = Counter(EvaluationConfig(**row["config"]) for row in store.rows())
    done = {config for config, count in counts.items() if count == videos}
    store.keep_only(lambda row: EvaluationConfig(**row["config"]) in done)  # not a part left by a kill
    todo = [config for config in configs if config not in done]
    if todo:
        store.begin(configs=len(todo))
    seed, model = None, None
    encoded: dict[Any, Any] = {}
    for config in tqdm(todo, desc="settings", disable=not progress):
        if config.seed != seed:
            seed, (model, _), encoded = config.seed, load_model("specimen", config.seed), {}
        store.append([{"config": asdict(config), **row} for row in evaluate(model, config, videos, encoded)])
    return read_grid(out)


def evaluate(
    model: Any, config: EvaluationConfig, videos: int, encoded: dict[Any, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield a row per video.

    right: how many words are right, a digit for each part of the answer. exact: whether all are.
    left: the share of visual tokens that merging retained.

    encoded: a dict that keeps the vision tower's output from one setting to the next.
    """
    encoded = {} if encoded is None else encoded
    for scenes in SCENES:
        count = videos // len(SCENES) + (scenes - SCENES[0] < videos % len(SCENES))
        for first in range(0, count, BATCH):
            task = make_task(config.question, min(BATCH, count - first), scenes, first // BATCH)
            compression = _compression_for(model, task, config, encoded)
            right = answer_task(model, task, compression, encoded) == task.answer
            parts = torch.stack([right[:, part].sum(1) for part in task.parts], 1).tolist()
            left = merging_left(task, compression, _encode(model, task, encoded))
            for number, (digits, exact) in enumerate(zip(parts, right.all(1).tolist(), strict=True)):
                yield {
                    "video": f"{scenes}-{first + number}",
                    "scenes": scenes,
                    "right": "".join(map(str, digits)),
                    "words": sum(len(part) for part in task.parts),
                    "exact": int(exact),
                    "left": round(left[number], 4),
                }


def answer_task(
    model: Any, task: Task, compression: Compression | None = None, encoded: dict[Any, Any] | None = None
) -> torch.Tensor:
    """Return what the model writes, (batch, words of the answer), by stock greedy `generate`."""
    with (compression or Compression())(model):
        return _generate(model, task, {} if encoded is None else encoded)


def merging_left(task: Task, compression: Compression, video: Any) -> list[float]:
    """Return, for each video of the task, the share of its visual tokens that merging retains."""
    if compression.merger is None:
        return [1.0] * len(task.ids)
    features = torch.stack(list(video.pooler_output))[:, :-1]  # without the line break
    tokens = VideoTokens(features.unflatten(1, (-1, GRID, GRID)))
    into = compression.merger.merge(tokens).into
    return (into == torch.arange(into.shape[1])).float().mean(1).tolist()


def read_grid(folder: Path) -> pd.DataFrame:
    """Return the rows of a folder, with the parts of `config` as columns; or of all folders seed-* in it.

    Raises FileNotFoundError if there are none.
    """
    parts = sorted(folder.glob("seed-*"))
    if parts:
        return pd.concat([read_grid(part) for part in parts], ignore_index=True)
    rows = read_rows(folder)
    configs = [row.pop("config") for row in rows]
    frame = pd.DataFrame(rows)
    frame.insert(0, "config", [json.dumps(config) for config in configs])
    return frame.join(pd.DataFrame(configs))


def specimen_accuracy(videos: int) -> list[dict[str, Any]]:
    """Return the full-cache accuracy of each specimen, by question and number of scenes."""
    table = []
    for seed in specimen_seeds():
        model, _ = load_model("specimen", seed)
        for question in QUESTIONS:
            rows = list(evaluate(model, EvaluationConfig(seed, question, 0.0, 0.0, 0, "full"), videos))
            for scenes in (None, *sorted({row["scenes"] for row in rows})):
                chosen = [row for row in rows if scenes in (None, row["scenes"])]
                right = sum(sum(map(int, row["right"])) for row in chosen)
                found = {
                    "words": right / sum(row["words"] for row in chosen),
                    "exact": sum(row["exact"] for row in chosen) / len(chosen),
                }
                about = {"seed": seed, "question": question, "scenes": scenes or "all", "videos": len(chosen)}
                table.append(about | found)
    return table


def _compression_for(
    model: Any, task: Task, config: EvaluationConfig, encoded: dict[Any, Any]
) -> Compression:
    """Return the setting's compression. "hindsight" first runs with the full cache, to know the future."""
    if config.method != "hindsight":
        return config.compression()
    merging = replace(config, method="full").compression()
    with merging(model), capture_attention(model) as trace:
        _generate(model, task, encoded)
    return config.compression(future=trace.future(config.from_layer))


@torch.inference_mode()
def _generate(model: Any, task: Task, encoded: dict[Any, Any]) -> torch.Tensor:
    length = task.answer.shape[1]
    inputs = {
        "input_ids": task.ids,
        "attention_mask": torch.ones_like(task.ids),
        "mm_encoder_outputs": {"video": _encode(model, task, encoded)},
    }
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=length)[:, task.ids.shape[1] :]
    return torch.nn.functional.pad(ids, (0, length - ids.shape[1]), value=ID["<pad>"])


@torch.inference_mode()
def _encode(model: Any, task: Task, encoded: dict[Any, Any]) -> Any:
    """Return what the vision tower makes of the task's videos, from `encoded` if it is there."""
    key = task.videos.pixels.sum((1, 2, 3, 4)).numpy().tobytes()  # tells batches of one shape apart
    if key not in encoded:
        encoded[key] = model.get_video_features(task.videos.pixels * 2 - 1, return_dict=True)
    return encoded[key]
