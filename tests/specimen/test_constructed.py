"""The constructed world and model: actors are where the truth says, and the three restrictions hold."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dycoke_lab import capture_attention, load_model
from dycoke_lab.attention.drift import mass_on
from dycoke_lab.specimen.constructed.language import WORDS, ask
from dycoke_lab.specimen.constructed.model import keep_tokens_local, share_queries_and_keys
from dycoke_lab.specimen.constructed.videos import COLOURS, make_videos
from dycoke_lab.specimen.families import Size
from dycoke_lab.specimen.specimens import SPECIMENS
from dycoke_lab.specimen.tasks import make_task


def small():
    return replace(SPECIMENS["constructed"], size=Size(layers=4, width=32)).build().eval()


def test_same_seed_same_videos():
    first, second = (make_videos(2, 3, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first.pixels, second.pixels)
    assert first.pixels.shape == (2, 12, 3, 32, 32)
    with pytest.raises(ValueError, match="count=0 and scenes=3 must both be at least 1"):
        make_videos(0, 3, torch.Generator())


def test_actors_are_where_the_truth_says():
    videos = make_videos(20, 5, torch.Generator().manual_seed(6))
    paint = torch.tensor(list(COLOURS.values()))
    cells = videos.pixels.unfold(3, 8, 8).unfold(4, 8, 8)  # videos, frames, 3, 4, 4, 8, 8
    for video in range(20):
        for frame in range(20):
            shown = videos.actor[video, frame]
            assert sorted(shown[shown >= 0].tolist()) == sorted(set(shown[shown >= 0].tolist()))
            for cell, actor in enumerate(shown.tolist()):
                pixels = cells[video, frame, :, cell // 4, cell % 4].flatten(1).T
                if actor >= 0:
                    colour = paint[videos.label[video, videos.scene[video, frame], actor]]
                    assert ((pixels - colour).abs().amax(1) < 0.01).sum() >= 12  # the thinnest shape
                else:
                    assert pixels.max() < 0.65  # dull: background only
        for scene in range(5):
            assert {0, 1, 2, 3} <= set(videos.actor[video, videos.scene[video] == scene].flatten().tolist())


def test_actors_move_in_every_frame_and_the_background_does_not():
    videos = make_videos(10, 3, torch.Generator().manual_seed(7))
    cells = (
        videos.pixels.unfold(3, 8, 8).unfold(4, 8, 8).permute(0, 1, 3, 4, 2, 5, 6).flatten(4).flatten(2, 3)
    )
    shown = videos.actor >= 0
    for back in (1, 2):
        change = (cells[:, back:] - cells[:, :-back]).abs().amax(-1)
        assert change[shown[:, back:]].min() > 0.3
        assert change[~shown[:, back:]].max() < 0.15  # noise


def test_questions_and_answers_are_what_is_shown():
    shown = [["red", "blue", "cyan", "green"], ["red", "cyan", "cyan", "red"]]
    describe, actor, compare = (ask(kind, shown, 1, 0, 3) for kind in ("describe", "actor", "compare"))
    assert (describe.question, describe.answer) == (
        "describe the two scenes",
        "red blue cyan green , red cyan cyan red",
    )
    assert describe.named == [*((0, n) for n in range(4)), (-1, -1), *((1, n) for n in range(4))]
    assert describe.parts == [[0, 1, 2, 3], [5, 6, 7, 8]]
    assert (actor.question, actor.answer) == ("what is fourth in scene two of two ?", "red")
    assert (actor.named, actor.parts) == ([(1, 3)], [[0]])
    assert compare.question == "compare scenes two and one of two"
    assert compare.answer == "red cyan cyan red , red blue cyan green share two"
    assert compare.named[:4] == [(1, n) for n in range(4)] and compare.named[9:] == [(-1, -1)] * 2
    assert compare.parts == [[0, 1, 2, 3], [5, 6, 7, 8], [10]]
    for turn in (describe, actor, compare):
        assert set(f"{turn.question} {turn.answer}".split()) <= set(WORDS)
        assert len(turn.named) == len(turn.answer.split())


def test_a_local_visual_token_shows_its_own_place_only():
    model = small()
    pixels = make_task("describe", 1, 2).videos.pixels * 2 - 1
    changed = pixels.clone()
    changed[:, :, :, 8:16, 16:24] = 0  # row 1, column 2: token 6 of each frame
    for local in (False, True):
        if local:
            keep_tokens_local(model)
        with torch.no_grad():
            videos = [
                model.get_video_features(x, return_dict=True).pooler_output[0] for x in (pixels, changed)
            ]
        a, b = (features[:-1].view(8, 16, -1) for features in videos)  # without the line break
        moved = {token for token in range(16) if not torch.equal(a[:, token], b[:, token])}
        assert moved == ({6} if local else set(range(16)))


def test_layers_share_queries_and_keys_and_nothing_else():
    model = small()
    share_queries_and_keys(model)
    layers = model.model.language_model.layers
    shared = [
        {id(parameter) for parameter in (*layer.self_attn.parameters(), *layer.input_layernorm.parameters())}
        for layer in layers
    ]
    count = {len(ids) for ids in shared}
    assert count == {8}  # queries and keys with a bias, values with a bias, the output, the norm
    assert len(shared[2] & shared[3]) == 5 and not shared[1] & shared[2]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_scoring_layer_attends_to_the_named_actors_and_reads_nothing(seed):
    """At L=3 nothing that pruning leaves out can have been read in the layer just below."""
    model, _ = load_model("constructed", seed)
    task = make_task("describe", 1, 2)
    outputs = []
    attention = model.model.language_model.layers[2].self_attn
    hook = attention.register_forward_hook(lambda module, inputs, output: outputs.append(output[0]))
    with torch.no_grad(), hook, capture_attention(model) as trace:
        model.generate(task.ids, **task.inputs, max_new_tokens=2)
    assert len(outputs) == 2 and not any(output.any() for output in outputs)
    _, on_actor = task.tokens_of(0)
    named = (task.scene[0] >= 0).nonzero()[:2, 0]
    on_named = mass_on(trace.stack(2), on_actor[named]) / on_actor[named].float().mean(1).numpy()
    assert (on_named > 4).all()  # times what even attention would give
