"""What methods cost: rows of a tiny shape, and the table that is made of them."""

from __future__ import annotations

import pytest
import torch

from dycoke_lab.bench.model_shapes import SHAPES
from dycoke_lab.evaluation.matrix import FULL
from dycoke_lab.evaluation.matrix_costs import cost_table, lines_at, run_costs, timed
from dycoke_lab.methods import METHODS, PUBLISHED, Compression
from dycoke_lab.results.rows import read_rows

SOME = ("ttm", "visionzip", "fastv", "dynamic", "last_query")


@pytest.fixture(scope="module")
def costs(tmp_path_factory):
    """A folder of one round of some methods."""
    folder = tmp_path_factory.mktemp("costs")
    lines = [line for line in lines_at(0.25) if line.parts[0].method in SOME and len(line.parts) == 1]
    run_costs(folder, lines, frames=8, rounds=1, name="tiny", progress=False)
    return folder, lines


def test_all_published_methods_are_measured_once_alone():
    alone = [line.parts[0].method for line in lines_at(0.25) if len(line.parts) == 1]
    assert len(alone) == len(set(alone)) and set(PUBLISHED) - set(alone) <= {
        "dynamic_ablation",
        "dynamic_mass",
    }
    assert set(alone) <= set(METHODS)


def test_a_round_more_is_added_and_nothing_is_measured_again(costs):
    folder, lines = costs
    before = read_rows(folder)
    assert len(before) == 2 * (len(lines) + 1)
    run_costs(folder, lines, frames=8, rounds=1, name="tiny", progress=False)
    assert read_rows(folder) == before
    run_costs(folder, lines[:1], frames=8, rounds=2, name="tiny", progress=False)
    assert len(read_rows(folder)) == len(before) + 2


def test_the_table_by_hand(costs):
    """8 frames of 16 tokens, 45 others, 10 of the answer; 4 layers, of which the last is pruned."""
    folder, _ = costs
    table = cost_table(folder).set_index("method")
    of = ["prefill", "step", "held", "read", "prefill FLOPs", "H100 step"]
    assert table.loc["full", of].tolist() == pytest.approx([100] * 6)
    whole, quarter = 8 * 16 + 45 + 10, 8 * 16 / 4 + 45 + 10
    assert table.loc["ttm", "held"] == table.loc["ttm", "read"] == pytest.approx(100 * quarter / whole)
    three_whole = 100 * (3 * whole + quarter) / (4 * whole)
    assert table.loc["dynamic", "read"] == table.loc["last_query", "read"] == pytest.approx(three_whole)
    assert table.loc["dynamic", "held"] == pytest.approx(100)  # what is inactive is still there
    assert table.loc["last_query", "held"] == pytest.approx(three_whole)  # what it does not choose is evicted
    assert table.loc["dynamic", "prefill FLOPs"] == 100 > table.loc["fastv", "prefill FLOPs"]
    shape, prompt, short = SHAPES["tiny"], 8 * 16 + 45, 8 * 4 + 45
    layer = 2 * 64 * (16 * (2 * 4 + 2 * 2) + 3 * 128)

    def flops(lengths):
        pairs = sum(n * (n + 1) / 2 for n in lengths)
        return sum(lengths) * layer + 4 * 4 * 16 * pairs + 2 * 64 * shape.vocab

    expected = flops([prompt] * 3 + [short]) / flops([prompt] * 4)
    assert table.loc["fastv", "prefill FLOPs"] == pytest.approx(100 * expected)
    assert table.loc["dynamic", "survive"] == 25 and (table["own prefill"] >= 0).all()


def test_own_time_is_a_part_of_the_whole_and_nothing_stays_patched(costs):
    folder, _ = costs
    rows = [row for row in read_rows(folder) if "round" in row]
    full = next(row for row in rows if row["line"] == FULL.key)
    others = [row for row in rows if row["line"] != FULL.key]
    assert all(row["own prefill"] < row["prefill"] for row in rows)
    assert all(a < b for row in rows for a, b in zip(row["own steps"], row["steps"], strict=True))
    assert all(row["own prefill"] > full["own prefill"] for row in others)


def test_a_run_does_not_change_what_the_model_says():
    from dycoke_lab.bench.model_shapes import build_model
    from dycoke_lab.evaluation.matrix_costs import prompt

    model = build_model("tiny")
    inputs = prompt("tiny", model, 4)
    with torch.inference_mode():
        before = model(**inputs).logits
        timed(model, inputs, Compression.of(METHODS["dynamic"](prune_ratio=0.5)))
        assert torch.equal(model(**inputs).logits, before)
