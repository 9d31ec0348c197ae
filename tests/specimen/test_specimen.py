"""Specimens: held-out questions, what each word of an answer names, training that can be interrupted."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from helpers.tiny_specimens import tiny
from transformers import AutoModelForImageTextToText

from dycoke_lab.specimen.specimens import SPECIMENS, Recipe, Stage, specimen_named
from dycoke_lab.specimen.tasks import HELD_OUT, make_task
from dycoke_lab.specimen.train import TrainConfig, Trainer, optimizers, train_and_export
from dycoke_lab.specimen.world import QUESTIONS, SPLITS

NAMES = list(SPECIMENS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("question", QUESTIONS)
def test_the_truth_of_each_word_is_where_the_video_shows_it(name, question):
    task = make_task(question, 6, 3, specimen=name)
    words, world = task.specimen.words, task.specimen.world
    for sample in range(6):
        in_scene, on_actor = task.tokens_of(sample)
        assert in_scene.shape == (task.answer.shape[1], 12 * world.tokens)
        for word, token in enumerate(task.answer[sample].tolist()):
            scene, place = int(task.scene[sample, word]), int(task.actor[sample, word])
            if scene < 0:
                assert words[token] not in world.things or question == "compare"
                assert not in_scene[word].any() and not on_actor[word].any()
                continue
            assert words[token] == world.things[task.videos.label[sample, scene, place]]
            for number in range(12 * world.tokens):
                frame, cell = divmod(number, world.tokens)
                here = task.videos.scene[sample, frame] == scene
                assert in_scene[word, number] == here
                assert on_actor[word, number] == (here and task.videos.actor[sample, frame, cell] == place)
            assert on_actor[word].any()


@pytest.mark.parametrize("name", NAMES)
def test_a_task_asks_what_its_answers_answer(name):
    for question in QUESTIONS:
        task = make_task(question, 5, 4, specimen=name)
        kind, start = task.specimen, len(task.specimen.family.prompt(task.specimen.world, 16))
        before = [kind.words[token] for token in task.ids[0, :start].tolist()]
        assert before == kind.family.prompt(kind.world, 16)
        assert (task.ids[:, :start] == task.ids[:1, :start]).all()
        for sample, shown in enumerate(kind.world.shown(task.videos)):
            text = " ".join(kind.words[token] for token in task.ids[sample, start:].tolist())
            answer = " ".join(kind.words[token] for token in task.answer[sample].tolist())
            pairs, places = itertools.permutations(range(4), 2), range(kind.world.places)
            turns = [kind.world.ask(question, shown, *pair, p) for pair in pairs for p in places]
            fitting = [turn for turn in turns if f"{turn.question} <|assistant|>" == text]
            assert fitting and {f"{turn.answer} <|end|>" for turn in fitting} == {answer}
        counted = sorted(word for part in task.parts for word in part)
        other = [word for word in range(task.answer.shape[1]) if word not in counted]
        assert {kind.words[task.answer[0, word]] for word in other} <= {",", "share", "<|end|>"}


def test_the_same_arguments_give_the_same_task_and_others_another():
    arguments = dict(question="describe", count=2, scenes=2, specimen="footage")
    first, again = make_task(**arguments), make_task(**arguments)
    assert torch.equal(first.videos.pixels, again.videos.pixels) and torch.equal(first.answer, again.answer)
    others = [make_task(**arguments, **change) for change in ({"batch": 1}, {"split": "validation"})]
    for one, two in itertools.combinations([first, *others], 2):
        assert not torch.equal(one.videos.pixels, two.videos.pixels)
    panned = make_task(**arguments, motion="fast pan")
    assert (panned.videos.motion == 2).all()
    other = make_task("actor", 2, 2, specimen="footage-qwen2.5-vl")
    assert torch.equal(other.videos.pixels, first.videos.pixels)  # all are asked about the same videos


def test_no_two_batches_and_no_training_step_share_a_seed():
    batches = range(0, 2000)
    seeds = [
        start + 10 * batch + scenes for start in HELD_OUT.values() for batch in batches for scenes in (2, 5)
    ]
    assert len(seeds) == len(set(seeds)) == 2 * 2000 * 2
    assert set(HELD_OUT) == set(SPLITS) - {"train"}
    steps = max(specimen.recipe.steps for specimen in SPECIMENS.values())
    assert 1_000 * 1_000_003 + steps < min(seeds)  # of 1,000 specimens


def test_what_a_task_cannot_be_is_named():
    for wrong, message in (
        (
            dict(question="count", count=1, scenes=2),
            "question='count' must be one of describe, actor, compare",
        ),
        (dict(question="actor", count=1, scenes=9), r"scenes=9 must be one of \(2, 3, 4, 5\)"),
        (
            dict(question="actor", count=1, scenes=2, split="train"),
            "split='train' must be one of test, valid",
        ),
        (
            dict(question="actor", count=1, scenes=2, specimen="x"),
            "specimen='x' must be one of constructed, ",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make_task(**wrong)
    with pytest.raises(ValueError, match="specimen='specimen' must be one of constructed, footage"):
        specimen_named("specimen")


@pytest.mark.parametrize("name", NAMES)
def test_a_specimens_vocabulary_has_each_word_once(name):
    specimen = SPECIMENS[name]
    words = [*specimen.family.special, *specimen.world.words]
    assert specimen.words == words and len(set(words)) == len(words)
    text = ["describe", "the", ",", "<|end|>"]
    assert specimen.encode(" ".join(text)) == [words.index(word) for word in text]


@pytest.mark.parametrize("name", NAMES)
def test_muon_trains_the_matrices_of_both_stacks_and_adam_all_else_that_is_trained(name):
    specimen = tiny(name)
    model = specimen.build()
    if specimen.restrict:
        specimen.restrict(model)
    adam, muon = (
        {id(p) for group in one.param_groups for p in group["params"]}
        for one in optimizers(model, specimen.recipe)
    )
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    assert adam | muon == trained and not adam & muon
    stacks = [model.model.language_model.layers]
    tower = model.model.visual.blocks if "qwen" in name else model.model.vision_tower.encoder.layers
    inside = {id(p) for stack in (*stacks, tower) for p in stack.parameters() if p.ndim == 2}
    assert muon == inside & trained and len(muon) > 20


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(name, tmp_path, monkeypatch):
    monkeypatch.setitem(SPECIMENS, name, tiny(name))
    config = TrainConfig(name, seed=3, steps=4, batch=2, device="cpu")
    whole = Trainer(config, tmp_path / "whole").run(progress=False).state_dict()
    stopped = Trainer(config, tmp_path / "stopped")
    step = stopped._train_step

    def interrupted():
        if stopped.step == 2:
            raise KeyboardInterrupt
        return step()

    monkeypatch.setattr(stopped, "_train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stopped.run(progress=False)
    again = Trainer(config, tmp_path / "stopped")
    assert again.step == 2 and again.began == stopped.began
    resumed = again.run(progress=False).state_dict()
    assert all(torch.equal(whole[part], resumed[part]) for part in whole)
    fresh = Trainer(config, tmp_path / "new").model.state_dict()
    still = {part for part in whole if torch.equal(whole[part], fresh[part])}
    if name == "constructed":
        ends = ("layers.2.self_attn.o_proj.weight", "out_proj.weight", "out_proj.bias")
        frozen = [part for part in whole if part.endswith(ends)]
        assert len(frozen) == 5 and not any(whole[part].any() for part in frozen)  # no optimizer moves them
        assert still >= set(frozen)
    else:
        assert not any("layers" in part or "blocks" in part for part in still)  # all of it is trained
    with pytest.raises(ValueError, match="holds a run with other settings"):
        Trainer(TrainConfig(name, seed=4, steps=4, batch=2), tmp_path / "stopped")


def test_a_stage_ends_when_it_is_passed_or_patience_is_over(tmp_path, monkeypatch):
    stages = (Stage((1,), 2, cadence=1, pass_mark=2.0), Stage((2,), 3, pass_mark=-1.0), Stage((3,), 1))
    specimen = tiny("footage", recipe=Recipe(stages, steps=9, patience=2))
    monkeypatch.setitem(SPECIMENS, "footage", specimen)
    trainer, shapes = Trainer(TrainConfig("footage", device="cpu"), tmp_path), []

    def note(module, args, given):
        shapes.append(given["pixel_values_videos"].shape[:2])

    trainer.model.register_forward_pre_hook(note, with_kwargs=True)
    records = [trainer._train_step() for _ in range(4)]
    trainer.since = 100  # a stage lasts at least 60 steps if patience allows
    trainer.recipe = Recipe(stages, patience=10_000)
    records += [trainer._train_step() for _ in range(2)]
    assert [record["stage"] for record in records] == [0, 0, 0, 1, 1, 2]
    assert [record["scenes"] for record in records] == [1, 1, 1, 2, 2, 3]
    assert shapes == [(2, 1)] * 3 + [(3, 8)] * 2 + [(1, 12)]


def test_train_and_export_writes_a_checkpoint_with_its_log(tmp_path, monkeypatch):
    monkeypatch.setitem(SPECIMENS, "constructed", tiny("constructed"))
    config = TrainConfig(seed=3, steps=20, batch=1, device="cpu")  # the log gets a line every 20 steps
    train_and_export(config, tmp_path / "run", tmp_path / "made")
    about = json.loads((tmp_path / "made" / "training.json").read_text())
    assert about["config"]["steps"] == 20 and "commit" in about["began"]
    assert about["config"]["specimen"] == "constructed" and about["recipe"]["patience"] == 1200
    assert about["precision"] in ("float32", "bfloat16")
    assert set(about["sha256"]) >= {"config.json", "log.jsonl", "model.safetensors"}
    (line,) = (tmp_path / "made" / "log.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 20
    AutoModelForImageTextToText.from_pretrained(tmp_path / "made")


def test_an_unknown_specimen_is_not_trained(tmp_path):
    with pytest.raises(ValueError, match="specimen='specimen' must be one of"):
        Trainer(TrainConfig("specimen"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
