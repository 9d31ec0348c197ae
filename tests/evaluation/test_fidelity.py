"""Fidelity: measures by plain loops over real decoding steps, settings, rows, and methods from a file."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass

import pytest
import torch
from helpers.tiny import FAMILY, cache_of, inputs_of, writing_words

from dycoke_lab.evaluation import fidelity
from dycoke_lab.evaluation.fidelity import (
    Setting,
    class_from,
    fidelity_rows,
    fidelity_summary,
    measure,
    methods_for,
    reference,
    run_fidelity,
    steps_table,
)
from dycoke_lab.methods import METHODS, PUBLISHED, TTM, Assignment, Dynamic, FastV, LastQuery, Merger, compose
from dycoke_lab.results.rows import read_rows

STEPS = 6
SETTINGS = [
    Setting("dynamic", 0.3, 2),
    Setting("last_query", 0.1, 1),
    Setting("last_query", 0.2, 2, merge_ratio=0.5),
    Setting("fastv", 0.2, 1),
    Setting("fastv", 0.4, 2, merge_ratio=0.5),
    Setting("keep_none", 0.5, 1),
    Setting("ttm", 0.4),
]


@pytest.fixture(scope="module")
def speaking(tiny):
    with writing_words(tiny):
        yield tiny


@pytest.fixture(scope="module")
def ref(speaking):
    return reference(speaking, inputs_of(), STEPS)


def stepped(model, answer, compression):
    """The log probabilities before each token of an answer, by stock steps on a cache."""
    with compression(model), torch.no_grad():
        cache = cache_of(model)
        logits = [model(**inputs_of(), past_key_values=cache).logits[0, -1].tolist()]
        for token in answer[0, :-1]:
            logits.append(model(input_ids=token.view(1, 1), past_key_values=cache).logits[0, -1].tolist())
    whole = [math.log(sum(math.exp(x - max(row)) for x in row)) + max(row) for row in logits]
    return [[x - total for x in row] for row, total in zip(logits, whole, strict=True)]


def test_the_reference_is_the_full_caches_answer(speaking, ref):
    ids = speaking.generate(**inputs_of(), do_sample=False, max_new_tokens=STEPS)
    assert torch.equal(ref.answer, ids[:, -STEPS:])
    expected = torch.tensor(stepped(speaking, ref.answer, compose("full")), dtype=torch.float64)
    torch.testing.assert_close(ref.logits[0].double().log_softmax(-1), expected, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="inputs holds 2 prompts: give one"):
        reference(speaking, inputs_of(batch=2), 2)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_measures_equal_plain_loops_over_real_steps(speaking, ref, setting):
    compression = setting.compression()
    found = measure(speaking, ref, compression)
    full, other = (stepped(speaking, ref.answer, c) for c in (compose("full"), compression))
    tokens = ref.answer[0].tolist()
    for step, (token, p, q) in enumerate(zip(tokens, full, other, strict=True)):
        there = [(a, b) for a, b in zip(p, q, strict=True) if a > -1e6]  # but what is never written
        kl = sum(math.exp(a) * (a - b) for a, b in there)
        assert found["kl"][step] == pytest.approx(kl, abs=2e-5)
        assert found["rank"][step] == 1 + sum(value > q[token] for value in q)
        assert found["agrees"][step] == str(int(max(range(len(q)), key=q.__getitem__) == token))
    assert len(found["kl"]) == len(found["agrees"]) == len(found["rank"]) == STEPS
    assert max(found["kl"]) > 1e-3
    with compression(speaking):
        free = speaking.generate(**inputs_of(), do_sample=False, max_new_tokens=STEPS)[0, -STEPS:].tolist()
    assert found["free"] == free
    differing = [n for n, (one, two) in enumerate(zip(free, tokens, strict=True)) if one != two]
    assert found["departs"] == (differing[0] if differing else None)


def test_some_of_these_settings_agree_and_others_depart(speaking, ref):
    found = [measure(speaking, ref, setting.compression()) for setting in SETTINGS]
    assert "0" in "".join(row["agrees"] for row in found) and "1" in "".join(row["agrees"] for row in found)
    assert max(max(row["rank"]) for row in found) > 3
    assert any(row["departs"] is not None for row in found)


@pytest.mark.parametrize(
    "method", ["full", *(name for name in METHODS if name not in ("hindsight", "keep_none", *PUBLISHED))]
)
def test_what_keeps_all_tokens_is_the_full_cache(speaking, ref, method):
    found = measure(speaking, ref, Setting(method, 0.9999, 2).compression())
    assert found["kl"] == [0.0] * STEPS and found["rank"] == [1] * STEPS and found["agrees"] == "1" * STEPS
    assert found["departs"] is None and found["free"] == ref.answer[0].tolist()


@pytest.mark.parametrize(
    ("written", "departs", "own"),
    [
        ([5, 6, 9], None, [5, 6, 9]),
        ([5, 7, 9], 1, [5, 7, 9]),
        ([5, 9, 6], 1, [5, 9]),
        ([5, 6, 7], 2, [5, 6, 7]),
        ([9, 5, 9], 0, [9]),
    ],
)
def test_an_answer_departs_where_its_first_other_token_is(speaking, ref, monkeypatch, written, departs, own):
    """The reference ends with its third token, the end token 9."""
    answer, logits = torch.tensor([[5, 6, 9]]), torch.randn(1, 3, 20)
    ended = fidelity.Reference(ref.shared, ref.inputs, answer, logits)
    monkeypatch.setattr(speaking.generation_config, "eos_token_id", 9)
    monkeypatch.setattr(fidelity, "_runs", lambda *_: (logits, torch.tensor([written]), 1.0))
    found = measure(speaking, ended, compose("full"))
    assert found["departs"] == departs and found["free"] == own and found["kl"] == [0.0] * 3


def test_a_setting_keeps_a_share_of_the_tokens():
    assert Setting("dynamic", 0.25, 4).compression() == compose("full") + Dynamic(0.75, 4)
    assert Setting("last_query", 0.5, 2, 0.3).compression() == TTM(0.3) + LastQuery(0.5, 2)
    assert Setting("fastv", 0.25).compression().parts == (FastV(0.75, 3),)
    assert Setting("full", 0.5).compression().off
    (merger,) = Setting("ttm", 0.4).compression().parts
    assert isinstance(merger, TTM) and merger.merge_ratio == pytest.approx(0.8)  # of three in four frames
    for kept in (0, 1, -0.5, 1.5):
        with pytest.raises(ValueError, match=rf"kept={kept} must be above 0 and below 1"):
            Setting("dynamic", kept).compression()
    with pytest.raises(ValueError, match=r"kept=0\.2: ttm keeps at least 0\.25 of the tokens"):
        Setting("ttm", 0.2).compression()
    with pytest.raises(ValueError, match="method='magic' must be one of"):
        Setting("magic", 0.5).compression()


def test_ttm_keeps_the_share_that_its_setting_says(speaking):
    shared = fidelity.SharedPrefill(speaking, inputs_of(), Setting("ttm", 0.4375).compression())
    assert float(shared.retained.float().mean()) == 0.4375


@dataclass(frozen=True)
class EveryOther(Merger):
    """A merger of one's own."""

    def merge(self, video):
        tokens = video.features.flatten(1, 3)
        return Assignment.keep((torch.arange(tokens.shape[1]) % 2 == 0).expand(len(tokens), -1))


def test_a_merger_of_ones_own_is_measured_itself_or_refused(monkeypatch):
    monkeypatch.setitem(METHODS, "every_other", EveryOther)
    with suppress(ValueError):
        assert Setting("every_other", 0.5).compression().parts == (EveryOther(),)


def test_rows_say_what_was_written(speaking):
    processor, settings = FAMILY.processor(), SETTINGS[:4]
    rows = list(fidelity_rows(speaking, processor, inputs_of(), settings, STEPS))
    ref = reference(speaking, inputs_of(), STEPS)

    def text(ids):
        return processor.tokenizer.decode(ids, skip_special_tokens=True).strip()

    assert [Setting(**row["setting"]) for row in rows] == settings
    for row, setting in zip(rows, settings, strict=True):
        found = measure(speaking, ref, setting.compression())
        assert row["text"] == text(found.pop("free")) and row["reference"] == text(ref.answer[0])
        assert {name: row[name] for name in found} == found
        one, two = row["reference"].split(), row["text"].split()
        assert row["words"] == len(one)
        if len(one) == len(two):
            assert row["changed"] == sum(a != b for a, b in zip(one, two, strict=True))
    assert any(row["changed"] for row in rows)


def made_up(video, method, kept, kl, agrees, departs, changed):
    setting = {"method": method, "kept": kept, "from_layer": 3, "merge_ratio": 0.0}
    rank = [1 if digit == "1" else 4 for digit in agrees]
    about = {"video": video, "setting": setting, "reference": "a b c", "text": "a b c", "words": 4}
    return {**about, "kl": kl, "agrees": agrees, "rank": rank, "departs": departs, "changed": changed}


ROWS = [
    made_up("a.mp4", "dynamic", 0.5, [0.0, 0.2], "11", None, 0),
    made_up("b.mp4", "dynamic", 0.5, [0.1, 0.1, 0.8], "110", 2, 3),
    made_up("a.mp4", "random", 0.25, [2.0, 2.2], "00", 0, 4),
]


def test_steps_are_a_row_for_each_token():
    table = steps_table(ROWS)
    assert len(table) == 7
    second = table[(table["video"] == "b.mp4") & (table["step"] == 2)].iloc[0]
    assert (second["kl"], second["agrees"], second["rank"], second["method"]) == (0.8, 0, 4, "dynamic")
    assert table.groupby("video")["step"].max().tolist() == [1, 2]


def test_the_summary_is_of_tokens_answers_and_words():
    table = fidelity_summary(ROWS).set_index(["method", "kept"])
    dynamic, random = table.loc["dynamic (DyCoke)", 0.5], table.loc["random", 0.25]
    assert dynamic["videos"] == 2 and random["videos"] == 1
    assert dynamic["same choice, %"].startswith("80.0 [") and dynamic["KL"].startswith("0.240 [")
    assert dynamic["same answer, %"].startswith("50.0 [") and dynamic["words changed, %"].startswith("37.5 [")
    names = ("same choice, %", "KL", "same answer, %", "words changed, %")
    assert [random[name] for name in names] == ["0.0", "2.100", "0.0", "100.0"]  # one video: no interval


def test_a_finished_video_and_setting_is_not_run_again(speaking, tmp_path, monkeypatch):
    asked = []

    def rows(model, processor, inputs, settings, max_new_tokens):
        asked.append((inputs, [setting.method for setting in settings]))
        for setting in settings:
            row = made_up("", setting.method, setting.kept, [0.0], "1", None, 0)
            yield {**{k: v for k, v in row.items() if k != "video"}, "setting": vars(setting)}

    monkeypatch.setattr(fidelity, "fidelity_rows", rows)
    run = [speaking, None, ["a.mp4", "b.mp4"], lambda path: path.name]
    one, two = Setting("dynamic", 0.5), Setting("random", 0.5)
    found = run_fidelity(*run, [one], tmp_path / "out", about={"model": "m"})
    assert asked == [("a.mp4", ["dynamic"]), ("b.mp4", ["dynamic"])]
    assert [(row["video"], row["setting"]["method"]) for row in found] == [
        ("a.mp4", "dynamic"),
        ("b.mp4", "dynamic"),
    ]
    found = run_fidelity(*run, [one, two], tmp_path / "out", about={"model": "m"})
    assert asked[2:] == [("a.mp4", ["random"]), ("b.mp4", ["random"])] and len(found) == 4
    assert len(run_fidelity(*run, [two], tmp_path / "out", about={"model": "m"})) == 2 and len(asked) == 4
    with pytest.raises(ValueError, match="holds a run with model='m', not 'other'"):
        run_fidelity(*run, [one], tmp_path / "out", about={"model": "other"})


def test_a_row_is_saved_before_the_next_setting_is_run(tmp_path, monkeypatch):
    def rows(model, processor, inputs, settings, max_new_tokens):
        yield {"setting": vars(settings[0])}
        assert [row["setting"] for row in read_rows(tmp_path)] == [vars(settings[0])]
        raise KeyboardInterrupt

    monkeypatch.setattr(fidelity, "fidelity_rows", rows)
    settings = [Setting("dynamic", 0.5), Setting("random", 0.5)]
    with pytest.raises(KeyboardInterrupt):
        run_fidelity(None, None, ["a.mp4"], str, settings, tmp_path)
    assert len(read_rows(tmp_path)) == 1


@pytest.mark.parametrize("family", ["llava_onevision", "gemma3"], indirect=True)
def test_methods_are_those_that_a_model_can_have(family, model):
    names = methods_for(2, model)
    assert {"dynamic", "last_query", "random"} <= set(names) <= set(METHODS) - {"hindsight", "ttm"}
    assert ("fastv" in names) == (family.name == "llava_onevision")


def test_a_method_is_taken_from_a_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from dycoke_lab.methods import LastQuery\nclass Mine(LastQuery):\n    label = 'mine'\nnumber = 3\n"
    )
    name, found = class_from(f"{path}:Mine")
    assert name == "Mine" and issubclass(found, LastQuery) and found(0.5, 2).label == "mine"
    gone = tmp_path / "gone.py"
    for place, message in (
        (f"{path}:Yours", "mine.py has no method called Yours"),
        (f"{path}:number", "mine.py has no method called number"),
        (f"{gone}:Mine", "gone.py is no Python file; write file.py:Class"),
        (str(path), "is no Python file; write file.py:Class"),
        ("dynamic", "method='dynamic': dynamic is no Python file"),
        (f"{tmp_path}:Mine", "is no Python file"),
    ):
        with pytest.raises(ValueError, match=message):
            class_from(place)
