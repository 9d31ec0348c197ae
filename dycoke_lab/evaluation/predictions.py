"""How well what was diagnosed on some videos predicts what a method loses on others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from scipy.stats import spearmanr
from tqdm.auto import tqdm

from dycoke_lab.evaluation.diagnosis import DIAGNOSED, diagnose
from dycoke_lab.evaluation.merging_diagnosis import diagnose_merging
from dycoke_lab.models.loading import load_model
from dycoke_lab.results.rows import RowStore, read_rows
from dycoke_lab.specimen.specimens import specimen_named
from dycoke_lab.specimen.tasks import make_task
from dycoke_lab.specimen.world import World

PRUNE = (0.5, 0.7, 0.9, 0.95)
CELL = ["from_layer", "prune_ratio", "method"]
FOUND = ["unread", "coverage", "coverage_by_head", "aim", "expected", "changed"]


def run_diagnoses(
    specimen: str, seed: int, out: Path, videos: int = 8, progress: bool = True
) -> pd.DataFrame:
    """Diagnose validation videos, so many for each motion of the camera and number of scenes; return the rows
    of the folder `out`, which is continued."""
    world = specimen_named(specimen).world
    with RowStore(out, videos=videos) as store:
        _diagnose_missing(world, specimen, seed, store, videos, progress)
    return read_diagnoses(out)


def _diagnose_missing(
    world: World, specimen: str, seed: int, store: RowStore, videos: int, progress: bool
) -> None:
    done = {(row["motion"], row["scenes"]) for row in store.rows()}
    wanted = [(motion, scenes) for motion in world.motions for scenes in world.scenes]
    todo = [batch for batch in wanted if batch not in done]
    if todo:
        store.begin(batches=len(todo))
        model, _ = load_model(specimen, seed)
    for motion, scenes in tqdm(todo, desc="batches", disable=not progress):
        about = {"motion": motion, "scenes": scenes}
        only = {"motion": motion} if len(world.motions) > 1 else {}
        task = make_task(
            "describe", videos, scenes, world.motions.index(motion), specimen, "validation", **only
        )
        inputs = {"input_ids": task.ids, **task.inputs}
        table = diagnose(model, inputs, PRUNE, DIAGNOSED, DIAGNOSED)
        means = table.groupby(CELL, sort=False)[FOUND].mean().round(5).reset_index()
        merging = diagnose_merging(model, inputs).groupby("merge_ratio")[["retained", "unlike"]].mean()
        cells: list[dict[str, Any]] = means.astype(object).where(means.notna(), None).to_dict("records")
        cells += merging.round(6).reset_index().to_dict("records")
        store.append([{**about, "cells": cells}])  # a line for a batch: a kill leaves none half done


def read_diagnoses(folder: Path) -> pd.DataFrame:
    """Return the rows of a folder, or of all folders seed-* in it, with a column `seed`."""
    parts = sorted(folder.glob("seed-*"))
    if not parts:
        batches = read_rows(folder)
        return pd.DataFrame([
            {"motion": batch["motion"], "scenes": batch["scenes"], **cell}
            for batch in batches for cell in batch["cells"]
        ])  # fmt: skip
    seeds = [int(part.name.removeprefix("seed-")) for part in parts]
    tables = [read_diagnoses(part).assign(seed=s) for s, part in zip(seeds, parts, strict=True)]
    return pd.concat(tables, ignore_index=True)


def rank_correlations(table: pd.DataFrame, predictor: str, measured: str = "loss") -> tuple[float, float]:
    """Return Spearman's rank correlation over all cells, and the median of those within an L."""
    within = [_ranks(rows[predictor], rows[measured]) for _, rows in table.groupby("from_layer")]
    return _ranks(table[predictor], table[measured]), float(pd.Series(within).median())


def _ranks(one: pd.Series, other: pd.Series) -> float:
    """Return the rank correlation; NaN where one of them does not vary."""
    if one.nunique() < 2 or other.nunique() < 2:
        return float("nan")
    return float(spearmanr(one, other).statistic)
