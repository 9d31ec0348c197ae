"""Blocking by clicks: what is hidden, what the model then writes, what is marked, and the way back."""

from __future__ import annotations

import html

import numpy as np
import pytest
import torch
from PIL import Image

from dycoke_lab.attention.blocking import Block
from dycoke_lab.methods import Compression
from dycoke_lab.viz.clip_runs import ClipRunner
from dycoke_lab.viz.frames import block_view, places, png
from dycoke_lab.viz.frames.block_view import hidden_tokens
from dycoke_lab.viz.frames.page import hit
from dycoke_lab.viz.plots import CHANGED
from dycoke_lab.viz.widgets import BlockExplorer
from dycoke_lab.viz.widgets.block_explorer import block_of, part_of

CLIP, LONG, FOOTAGE = "constructed-2-scenes.mp4", "constructed-5-scenes.mp4", "footage-still.mp4"


@pytest.fixture(scope="module")
def runner():
    return ClipRunner()


def click(panel, what, number, across=0.5, down=0.5):
    """Write what the page writes after a click in this part of the picture."""
    left, top, right, bottom = next(p.box for p in panel.places if (p.what, p.number) == (what, number))
    x, y = left + across * (right - left), top + down * (bottom - top)
    panel.click.value = f"{x / panel.size[0]} {y / panel.size[1]} {len(panel.history)}-{x}".replace("-", "")
    panel.wait()


def test_the_run_equals_generate_inside_the_block(runner):
    clip, model = runner.clip(CLIP), runner.model(CLIP)
    block = Block([0, 1, 2])
    with block(model):
        ids = model.generate(**clip.inputs)[0, clip.inputs["input_ids"].shape[1] :]
    run = runner.blocked(CLIP, block)
    assert len(run.words) == len(ids) == len(run.trace)
    assert run.words != runner.run(CLIP, Compression()).words
    assert runner.blocked(CLIP, Block((0, 1, 2))) is run is runner.known(CLIP, block)
    hidden = hidden_tokens(clip, block).flatten()
    assert run.trace.stack(0)[1:, hidden].abs().max() == 0 < run.trace.stack(0)[1:, ~hidden].min()


def test_hiding_a_scene_changes_words_of_this_scene_only(runner):
    panel = BlockExplorer(runner, LONG, unit="scene")
    panel.wait()
    clip = runner.clip(LONG)
    frame = int((clip.scene == 2).nonzero()[0])
    click(panel, "frame", frame)
    assert panel.block == Block((clip.scene == 2).nonzero()[:, 0].tolist())
    changed = [at for at, pair in enumerate(zip(panel.run.words, panel.base.words, strict=True)) if
               pair[0] != pair[1]]  # fmt: skip
    assert changed and {step // (clip.places + 1) for step in changed} == {2}


def test_a_click_hides_and_the_same_click_shows_again(runner):
    panel = BlockExplorer(runner, CLIP)
    panel.wait()
    before = panel.picture.value
    click(panel, "frame", 3)
    assert panel.block == Block([3]) and panel.picture.value != before
    assert panel["frame"] == 3
    click(panel, "frame", 3)
    assert panel.block is None and panel.run is panel.base
    panel.controls["unit"].value = "token"
    click(panel, "frame", 5, across=0.9, down=0.1)  # the upper right one of 4 by 4
    assert panel.block == Block(tokens=[5 * 16 + 3])
    panel.undo()
    panel.wait()
    assert panel.block is None


def test_undo_takes_changes_back_one_by_one_and_reset_all(runner):
    panel = BlockExplorer(runner, CLIP, hidden=[7])
    panel.wait()
    start = panel.picture.value
    for frame in (1, 2):
        click(panel, "frame", frame)
    panel.controls["from_layer"].value = 3
    panel.wait()
    assert panel.block == Block([1, 2], [7], from_layer=3)
    panel.undo()
    panel.wait()
    assert panel.block == Block([1], [7], from_layer=3)
    panel.reset()
    panel.wait()
    assert panel.block == Block(tokens=[7]) and panel.picture.value == start
    panel.undo()
    panel.wait()
    assert panel.block == Block(tokens=[7])


def test_keys_do_what_clicks_do(runner):
    panel = BlockExplorer(runner, CLIP, unit="token")
    panel.controls["frame"].value, panel.controls["token"].value = 4, 9
    hide, undo = (button for button in panel.children[1].children if hasattr(button, "icon"))
    hide.click()
    panel.wait()
    assert panel.block == Block(tokens=[4 * 16 + 9])
    undo.click()
    panel.wait()
    assert panel.block is None


def test_a_thing_is_hidden_in_all_frames_of_its_scene(runner):
    clip = runner.clip(FOOTAGE)
    token = int(clip.named(0).flatten().nonzero()[0])
    assert part_of(clip, token, "thing") == set(clip.named(0).flatten().nonzero()[:, 0].tolist())
    nothing = int((clip.actor.flatten() == -1).nonzero()[0])
    assert part_of(clip, nothing, "thing") == {nothing}


def test_the_code_is_the_setting(runner):
    panel = BlockExplorer(runner, CLIP)
    assert panel.code() == "None"
    for frame in (2, 6):
        panel.toggle(frame * 16)
    panel.controls["head"].value, panel.controls["from_layer"].value = 1, 2
    panel.wait()
    assert panel.code() == "Block(frames=(2, 6), heads=(1,), from_layer=2)"
    assert eval(panel.code()) == panel.block and panel.code() in html.unescape(panel.setting.value)


def test_the_static_figure_equals_the_widgets_picture(runner):
    panel = BlockExplorer(runner, CLIP, hidden=range(16), from_layer=1, head=2, step=3)
    panel.wait()
    block = block_of(runner.clip(CLIP), frozenset(range(16)), 1, 2)
    assert block == Block([0], heads=[2], from_layer=1)
    about = runner.clip(CLIP), runner.run(CLIP, Compression()), runner.blocked(CLIP, block), block, 3
    assert png(block_view(*about, cursor=0)) == panel.picture.value
    assert png(block_view(*about)) != panel.picture.value


def test_another_clip_starts_with_nothing_hidden(runner):
    panel = BlockExplorer(runner, LONG)
    panel.controls["frame"].value = 19
    panel.toggle(19 * 16)
    panel.controls["clip"].value = CLIP
    panel.wait()
    assert panel.block is None and panel.shown == CLIP and panel["frame"] == 7
    panel.undo()
    panel.wait()
    assert panel.block is None


def test_changed_and_wrong_words_are_marked_apart(runner):
    """On footage one word is wrong without any block; a changed word has its colour, wherever it stands."""
    clip, base = runner.clip(FOOTAGE), runner.run(FOOTAGE, Compression())
    block = Block((clip.scene == 1).nonzero()[:, 0].tolist())
    run = runner.blocked(FOOTAGE, block)
    changed = {at for at, word in enumerate(run.words) if word != base.words[at]}
    assert changed
    for shown, marked in ((base, set()), (run, changed)):
        picture = block_view(clip, base, shown, block, 0)
        pixels, found = np.asarray(picture), set()
        colour = np.asarray(Image.new("RGB", (1, 1), CHANGED))[0, 0]
        for (left, top, right, bottom), what, number in places(picture):
            inside = pixels[round(top) + 2 : round(bottom) - 2, round(left) + 2 : round(right) - 2]
            if what == "step" and (inside == colour).all(-1).mean() > 0.3:
                found.add(number)
        assert found == marked


def test_what_is_clicked_is_what_is_drawn(runner):
    clip = runner.clip(CLIP)
    run = runner.run(CLIP, Compression())
    picture = block_view(clip, run, run, None, 0)
    found = places(picture)
    assert {p.number for p in found if p.what == "frame"} == set(range(8))
    assert {p.number for p in found if p.what == "step"} == set(range(len(run.words)))
    for box, what, number in found:
        assert hit(found, (box[0] + box[2]) / 2, (box[1] + box[3]) / 2)[:2] == (what, number)
    assert hit(found, -5, 3) is None
    left, top, right, bottom = next(p.box for p in found if p[1:] == ("frame", 2))
    shown = np.asarray(picture)[top:bottom, left:right].mean((0, 1)) / 255
    wanted = clip.pixels[2].mean((1, 2))
    assert torch.allclose(torch.from_numpy(shown).float(), wanted, atol=0.05)
