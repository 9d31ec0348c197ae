"""Questions in one row of tokens are to a model in training what separate prompts are to one in use."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from helpers.tiny_specimens import inputs_of, tiny

from dycoke_lab.models import decoder_of
from dycoke_lab.specimen.packing import pack
from dycoke_lab.specimen.specimens import SPECIMENS, Recipe, Stage
from dycoke_lab.specimen.train import TrainConfig, Trainer

NAMES = list(SPECIMENS)


def questions(specimen, ids, start):
    """The columns of each question with its answer, which ends it."""
    ends = (ids[start:] == specimen.ids["<|end|>"]).nonzero()[:, 0] + start + 1
    starts = [start, *ends.tolist()]
    assert starts[-1] == len(ids)
    return [range(*pair) for pair in pairwise(starts)]


def packed(name, count, scenes, seed=5):
    specimen, generator = SPECIMENS[name], torch.Generator().manual_seed(seed)
    videos = specimen.world.draw(count, scenes, generator)
    start = len(specimen.family.prompt(specimen.world, videos.scene.shape[1]))
    return specimen, videos, start, pack(videos, specimen, torch.arange(start)[None], generator)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scenes", [1, 4])
def test_the_questions_of_a_pack_are_right(name, scenes):
    specimen, videos, start, pack = packed(name, 3, scenes)
    world, words = specimen.world, specimen.words
    for sample, shown in enumerate(world.shown(videos)):
        row, asked, wanted = pack.ids[sample].tolist(), [], [-100] * pack.targets.shape[1]
        for columns in questions(specimen, pack.ids[sample], start):
            text = [words[row[column]] for column in columns]
            turn = text.index("<|assistant|>") + 1
            asked.append((" ".join(text[: turn - 1]), " ".join(text[turn:-1])))
            for column in columns[turn:]:
                wanted[column - 1 - start] = row[column]  # which the column before it should predict
        assert pack.targets[sample].tolist() == wanted

        def turns(kind, scenes=scenes, shown=shown):
            pairs = [(a, b) for a in range(scenes) for b in range(scenes) if a != b or scenes == 1]
            found = [world.ask(kind, shown, *pair, place) for pair in pairs for place in range(world.places)]
            return {(turn.question, turn.answer) for turn in found}

        assert {asked[0]} == turns("describe") and asked[-1] in turns("compare")
        for place, pair in enumerate(asked[1:-1]):
            own = [world.ask("actor", shown, scene, 0, place) for scene in range(scenes)]
            assert pair in {(turn.question, turn.answer) for turn in own}
        assert len(asked) == 2 + world.places
        described = [words[token] for token in pack.targets[sample, pack.describe].tolist()]
        assert described == [word for scene in shown for word in scene]


@pytest.mark.parametrize("name", NAMES)
def test_a_question_attends_to_the_video_and_to_itself_alone(name):
    specimen, _, start, pack = packed(name, 2, 3)
    mask = pack.mask[0, 0]
    assert mask.shape == (pack.ids.shape[1],) * 2
    for row in range(start):
        assert (mask[row, : row + 1] == 0).all() and (mask[row, row + 1 :] < -1000).all()
    for columns in questions(specimen, pack.ids[0], start):
        for row in columns:
            seen = (mask[row] == 0).nonzero()[:, 0].tolist()
            assert seen == [*range(start), *range(columns.start, row + 1)]
            assert (mask[row][mask[row] != 0] < -1000).all()


@pytest.mark.parametrize("name", NAMES)
def test_positions_of_a_prompt_are_those_of_its_family(name):
    """Qwen2.5-VL: frame, row and column, from where the video begins; text goes on after the longer side."""
    specimen = tiny(name)
    side = specimen.world.grid
    found = specimen.family.positions(specimen.build(), specimen.world, 9).T.tolist()
    if "qwen" not in name:
        assert found == [[n] for n in range(9 * side**2 + 2)]
        return
    places = [(frame, row, col) for frame in range(9) for row in range(side) for col in range(side)]
    video = [[2 + part for part in place] for place in places]  # a frame is one on from the frame before
    assert found == [[0] * 3, [1] * 3, *video, [2 + side] * 3]


def separate(model, given, answer):
    """The logits before each token of an answer that `generate` is made to write."""

    def forced(ids, scores):
        token = answer[:, ids.shape[1] - given["input_ids"].shape[1]]
        return torch.full_like(scores, -torch.inf).scatter(1, token[:, None], 0)

    logits = []  # as the model gives them: `generate` rounds its own to float32
    hook = model.register_forward_hook(lambda module, args, out: logits.append(out.logits[:, -1]))
    length = answer.shape[1]
    model.generate(**given, logits_processor=[forced], max_new_tokens=length, do_sample=False)
    hook.remove()
    return torch.stack(logits, 1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scenes", [1, 2, 5])
def test_a_training_steps_logits_are_those_of_separate_prompts(name, scenes, tmp_path, monkeypatch):
    """Positions, mask and attention: those of training, and those of `generate`. With five scenes,
    Qwen2.5-VL's video reaches beyond the question's positions."""
    specimen = tiny(name, recipe=Recipe((Stage((scenes,), 2),)))
    monkeypatch.setitem(SPECIMENS, name, specimen)
    trainer = Trainer(TrainConfig(name, seed=3, steps=1, device="cpu"), tmp_path)
    trainer.precision = "float32"  # no autocast
    model = trainer.model.double()
    with torch.no_grad():  # uneven attention, so that wrong positions show
        for layer in decoder_of(model).layers:
            layer.self_attn.q_proj.weight *= 8
            layer.self_attn.k_proj.weight *= 8
    stock, kept = copy.deepcopy(model), {}
    stock.set_attn_implementation("sdpa")
    draw = specimen.world.draw

    def drawn(*given, **how):
        kept["videos"] = draw(*given, **how)
        return kept["videos"]

    object.__setattr__(specimen, "world", copy.copy(specimen.world))
    object.__setattr__(specimen.world, "draw", drawn)

    def before(module, args, given):
        given["pixel_values_videos"] = given["pixel_values_videos"].double()
        kept["ids"] = given["input_ids"]
        return args, given

    model.register_forward_pre_hook(before, with_kwargs=True)
    model.register_forward_hook(lambda module, args, out: kept.update(logits=out.logits.detach().clone()))
    trainer._train_step()

    videos, ids = kept["videos"], kept["ids"]
    start = len(specimen.family.prompt(specimen.world, videos.scene.shape[1]))
    logits = torch.cat([torch.zeros(2, start, kept["logits"].shape[2]), kept["logits"]], 1)
    for columns in questions(specimen, ids[0], start):
        turn = ids[0, columns].tolist().index(specimen.ids["<|assistant|>"]) + 1
        prompt = torch.cat([ids[:, :start], ids[:, columns][:, :turn]], 1)
        expected = separate(stock, inputs_of(specimen, videos, prompt), ids[:, columns][:, turn:])
        found = logits[:, columns][:, turn - 1 : -1]
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)
        assert found.std() > 0.01
