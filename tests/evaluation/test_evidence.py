"""What is shown of the committed evidence equals plain sums over the committed rows."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from dycoke_lab.evaluation import evidence
from dycoke_lab.results.folders import EVIDENCE
from dycoke_lab.results.rows import read_rows

pytestmark = pytest.mark.data


def right(name, seed, **wanted):
    """The share of words right, summed row by row."""
    count = words = 0
    for row in read_rows(EVIDENCE / name / f"seed-{seed}"):
        if all(row["config"][key] == value for key, value in wanted.items()):
            count += sum(int(digit) for digits in row["right"] for digit in digits)
            words += row["words"] * len(row["right"])
    assert words
    return count / words


WANTED = dict(question="describe", merge_ratio=0.0, prune_ratio=0.9, method="dynamic")


@pytest.mark.parametrize(("specimen", "layer"), [("constructed", 3), ("footage", 3), ("footage", 8)])
def test_the_readmes_cells_are_plain_sums(specimen, layer):
    lines = [line.strip("| ").split(" | ") for line in evidence.readme_table().splitlines()]
    column = lines[0].index(f"{specimen}, L={layer}")
    cell = next(line for line in lines if "dynamic" in line[0])[column]
    shown = [float(number) for number in re.findall(r"\d+\.\d", cell)]
    seeds = [100 * right(specimen, seed, from_layer=layer, **WANTED) for seed in range(3)]
    assert shown == [round(value, 1) for value in (sum(seeds) / 3, min(seeds), max(seeds))]


def test_the_figures_points_are_plain_sums():
    table = evidence.by_layer("footage").set_index(["method", "seed", "from_layer"])["mean"]
    for layer in (3, 8):
        assert table["dynamic", 0, layer] == pytest.approx(right("footage", 0, from_layer=layer, **WANTED))


def test_predicted_losses_join_what_was_diagnosed_with_what_was_measured():
    table = evidence.predicted_losses()
    row = table.set_index(["specimen", "seed", "from_layer", "prune_ratio", "method"]).loc[
        ("footage", 0, 7, 0.9, "dynamic")
    ]
    full = right("footage", 0, **{**WANTED, "prune_ratio": 0.0, "method": "full"})
    assert row["loss"] == pytest.approx(full - right("footage", 0, from_layer=7, **WANTED))
    found = evidence.load_diagnoses()
    found = found[(found["specimen"] == "footage") & (found["seed"] == 0) & (found["from_layer"] == 7)]
    found = found[(found["method"] == "dynamic") & (found["prune_ratio"] == 0.9)]
    assert len(found) == 16  # four motions, four numbers of scenes
    assert row["expected"] == pytest.approx(found["expected"].mean())
    assert row["plain"] == pytest.approx(found["unread"].mean() * (1 - found["coverage"].mean()))


def test_one_of_each_motion_is_in_the_merging_table():
    table = evidence.merging()
    assert list(table["motion"].unique()) == ["still", "slow pan", "fast pan", "hand-held"]
    assert table["unlike"].notna().all() and (table[table["merge_ratio"] == 0]["unlike"] == 0).all()
    assert isinstance(evidence.reselection(8), pd.DataFrame)
