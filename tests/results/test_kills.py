"""What is killed with SIGKILL at random moments, and begun again, loses nothing that is finished and
repeats none of it."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import torch
from helpers.killed import run_killed

from dycoke_lab.evaluation.grids import _key, read_grid
from dycoke_lab.models.folder import check_checkpoint, check_sums
from dycoke_lab.results.rows import read_rows

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A folder for each kind of work, in it `whole` and `killed`; of steps, many killed once."""
    folder = tmp_path_factory.mktemp("killed")
    run_killed(folder, "steps", "grid", "training", "bench")
    return folder


def runs(folder):
    """How often a run began in a folder."""
    return len(json.loads((folder / "provenance.json").read_text())["runs"])


def test_a_grid_killed_twenty_times_has_each_cell_once_as_an_undisturbed_one(killed):
    whole, again = killed / "grid" / "whole", killed / "grid" / "killed"
    keys = [_key(row) for row in read_rows(again)]
    assert len(keys) == len(set(keys)) == 48
    assert read_rows(again) == read_rows(whole) and read_grid(again).equals(read_grid(whole))
    assert runs(whole) == 1 and runs(again) > 10  # some were killed before they noted that they began
    assert {path.name for path in again.iterdir()} <= {"rows.jsonl", "provenance.json", "provenance.json.new"}


def test_a_killed_training_ends_where_an_undisturbed_one_does(killed):
    states, logs = [], []
    for name in ("whole", "killed"):
        folder = killed / "training" / name
        states.append(torch.load(folder / "checkpoint.pt", weights_only=True))
        logs.append([json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()])
        check_checkpoint(folder / "export")
        check_sums(folder / "export")
    for part, value in states[0]["model"].items():
        assert torch.equal(value, states[1]["model"][part]), part
    for row in logs[0] + logs[1]:
        assert row.pop("minutes") >= 0
    assert logs[0] == logs[1] and [row["step"] for row in logs[0]] == list(range(1, 23))


def test_a_killed_benchmark_has_each_cell_once(killed):
    whole, again = (
        [
            (row["config"], row["repeat"], row["prompt_tokens"], row["bytes"])
            for row in read_rows(killed / "bench" / name)
        ]
        for name in ("whole", "killed")
    )
    assert whole == again and len(whole) == 2 * 9


def test_rows_are_whole_wherever_a_kill_strikes(killed):
    folders = list((killed / "steps").iterdir())
    assert len(folders) > 15
    for folder in folders:
        assert read_rows(folder) == [{"a": 0}, {"a": 1}, {"a": 2}], folder


@pytest.mark.notebook
def test_a_killed_study_executes_no_finished_notebook_again(tmp_path):
    run_killed(tmp_path, "study")
    folder = tmp_path / "study" / "killed"
    assert [row["notebook"] for row in read_rows(folder)] == [
        "01_one.ipynb", "02_two.ipynb", "03_three.ipynb", "08_four.ipynb",
    ]  # fmt: skip
    begun = [(folder / f"times-{number}").read_text().count("begun") for number in ("01", "02", "03", "08")]
    assert sum(begun) <= 4 + 2 and (folder / "labbook.html").exists()
    assert len(pd.read_csv(folder / "08-headline.csv")) == 1 and not list(folder.glob("*-2.csv"))
