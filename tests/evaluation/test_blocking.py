"""Hiding by scene, layer and head is what decoding under a `Block` gives, video by video."""

from __future__ import annotations

import pytest
import torch

from dycoke_lab import Block, capture_attention, load_model
from dycoke_lab.evaluation.blocking import (
    aim_of,
    answers,
    frames_of,
    head_aims,
    head_losses,
    layer_losses,
    part_of,
    scene_losses,
)
from dycoke_lab.evaluation.first_look import by_step, kinds_of_steps, look_again
from dycoke_lab.evaluation.grids import answer_task
from dycoke_lab.specimen.tasks import make_task


@pytest.fixture(scope="module")
def constructed():
    return load_model("constructed", 0)[0], make_task("describe", 4, 2)


def test_each_video_has_its_own_block(constructed):
    model, task = constructed
    blocks = [Block(frames=frames_of(task, n, 1)) for n in range(4)]
    blocks[2] = None
    found = answers(model, task, blocks)
    for n, block in enumerate(blocks):
        one = part_of(task, [n])
        if block is None:
            expected = answer_task(model, one)
        else:
            with block(model):
                expected = answer_task(model, one)
        assert torch.equal(found[n : n + 1], expected)


def test_a_hidden_scene_loses_its_own_words_above_the_layers_that_count(constructed):
    model, task = constructed
    table = (
        scene_losses(model, task, 0, 2).query("from_layer == 2").set_index(["hidden", "words_of"])["changed"]
    )
    assert table[1, 1] > 0.5 and table[2, 2] > 0.5 and table[1, 2] == table[2, 1] == 0


def test_nothing_changes_where_nothing_is_read(constructed):
    model, task = constructed
    changed = layer_losses(model, task).set_index("from_layer")["changed"]
    assert changed[0] > 0.5 and changed[5] == changed[6] == 0 and len(changed) == 7


def test_heads_alone_and_hidden(constructed):
    model, task = constructed
    table = head_losses(model, task, 5)
    assert len(table) == 24 and table["alone"].isna().sum() == 20 and table["hidden"].between(0, 1).all()
    with capture_attention(model, heads="all") as trace:
        answer_task(model, task)
    aims = head_aims(trace, task)
    assert torch.allclose(aims.flatten(), torch.tensor(table["aim"].to_numpy(), dtype=aims.dtype))
    step, sample, layer, head = 1, 2, 3, 0  # one cell by hand
    row = trace.attention[step][layer, head, sample]
    named = task.tokens_of(sample)[1][step]
    assert aim_of(row, named) == pytest.approx(float(row[named].sum() / row.sum()), abs=1e-5)


def test_the_first_look(constructed):
    model, task = constructed
    table, where = look_again(model, task, 2)
    steps = task.answer.shape[1]
    assert len(table) == 4 * steps and where.shape == (steps, task.videos.scene.shape[1])
    assert where.sum(1) == pytest.approx(1, abs=1e-5)
    first = table[table["step"] == 0]
    assert first["first_look"].to_numpy() == pytest.approx(first["own"].to_numpy())
    assert (table["first_look"] <= table["own"] + 1e-9).all()
    lines = by_step(table, ["first_look"])
    assert lines["low"].le(lines["high"]).all() and len(lines) == steps


def test_what_separates_two_steps():
    scene = torch.tensor([0, 0, -1, 1, 1, -1])
    assert kinds_of_steps(scene) == ["first", "same scene", "comma", "new scene", "same scene", "comma"]
