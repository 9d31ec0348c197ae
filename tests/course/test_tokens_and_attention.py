"""Exercises and figures of notebooks 00 to 02."""

from __future__ import annotations

import importlib.util

import matplotlib.pyplot as plt
import pytest
import torch

from dycoke_lab.course import check
from dycoke_lab.methods import DyCoke, compose
from dycoke_lab.results.folders import ROOT
from dycoke_lab.viz import course_attention, course_tokens
from dycoke_lab.viz.clip_runs import ClipRunner, aim

SOLUTIONS = {
    "00_start_here": ["tokens_read", "wrong_count"],
    "01_which_places_are_video": ["place_of", "columns_of_frame"],
    "02_attention_by_hand": ["attend", "frame_shares"],
}
NAMES = [(page, name) for page, names in SOLUTIONS.items() for name in names]


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def runner():
    return ClipRunner()


def solution(page, name):
    path = ROOT / "notebooks" / "solutions" / f"{page}.py"
    spec = importlib.util.spec_from_file_location(f"solution_{page}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


@pytest.mark.parametrize(("page", "name"), NAMES)
def test_a_solution_is_right_and_a_stub_is_not_yet(page, name, capsys):
    assert getattr(check, name)(solution(page, name))
    assert capsys.readouterr().out.startswith("Right. ")
    assert not getattr(check, name)(lambda *given: ...)
    assert capsys.readouterr().out.startswith("Not yet. Write your own")


def kept(tokens, merge, prune):
    return 4 * tokens * (1 - 0.75 * merge) * (1 - prune)


def softmax(query, keys):
    return 100 * (keys @ query / len(query) ** 0.5).softmax(0)


@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        ("tokens_read", lambda n, k, p: round(4 * n * (1 - k) * (1 - p)), "first frame stays whole"),
        ("tokens_read", lambda n, k, p: round(kept(n, k, 0) - p * 4 * n), "not of all"),
        ("tokens_read", lambda n, k, p: 3 * n * k if k else kept(n, k, p), "count what is left"),
        ("tokens_read", lambda n, k, p: int(n * (1 + 3 * (1 - k)) * (1 - p)), "use `round`"),
        ("wrong_count", lambda a, b: sum(x != y for x, y in zip(a, b, strict=False)), "`zip` stops"),
        ("wrong_count", lambda a, b: len(set(a) ^ set(b)), "place by place"),
        (
            "wrong_count",
            lambda a, b: sum(x != y for x, y in zip(a, b, strict=False)) + max(0, len(b) - len(a)),
            "too many",
        ),
        ("place_of", lambda c, s, h, w: (c // (h * w), c % (h * w) // w, c % w), "subtract `start`"),
        (
            "place_of",
            lambda c, s, h, w: ((c - s) // (h * w), (c - s) % (h * w) // h, (c - s) % h),
            "divide by `cols`",
        ),
        ("columns_of_frame", lambda n, c, f: (f == n).nonzero()[:, 0], "which visual tokens"),
        ("columns_of_frame", lambda n, c, f: [c[0] + 2 * n, c[0] + 2 * n + 1], "line break"),
        ("attend", lambda q, k, v: 100 * (k @ q).masked_fill(~v, -torch.inf).softmax(0), "by sqrt"),
        ("attend", lambda q, k, v: softmax(q, k), "must get 0 %"),
        ("attend", lambda q, k, v: softmax(q, k) / 100, "times 100"),
        ("attend", lambda q, k, v: softmax(q, k) * v, "Do not multiply by 0"),
        ("attend", lambda q, k, v: 100 * (k @ q / len(q) ** 0.5 * v).softmax(0), "before the softmax"),
        ("attend", lambda q, k, v: list(range(len(k))), "Three lines"),
        ("frame_shares", lambda a, n: a.view(-1, n).sum(1) / a.sum(), "times 100"),
        ("frame_shares", lambda a, n: a.view(-1, n).sum(1), "gets only"),
        ("frame_shares", lambda a, n: 100 * a.view(n, -1).sum(0) / a.sum(), "follow each other"),
    ],
)
def test_a_misunderstanding_is_named(name, wrong, words, capsys):
    assert not getattr(check, name)(wrong)
    said = capsys.readouterr().out
    assert said.startswith("Not yet. ") and words in said


def test_a_scene_is_told_by_one_frame_or_two(runner):
    clip = runner.clip("footage-hand-held.mp4")
    for scene, frames in enumerate(course_tokens.telling_frames(clip)):
        assert len(frames) <= 2 and all(clip.scene[frame] == scene for frame in frames)
        seen = set(clip.actor[frames].flatten().tolist()) - {-1}
        ever = set(clip.actor[clip.scene == scene].flatten().tolist()) - {-1}
        assert seen == ever  # no thing of this clip's needs a third
        assert 0 in clip.actor[frames[0]]  # read from left to right


def test_texts_between_videos_have_their_first_column():
    words = ["user", "<video>", "<video>", "<video>", "what", "?", "<video>", "end"]
    found = course_tokens.texts_between(words, {1, 2, 6})
    assert found == [(0, "user"), (3, "(line break) what ?"), (7, "end")]


def test_a_token_has_the_mean_colour_of_its_square(runner):
    clip = runner.clip("constructed-2-scenes.mp4")
    colours = course_tokens.token_colours(clip)
    assert colours.shape == (8, 4, 4, 3)
    expected = clip.pixels[5, :, 8:16, 24:32].mean((1, 2))
    assert torch.allclose(torch.tensor(colours[5, 1, 3]), expected, atol=1e-6)


def test_the_pipeline_shows_what_each_layer_reads(runner):
    name = "constructed-2-scenes.mp4"
    clip, run = runner.clip(name), runner.run(name, DyCoke(0.5, 0.9, 3))
    figure = course_tokens.pipeline(clip, run, step=3, start=0)
    state = next(image.get_array() for image in figure.axes[0].images if image.get_array().ndim == 2)
    states = run.states(3)
    assert state.shape == (runner.depth(name), int((~states.merged_away).sum()))
    assert any("K = 0.5" in text.get_text() for text in figure.axes[0].texts)
    assert (state[:3] > 0).all() and ((state[3:] > 0).sum(1) == int(states.active.sum())).all()
    with pytest.raises(ValueError, match="no TTM"):
        course_tokens.pipeline(clip, runner.run(name, compose("full")), step=3)


def test_answers_mark_wrong_words(runner):
    name = "constructed-2-scenes.mp4"
    clip = runner.clip(name)
    run = runner.run(name, compose("last_query", prune_ratio=0.95, from_layer=3))
    figure = course_tokens.answers(clip, [("one-shot", run)], "title")
    texts = [text.get_text() for text in figure.axes[0].texts]
    marked = [text for text in texts if text.startswith("✗")]
    pairs = zip(run.words, clip.answer, strict=True)
    assert marked and marked == [f"✗{word}" for word, right in pairs if word != right]
    assert f"one-shot: {len(marked)} wrong words" in texts


def test_a_frame_that_does_not_show_the_word_says_so(runner):
    name = "footage-hand-held.mp4"
    clip, run = runner.clip(name), runner.run(name, compose("full"))
    steps = [0, 4, 5]
    figure = course_attention.looks(clip, run, 7, steps, "title")
    for ax, step in zip(figure.axes, steps, strict=True):
        about = ax.get_title(loc="left")
        frame = int(about.partition("frame ")[2].partition(":")[0])
        assert (f"no “{clip.answer[step]}” in it" in about) != bool(clip.named(step)[frame].any())
        assert bool(ax.patches) == bool(clip.named(step)[frame].any())


def test_the_clearest_word_of_each_scene(runner):
    clip = runner.clip("footage-hand-held.mp4")
    run = runner.run(clip.name, compose("full"))
    steps = course_attention.clearest_steps(clip, run, 7)
    assert [step // (clip.places + 1) for step in steps] == [0, 1, 2, 3]
    aims = aim(clip, run, mean=True)[:, 7, 0]
    assert all(aims[step] == aims[step - step % 4 : step - step % 4 + 3].max() for step in steps)
