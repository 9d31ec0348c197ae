"""The matrix: what it decodes is what `generate` writes, its knobs are solved, its tables are plain sums."""

from __future__ import annotations

import copy
from dataclasses import replace

import pandas as pd
import pytest
import torch
from helpers.tiny_specimens import tiny

from dycoke_lab.evaluation import matrix_runs
from dycoke_lab.evaluation.grids import answer_task, ended
from dycoke_lab.evaluation.matrix import (
    FULL,
    SHARES,
    Line,
    Part,
    ablations,
    made,
    plan,
    plan_at,
    refused,
    solve,
)
from dycoke_lab.evaluation.matrix_runs import Batch, Solver, read_matrix, run_matrix, validation
from dycoke_lab.evaluation.matrix_tables import against, by_position, summary, unchanged
from dycoke_lab.methods import METHODS, TTM, Compression, Dynamic, FastV, LastQuery, Merger
from dycoke_lab.specimen.tasks import make_task

NAMES = ["constructed", "footage", "footage-qwen2.5-vl"]


@pytest.fixture(scope="module")
def small():
    """A model of each specimen, with random weights whose attention is uneven."""
    models = {}
    for name in NAMES:
        torch.manual_seed(0)
        models[name] = model = tiny(name).build().eval()
        for layer in model.model.language_model.layers:
            for part, times in (("q", 30), ("k", 30), ("v", 10), ("o", 10)):
                getattr(layer.self_attn, f"{part}_proj").weight.data *= times
    return models


@pytest.mark.parametrize("name", NAMES)
def test_what_is_decoded_is_what_generate_writes(small, name):
    task = make_task("describe", 2, 4, specimen=name)
    batch, steps, written = Batch(small[name], task), task.answer.shape[1], set()
    for compression in (
        Compression(), Compression.of(TTM(0.6)), TTM(0.6) + Dynamic(0.7, 2), TTM(0.6) + LastQuery(0.9, 2),
        Compression.of(FastV(0.9, 2)), Compression.of(Dynamic(0.8, 2)),
    ):  # fmt: skip
        found = ended(batch.decode(compression, steps).ids, task)
        assert torch.equal(found, answer_task(small[name], task, compression)), compression
        written.add(tuple(found.flatten().tolist()))
    assert len(written) > 3


def test_what_is_read_held_and_given_to_the_prefill(small):
    """By hand: windows of four frames of 16 tokens; K = .5 leaves 16 + 3 x 8 = 40 of a window's 64."""
    batch = Batch(small["constructed"], make_task("describe", 2, 4, specimen="constructed"))
    visual = batch.full.retained.shape[1]
    assert visual % 64 == 0
    merged = 40 / 64
    fifth = round(0.2 * visual) / visual
    cases = [
        (Compression.of(TTM(0.5)), [merged] * 4, [merged] * 4, [merged] * 4),
        (Compression.of(FastV(0.8, 2)), [1, 1, fifth, fifth], [1, 1, fifth, fifth], [1, 1, fifth, fifth]),
        (Compression.of(Dynamic(0.8, 2)), [1, 1, fifth, fifth], [1] * 4, [1] * 4),
        (Compression.of(LastQuery(0.8, 2)), [1, 1, fifth, fifth], [1, 1, fifth, fifth], [1] * 4),
        (TTM(0.5) + LastQuery(0.8, 2), [merged] * 2 + [merged / 5] * 2, [merged] * 2 + [merged / 5] * 2,
         [merged] * 4),
    ]  # fmt: skip
    for compression, read, held, prefill in cases:
        found = batch.decode(compression, 3)
        for got, want in ((found.read, read), (found.held, held), (found.prefill, prefill)):
            torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float), atol=1e-6, rtol=0)
        torch.testing.assert_close(found.frames.sum(1), torch.full((2,), read[-1] * visual))


@pytest.mark.parametrize("name", ["rising", "falling"])
def test_a_knob_is_solved_by_bisection(monkeypatch, name):
    class Knobbed(TTM):
        knob_range = (0.0, 1.0)

    monkeypatch.setitem(METHODS, "knobbed", Knobbed)

    def survivors(compression):
        value = compression.merger.merge_ratio
        return round(value if name == "rising" else 1 - value, 2)  # in steps, as whole tokens are

    for share in (0.5, 0.25, 0.1):
        found = solve(Part("knobbed", share, (("window", 8),)), 3, survivors)
        assert found["window"] == 8
        assert abs(survivors(Compression.of(Knobbed(**found))) - share) <= 0.003


def test_a_selectors_knob_is_its_ratio():
    def never(compression):
        raise AssertionError

    assert solve(Part("dynamic", 0.25), 3, never) == {"prune_ratio": 0.75}
    assert solve(Part("dynamic", None, (("prune_ratio", 0.3),)), 3, never) == {"prune_ratio": 0.3}
    assert made(Part("dynamic", None, (("prune_ratio", 0.3),)), 5) == Dynamic(0.3, 5)


def test_two_stages_leave_the_same_share_each():
    lines = [line for line in plan_at(0.25) if len(line.parts) == 2]
    assert {part.share for line in lines for part in line.parts} == {0.5}


def test_the_plan_has_every_method_at_every_share():
    lines = plan()
    assert len({line.key for line in lines}) == len(lines)
    for share in SHARES:
        alone = {line.parts[0].method for line in lines if line.share == share and len(line.parts) == 1}
        assert alone == set(METHODS) - {"dynamic_ablation", "dynamic_mass"}
    more = [line for line in lines if line.share not in SHARES]
    assert more and all(issubclass(METHODS[line.parts[0].method], Merger) for line in more)


def test_an_ablation_changes_one_choice(small, tmp_path, monkeypatch):
    lines = ablations(0.25)
    assert len({line.key for line in lines}) == len(lines)
    plain = [made(part, 7, 0.5) for part in (Part("ttm", 0.5), Part("dynamic", 0.5))]
    for line in lines:
        parts = [made(part, 7, 0.5) for part in line.parts]
        changed = [vars(one) != vars(two) for one, two in zip(parts, plain, strict=True)]
        assert sum(changed) == 1, line
    monkeypatch.setattr(matrix_runs, "load_model", lambda *_: (small["constructed"], None))
    some = [lines[0], lines[7], lines[-1]]
    found = run_matrix("constructed", 0, 2, some, 4, tmp_path / "new", ("compare",), progress=False)
    assert set(found["method"]) == {
        "full", "ttm (window=2) + dynamic", "ttm (by threshold) + dynamic", "ttm + dynamic_mass",
    }  # fmt: skip
    assert "threshold" in found[found["method"].str.contains("by")]["fields"].iloc[0]


def test_a_merger_is_solved_on_validation_videos(small):
    solver = Solver(validation(small["constructed"], "constructed"), 2)
    for share in (0.5, 0.4):
        fields = solver.fields(Part("ttm", share))
        assert abs(solver.survivors(Compression.of(TTM(**fields))) - share) < 0.03  # a token of 16, thrice
    assert solver.fields(Part("ttm", 0.4)) is solver.fields(Part("ttm", 0.4))


LINES = [
    Line("before the LLM", (Part("ttm", 0.5),), 0.5),
    Line("on the KV cache", (Part("dynamic", 0.1),), 0.1),
    Line("control", (Part("hindsight", 0.1),), 0.1),
    Line("two stages", (Part("ttm", 0.5), Part("dynamic", 0.5)), 0.25),
]


def test_lines_that_a_specimen_cannot_run_are_left_out_and_told(small, tmp_path, monkeypatch, capsys):
    """Qwen2.5-VL's tower works in windows: what it attends to is not known."""
    monkeypatch.setattr(matrix_runs, "load_model", lambda name, _: (small[name], None))
    lines = [
        Line("before the LLM", (Part("visionzip", 0.5),), 0.5),
        Line("two stages", (Part("fastvid", 0.5), Part("dynamic", 0.5)), 0.25),
        Line("before the LLM", (Part("divprune", 0.5),), 0.5),
    ]
    found = run_matrix("footage-qwen2.5-vl", 0, 2, lines, 4, tmp_path / "qwen", ("compare",), progress=False)
    assert set(found["method"]) == {"full", "divprune"}
    said = capsys.readouterr().out
    assert "left out: VisionZip needs vision_attention" in said and "left out: FastVID needs" in said
    assert {refused(small["constructed"], line, 2) for line in (*lines, *plan())} == {None}


def test_a_run_continues_where_it_stopped(small, tmp_path, monkeypatch):
    monkeypatch.setattr(matrix_runs, "load_model", lambda *_: (small["constructed"], None))

    def run(folder):
        return run_matrix(
            "constructed", 0, 2, LINES, 4, tmp_path / folder, ("describe", "compare"), progress=False
        )

    whole = run("one")
    assert len(whole) == 2 * 4 * (len(LINES) + 1)
    rows = (tmp_path / "one" / "rows.jsonl").read_text().splitlines(keepends=True)
    assert len(rows) == len(LINES) + 2 * 4 * (len(LINES) + 1)
    for cut in (2, 9, 30):
        about = tmp_path / f"cut{cut}"
        about.mkdir()
        (about / "rows.jsonl").write_text("".join(rows[:cut]))
        pd.testing.assert_frame_equal(run(f"cut{cut}"), whole)
    assert sorted(whole["method"].unique()) == ["dynamic", "full", "hindsight", "ttm", "ttm + dynamic"]
    assert not whole.loc[whole["method"] == "full", "changed"].any()
    assert (read_matrix(tmp_path / "one").groupby("method")["fields"].nunique() == 1).all()


def rows_by_hand():
    """Two videos, two seeds; under "thinned" the first video loses a word of its second scene."""
    shared = {"line": "x", "group": "control", "question": "describe", "words": 4, "agree": 1.0,
              "survive": 1.0, "read": 1.0, "held": 1.0, "prefill": 1.0, "per frame": 9.0}  # fmt: skip
    table = []
    for seed in (0, 1):
        for video, right in (("2-0", "22"), ("2-1", "21")):
            full = {"method": "full", "share": 1.0, "right": right, "exact": int(right == "22"), "changed": 0}
            table.append(shared | full | {"video": video, "seed": seed})
            less = right if video == "2-1" else "21"
            thin = {"method": "thinned", "share": 0.5, "right": less, "exact": int(less == "22"),
                    "changed": int(video == "2-0")}  # fmt: skip
            table.append(shared | thin | {"line": "y", "video": video, "seed": seed})
            table.append(
                shared | full | {"method": "inert", "line": "z", "share": 0.5, "video": video, "seed": seed}
            )
    return pd.DataFrame(table)


def test_tables_are_plain_sums():
    rows = rows_by_hand()
    found = summary(rows).set_index(["method", "seed"]).sort_index()
    assert found.loc[("full", 0), "words"] == pytest.approx(100 * 7 / 8)
    assert found.loc[("thinned", 1), "words"] == pytest.approx(100 * 6 / 8)
    assert found.loc[("thinned", 1), ["exact", "changed"]].tolist() == [0.0, 50.0]
    places = by_position(rows).set_index(["method", "seed", "position"]).sort_index()["words"]
    assert places["thinned", 0].tolist() == [100.0, 50.0] and places["full", 0].tolist() == [100.0, 75.0]


def test_differences_are_of_the_same_videos():
    found = against(rows_by_hand(), "full").set_index(["method", "seed"]).sort_index()
    assert found.loc[("thinned", 0), "points"] == pytest.approx(-100 / 8)
    assert found.loc[("thinned", 0), ["only this", "only other", "p"]].tolist() == [0, 1, 1.0]
    assert found.loc[("inert", 1), ["points", "low", "high", "p"]].tolist() == [0, 0, 0, 1.0]
    beside = against(rows_by_hand(), "inert").set_index(["method", "seed"]).sort_index()
    assert beside.loc[("thinned", 0), "points"] == pytest.approx(-100 / 8)


def test_a_method_that_changes_nothing_is_named():
    assert unchanged(rows_by_hand()) == []  # a half of the tokens may be enough
    assert unchanged(rows_by_hand(), below=1.0) == ["inert at 50%, seed 0", "inert at 50%, seed 1"]


def test_the_full_cache_is_a_line_of_its_own():
    assert FULL.share == 1 and replace(FULL) == FULL and copy.copy(FULL).key == FULL.key
