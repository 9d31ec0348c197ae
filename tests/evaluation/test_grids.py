"""Grids of settings: batches have their own videos, every method runs, an interrupted grid continues."""

from __future__ import annotations

import pytest
import torch

from dycoke_lab.evaluation import grids
from dycoke_lab.evaluation.grids import (
    EvaluationConfig,
    answer_task,
    combinations,
    evaluate,
    evidence_grid,
    read_grid,
    run_grid,
    sweep_grid,
)
from dycoke_lab.methods import METHODS, TTM, Dynamic, Random, compose
from dycoke_lab.results.rows import ROWS, RowStore
from dycoke_lab.specimen.build import build_model
from dycoke_lab.specimen.tasks import make_task


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return build_model(width=32, layers=4).eval()


def full(merge_ratio: float = 0.0, **fields) -> EvaluationConfig:
    return EvaluationConfig(0, "describe", merge_ratio, 0.0, 0, "full", **fields)


def test_batches_of_one_shape_do_not_share_their_videos(small):
    encoded = {}
    for batch in (0, 1):
        answer_task(small, make_task("describe", 2, 2, batch), None, encoded)
    first, second = (value.pooler_output for value in encoded.values())
    assert not torch.equal(first, second)


@pytest.mark.parametrize("method", ["full", *METHODS])
def test_evaluate_runs_every_method(small, method):
    pruned = method not in ("full", "ttm")
    config = EvaluationConfig(0, "describe", 0.5, 0.7 if pruned else 0.0, 3 if pruned else 0, method)
    rows = list(evaluate(small, config, 4))
    assert [row["scenes"] for row in rows] == [2, 3, 4, 5]
    assert [row["words"] for row in rows] == [8, 12, 16, 20]
    assert [len(row["right"]) for row in rows] == [2, 3, 4, 5]


def test_the_share_that_merging_retains_is_measured(small):
    by_ratio = list(evaluate(small, full(0.7), 4))
    assert {row["left"] for row in by_ratio} == {round((16 + 3 * 5) / 64, 4)}
    everything = list(evaluate(small, full(merge_threshold=-1.0), 4))
    assert {row["left"] for row in everything} == {0.25}
    assert {row["left"] for row in evaluate(small, full(), 4)} == {1.0}


def test_evaluation_configs_compose_their_methods():
    config = EvaluationConfig(0, "describe", 0.5, 0.7, 2, "dynamic", reselect_below=0.8)
    assert config.compression() == TTM(0.5) + Dynamic(0.7, 2, reselect_below=0.8)
    assert EvaluationConfig(0, "describe", 0.0, 0.7, 2, "random").compression() == compose(
        "random", 0.0, 0.7, 2
    )
    threshold = EvaluationConfig(0, "describe", 0.0, 0.7, 3, "dynamic", merge_threshold=0.9)
    assert threshold.compression() == TTM(threshold=0.9) + Dynamic(0.7, 3)
    assert full().compression().off and full(0.5).compression().parts == (TTM(0.5),)


def test_grids_have_each_setting_once():
    for configs, number in ((sweep_grid(0), 10 * 7 + 2 * 11), (evidence_grid(0), 132)):
        assert len(configs) == len(set(configs)) == number
        assert all(config.method == "hindsight" or config.compression() for config in configs)


def test_combinations_hold_the_full_cache_once_per_merge_ratio():
    configs = combinations([0, 1], merge=(0.0, 0.5), prune=(0.7, 0.9), methods=("dynamic", "random"))
    assert len(configs) == 2 * 2 * (2 * 2 + 1) and sum(config.method == "full" for config in configs) == 4


def test_evaluation_configs_take_a_method_by_its_name():
    with pytest.raises(
        TypeError, match=r"must be a name, which rows can hold: add yours to dycoke_lab\.METHODS"
    ):
        EvaluationConfig(0, "describe", 0.5, 0.7, 3, Random())


def test_run_grid_continues_after_a_kill_and_leaves_a_finished_run_alone(tmp_path, monkeypatch, small):
    monkeypatch.setattr(grids, "load_model", lambda name, seed: (small, None))
    configs, folder = [full(0.0), full(0.5)], tmp_path / "killed"
    whole = run_grid(configs, 4, tmp_path / "whole", progress=False)
    run_grid(configs, 4, folder, progress=False)
    path = folder / ROWS
    path.write_text(path.read_text()[:-40])  # in the middle of the last setting's last line
    again = run_grid(configs, 4, folder, progress=False)
    assert again.equals(whole) and again.groupby("config")["video"].nunique().eq(4).all()
    with pytest.raises(ValueError, match="holds a run with videos=4, not 8"):
        run_grid(configs, 8, folder, progress=False)
    assert read_grid(folder).equals(whole)  # a refusal touches nothing
    path.write_text(path.read_text()[:9])  # in the middle of its first line
    assert run_grid(configs, 4, folder, progress=False).equals(whole)
    RowStore(folder, videos=4).pack()
    assert read_grid(folder).equals(whole)
    with pytest.raises(FileExistsError, match="finished run"):
        run_grid(configs, 4, folder, progress=False)


def test_run_grid_wants_a_video_for_each_number_of_scenes(tmp_path):
    with pytest.raises(ValueError, match="videos=3 must be at least 4"):
        run_grid([full()], 3, tmp_path / "new")
    assert not (tmp_path / "new").exists()
