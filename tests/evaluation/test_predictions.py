"""Diagnoses of validation videos: continued after a kill, and compared with losses by their ranks."""

from __future__ import annotations

import pandas as pd
import pytest

from dycoke_lab.evaluation import predictions
from dycoke_lab.evaluation.predictions import rank_correlations, read_diagnoses, run_diagnoses
from dycoke_lab.results.rows import ROWS


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(predictions, "PRUNE", (0.9,))
    monkeypatch.setattr(predictions, "DIAGNOSED", ("dynamic", "random"))


def test_diagnoses_continue_where_a_kill_left_them(tmp_path, few):
    whole = run_diagnoses("constructed", 0, tmp_path / "seed-0", 1, progress=False)
    path = tmp_path / "seed-0" / ROWS
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if '"scenes":4' not in line))
    again = run_diagnoses("constructed", 0, tmp_path / "seed-0", 1, progress=False)
    order = ["scenes", "from_layer", "method", "merge_ratio"]
    sort = [table.sort_values(order, ignore_index=True) for table in (whole, again)]
    pd.testing.assert_frame_equal(*sort)
    assert (read_diagnoses(tmp_path)["seed"] == 0).all()
    cells = whole[whole["method"].notna()]
    assert set(cells["method"]) == {"dynamic", "random", "best possible"} and len(cells) == 4 * 5 * 3
    assert cells.groupby("method")["changed"].count().to_dict() == {
        "best possible": 0,
        "dynamic": 20,
        "random": 20,
    }
    assert len(whole[whole["unlike"].notna()]) == 4 * 9  # K from 0.1 to 0.9


def test_rank_correlations_are_over_all_cells_and_within_a_layer():
    cells = pd.DataFrame({
        "from_layer": [1, 1, 1, 2, 2, 2], "guess": [1, 2, 3, 6, 5, 4], "loss": [1, 2, 3, 4, 5, 6],
    })  # fmt: skip
    everywhere, within = rank_correlations(cells, "guess")
    assert everywhere == pytest.approx(1 - 6 * (4 + 0 + 4) / (6 * 35)) and within == 0.0
    assert rank_correlations(cells.assign(guess=cells["loss"]), "guess") == (1.0, 1.0)
