"""Grids of settings: rows are what `generate` writes, prefills are shared, an interrupted grid continues."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from helpers.tiny_specimens import tiny

from dycoke_lab.attention.coverage import chosen
from dycoke_lab.evaluation import grids
from dycoke_lab.evaluation.grids import BatchRuns, answer_task, read_grid, run_grid, specimen_accuracy
from dycoke_lab.evaluation.settings import EvaluationConfig, combinations, evidence_grid, sweep_grid
from dycoke_lab.methods import METHODS, PUBLISHED, TTM, Dynamic, Random, Selector, compose
from dycoke_lab.results.rows import ROWS, RowStore
from dycoke_lab.specimen.specimens import SPECIMENS
from dycoke_lab.specimen.tasks import make_task

NAMES = list(SPECIMENS)


@pytest.fixture(scope="module")
def small():
    """A tiny model of each specimen, to whose answers it matters what it attends to."""
    torch.manual_seed(0)
    models = {name: tiny(name).build().eval() for name in NAMES}
    for model in models.values():
        for layer in model.model.language_model.layers:
            for part, times in (("q", 30), ("k", 30), ("v", 10), ("o", 10)):
                getattr(layer.self_attn, f"{part}_proj").weight.data *= times
    return models


def full(merge_ratio: float = 0.0, **fields) -> EvaluationConfig:
    return EvaluationConfig(0, "describe", merge_ratio, 0.0, 0, "full", **fields)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("merge", [dict(merge_ratio=0.0), dict(merge_ratio=0.6), dict(merge_threshold=0.9)])
def test_every_method_answers_as_generate_does(small, name, merge):
    about = replace(full(specimen=name), **merge)
    runs, written = BatchRuns(small[name], about, 3, 0, 2), {}
    for method in ("full", *(method for method in METHODS if method not in ("ttm", *PUBLISHED))):
        settings = {} if method == "full" else dict(prune_ratio=0.8, from_layer=2)
        config = replace(about, method=method, **settings)
        fields = {"future": runs.future(config)} if method == "hindsight" else {}
        expected = answer_task(small[name], runs.task, config.compression(**fields))
        written[method] = runs.answer(config)
        assert torch.equal(written[method], expected), method
    assert len({tuple(ids.flatten().tolist()) for ids in written.values()}) > 3  # else it does not matter
    alone = make_task("describe", 2, 3, specimen=name)
    with torch.inference_mode():
        stock = small[name].generate(alone.ids, **alone.inputs, do_sample=False, max_new_tokens=5)
    if merge == {"merge_ratio": 0.0}:
        assert torch.equal(written["full"][:, :5], stock[:, alone.ids.shape[1] :])


def test_hindsight_knows_the_layers_that_it_is_told(small):
    runs = BatchRuns(small["footage"], full(specimen="footage"), 3, 0, 2)
    config = EvaluationConfig(0, "describe", 0.0, 0.8, 2, "hindsight", specimen="footage")
    layers = torch.stack([step[:, 0] for step in runs._trace.attention[1:]])  # steps, layers, batch, visual
    assert layers.shape[1] > 3
    above, scoring = layers[:, 2:].mean(1).sum(0), layers[:, 1].sum(0)
    torch.testing.assert_close(runs.future(config), above)
    torch.testing.assert_close(runs.future(replace(config, future_of="scoring")), scoring)


def test_a_row_counts_the_right_words_by_part(small, monkeypatch):
    runs = BatchRuns(small["footage"], full(specimen="footage"), 2, 64, 3)
    expected = make_task("describe", 3, 2, batch=1, specimen="footage")  # videos 64 to 66
    written = expected.answer.clone()
    written[0, 0] += 1  # the first scene's first word
    written[1, 3] += 1  # a comma, which is no word
    written[2, 4:] = 0
    monkeypatch.setattr(runs, "answer", lambda config: written)
    row = runs.row(full(specimen="footage"))
    motion = "".join(map(str, expected.videos.motion.tolist()))
    assert row == {
        "scenes": 2, "first": 64, "words": 6, "right": ["23", "33", "30"], "exact": "000", "motion": motion,
        "left": 1.0, "selections": None,
    }  # fmt: skip
    monkeypatch.setattr(runs, "answer", lambda config: expected.answer)
    row = runs.row(full(specimen="footage"))
    assert row["right"] == ["33"] * 3 and row["exact"] == "111"


@pytest.mark.parametrize("below", [-1.0, 0.9, 2.0])
def test_selections_are_counted_by_what_they_change(small, below):
    config = EvaluationConfig(0, "describe", 0.0, 0.8, 2, "dynamic", reselect_below=below, specimen="footage")
    runs = BatchRuns(small["footage"], config, 2, 0, 3)
    kept = chosen(config.compression().selector, runs._trace).tolist()
    changes = [1 + sum(a[video] != b[video] for a, b in pairwise(kept)) for video in range(3)]
    assert runs.selections(config) == pytest.approx(sum(changes) / 3 / len(kept), abs=1e-4)
    assert (changes == [1] * 3) == (below == -1.0)
    assert runs.selections(replace(config, method="uniform")) is None


def test_what_follows_an_end_token_does_not_count(small):
    runs = BatchRuns(small["footage"], full(specimen="footage"), 2, 0, 2)
    pad, end = (runs.task.specimen.ids[word] for word in ("<pad>", "<|end|>"))
    ids = torch.tensor([[5, end, 6, end], [7, 8, 9, end]])
    assert grids.ended(ids, runs.task).tolist() == [[5, end, pad, pad], [7, 8, 9, end]]


def test_batches_cover_all_videos_once():
    for videos in (4, 7, 512):
        batches = grids.batches_of("footage", videos)
        assert sum(size for *_, size in batches) == videos and {scenes for scenes, *_ in batches} == {
            2,
            3,
            4,
            5,
        }
        numbers = [(scenes, first + n) for scenes, first, size in batches for n in range(size)]
        assert len(set(numbers)) == videos and all(first % 64 == 0 for _, first, _ in batches)


def test_the_share_that_merging_retains_is_measured(small):
    def left(**fields):
        config = full(**fields)
        runs = [
            BatchRuns(small["constructed"], config, *batch) for batch in grids.batches_of("constructed", 4)
        ]
        return {run.row(config)["left"] for run in runs}

    assert left(merge_ratio=0.7) == {round((16 + 3 * 5) / 64, 4)}
    assert left(merge_threshold=-1.0) == {0.25} and left() == {1.0}


def test_evaluation_configs_compose_their_methods():
    config = EvaluationConfig(0, "describe", 0.5, 0.7, 2, "dynamic", reselect_below=0.8)
    assert config.compression() == TTM(0.5) + Dynamic(0.7, 2, reselect_below=0.8)
    assert EvaluationConfig(0, "describe", 0.0, 0.7, 2, "random").compression() == compose(
        "random", 0.0, 0.7, 2
    )
    threshold = EvaluationConfig(0, "describe", 0.0, 0.7, 3, "dynamic", merge_threshold=0.9)
    assert threshold.compression() == TTM(threshold=0.9) + Dynamic(0.7, 3)
    assert full().compression().off and full(0.5).compression().parts == (TTM(0.5),)


@pytest.mark.parametrize("name", NAMES)
def test_grids_have_each_setting_once(name):
    n = (
        sum(issubclass(kind, Selector) for n, kind in METHODS.items() if n not in PUBLISHED) - 1
    )  # but for keep_none
    if name == "constructed":  # all; P = .95; other L; other questions
        evidence = 3 * (2 * (n + 2) + 1) + 3 * 7 + 4 * 5 + 2 * (2 * 6 + 2)
    else:  # by L: P and methods, and once what keeps nothing; of each K: the full cache
        merged = 4 if name == "footage" else 2  # P after merging: of seed 0 of footage all
        layers, more = (11, 2) if name == "footage" else (5, 0)  # L at K = .5; other K
        main = 11 * (4 * n + 1) + 1 + layers * (merged * n + 1) + 1
        merging, short = more * (5 * (merged * n + 1) + 1), 4 * (5 * (2 * n + 1) + 1)
        evidence = main + merging + short + 2 * 5 * 2  # FastV
    sweep = 10 * 7 + 2 * 11 if name == "constructed" else 10 + 3 * 2 * 9 + 11 * 2 * 2
    # K, similarity; K, and L x P of how often and of hindsight
    for configs, number in ((sweep_grid(0, name), sweep), (evidence_grid(0, name), evidence)):
        assert len(configs) == len(set(configs)) == number
        assert {config.specimen for config in configs} == {name}
        assert all(config.method == "hindsight" or config.compression() for config in configs)


def test_combinations_hold_the_full_cache_once_per_merge_ratio():
    configs = combinations([0, 1], merge=(0.0, 0.5), prune=(0.7, 0.9), methods=("dynamic", "random"))
    assert len(configs) == 2 * 2 * (2 * 2 + 1) and sum(config.method == "full" for config in configs) == 4


def test_evaluation_configs_take_a_method_by_its_name():
    with pytest.raises(
        TypeError, match=r"must be a name, which rows can hold: add yours to dycoke_lab\.METHODS"
    ):
        EvaluationConfig(0, "describe", 0.5, 0.7, 3, Random())


@pytest.fixture
def loaded(small, monkeypatch):
    """Which models have been loaded, one after the other."""
    names = []

    def load(name, seed):
        names.append((name, seed))
        return small[name], None

    monkeypatch.setattr(grids, "load_model", load)
    return names


def test_run_grid_continues_after_a_kill_and_leaves_a_finished_run_alone(tmp_path, monkeypatch, loaded):
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
    with RowStore(folder, videos=4) as store:
        store.pack()
    assert read_grid(folder).equals(whole)
    with pytest.raises(FileExistsError, match="finished run"):
        run_grid(configs, 4, folder, progress=False)


def test_run_grid_runs_what_is_missing_and_no_more(tmp_path, monkeypatch, loaded):
    prefills = []
    stock = grids.SharedPrefill

    def count(*given):
        prefills.append(given)
        return stock(*given)

    monkeypatch.setattr(grids, "SharedPrefill", count)
    some = combinations([0], merge=(0.0, 0.5), prune=(0.7,), layers=(2,), methods=("random", "dynamic"))
    run_grid(some[:2], 6, tmp_path, progress=False)
    assert loaded == [("constructed", 0)] and len(prefills) == 4  # one for each number of scenes
    run_grid(some, 6, tmp_path, progress=False)
    assert len(prefills) == 4 + 4 * len({config.prefill for config in some if config not in some[:2]})
    lines = [json.loads(line) for line in (tmp_path / ROWS).read_text().splitlines()]
    keys = [(*row["config"].values(), row["scenes"], row["first"]) for row in lines]
    assert len(keys) == len(set(keys)) == 4 * len(some)
    run_grid(some, 6, tmp_path, progress=False)  # nothing is left to do
    assert len(loaded) == 2


def test_read_grid_has_a_row_for_each_video(tmp_path, loaded):
    settings = [full(), full(specimen="footage"), EvaluationConfig(0, "actor", 0.5, 0.7, 2, "uniform")]
    rows = run_grid(settings, 7, tmp_path / "seed-0", progress=False)
    assert len(rows) == 3 * 7 and len(loaded) == 3
    by_config = dict(list(rows.groupby("config")))
    assert len(by_config) == 3
    for text, group in by_config.items():
        config = EvaluationConfig(**json.loads(text))
        assert sorted(group["video"]) == sorted(
            f"{scenes}-{first + n}"
            for scenes, first, size in grids.batches_of("footage", 7)
            for n in range(size)
        )
        assert {group[name].iloc[0] for name in ("specimen", "method")} == {config.specimen, config.method}
        for scenes, part in group.groupby("scenes"):
            run = BatchRuns(grids.load_model(config.specimen, 0)[0], config, scenes, 0, len(part)).row(config)
            assert part["right"].tolist() == run["right"]
            assert "".join(map(str, part["exact"])) == run["exact"]
            assert "".join(map(str, part["motion"])) == run["motion"]
            assert set(part["words"]) == {run["words"]} and set(part["left"]) == {run["left"]}
    run_grid([replace(full(), seed=1)], 7, tmp_path / "seed-1", progress=False)
    assert len(read_grid(tmp_path)) == 4 * 7 and set(read_grid(tmp_path)["seed"]) == {0, 1}
    with pytest.raises(FileNotFoundError):
        read_grid(tmp_path / "none")


def test_run_grid_wants_a_video_for_each_number_of_scenes(tmp_path):
    with pytest.raises(ValueError, match="videos=3 must be at least 4"):
        run_grid([full()], 3, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_specimen_accuracy_counts_words_and_whole_answers(monkeypatch, loaded):
    monkeypatch.setattr(grids, "specimen_names", lambda: ["constructed", "footage"])
    monkeypatch.setattr(grids, "specimen_seeds", lambda name: [0, 1] if name == "constructed" else [0])

    def answer(runs, config):
        """The right answer, but for the first word of each second video."""
        assert config.method == "full" and not config.compression().parts
        written = runs.task.answer.clone()
        written[1::2, 0] = 0
        return written

    monkeypatch.setattr(BatchRuns, "answer", answer)
    table = {}
    for row in specimen_accuracy(8):
        assert row.pop("videos") == (8 if row["scenes"] == "all" else 2)
        key = tuple(row.pop(name) for name in ("specimen", "seed", "question", "scenes"))
        table[key] = (row.pop("words"), row.pop("exact"))
        assert not row
    assert loaded == [("constructed", 0), ("constructed", 1), ("footage", 0)]
    assert len(table) == 3 * 3 * 5
    for (name, _, question, scenes), (words, exact) in table.items():
        places, compared = (4, 9) if name == "constructed" else (3, 3)
        numbers = (2, 3, 4, 5) if scenes == "all" else (scenes,)
        sizes = [{"describe": places * n, "actor": 1, "compare": compared}[question] for n in numbers]
        assert exact == 0.5 and words == pytest.approx(1 - len(sizes) / (2 * sum(sizes)))
