"""The study's bookkeeping: each batch gets its own videos, and every kind of cell can run."""

from __future__ import annotations

import pytest
import torch

from dycoke_lab import study
from dycoke_lab.methods import Random
from dycoke_lab.specimen.build import build_model
from dycoke_lab.specimen.tasks import make_task
from dycoke_lab.study import Cell, answer, evaluate, run, sweep


def test_batches_of_one_shape_do_not_share_their_videos():
    model, encoded = build_model(width=32, layers=4).eval(), {}
    for batch in (0, 1):
        answer(model, make_task("describe", 2, 2, batch), None, encoded)
    first, second = (value.pooler_output for value in encoded.values())
    assert not torch.equal(first, second)


@pytest.mark.parametrize("method", ["full", "dynamic", "fastv", "oracle"])
def test_every_kind_of_cell_runs(method):
    cell = Cell(0, "describe", 0.5, 0.0 if method == "full" else 0.7, 0 if method == "full" else 3, method)
    rows = list(evaluate(build_model(width=32, layers=4).eval(), cell, 4))
    assert [row["scenes"] for row in rows] == [2, 3, 4, 5]
    assert [row["words"] for row in rows] == [8, 12, 16, 20]


def test_what_merging_leaves_is_measured():
    model = build_model(width=32, layers=4).eval()
    by_ratio = list(evaluate(model, Cell(0, "describe", 0.7, 0.0, 0, "full"), 4))
    assert {row["left"] for row in by_ratio} == {round((16 + 3 * 5) / 64, 4)}
    everything = list(evaluate(model, Cell(0, "describe", 0.0, 0.0, 0, "full", merge_threshold=-1.0), 4))
    assert {row["left"] for row in everything} == {0.25}


def test_the_sweep_has_each_setting_once():
    cells = sweep(0)
    assert len(cells) == len(set(cells)) == 10 * 7 + 2 * 11
    assert all(cell.config() for cell in cells)


def test_a_cell_is_known_by_the_name_of_its_method():
    with pytest.raises(TypeError, match="must be a name, by which rows are known"):
        Cell(0, "describe", 0.5, 0.7, 3, Random())


def test_a_run_that_was_killed_goes_on_and_a_finished_one_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "load_model", lambda name, seed: (build_model(width=32, layers=4).eval(), None))
    cells = [Cell(0, "describe", k, 0.0, 0, "full") for k in (0.0, 0.5)]
    whole = run(cells, 4, tmp_path / "whole", progress=False)
    run(cells, 4, tmp_path / "cut", progress=False)
    path = tmp_path / "cut" / "rows.csv"
    path.write_text(path.read_text()[:-40])  # in the middle of the last cell's last line
    again = run(cells, 4, tmp_path / "cut", progress=False)
    assert len(again) == len(whole) == 8 and again.groupby("cell")["video"].nunique().eq(4).all()
    with pytest.raises(ValueError, match="holds a run of 4 videos, not 8"):
        run(cells, 8, tmp_path / "cut", progress=False)
    assert len(study.read_rows(tmp_path / "cut")) == 8  # a refusal touches nothing
    path.write_text(path.read_text()[:9])  # in the middle of its first line
    assert len(run(cells, 4, tmp_path / "cut", progress=False)) == 8
    study.pack_rows(tmp_path / "cut")
    assert len(study.read_rows(tmp_path / "cut")) == 8
    with pytest.raises(FileExistsError, match="finished run"):
        run(cells, 4, tmp_path / "cut", progress=False)
