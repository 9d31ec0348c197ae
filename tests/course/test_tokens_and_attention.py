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
from dycoke_lab.viz.clip_runs import ClipRunner

SOLUTIONS = {
    "00_start_here": ["tokens_read", "wrong_count"],
    "01_which_places_are_video": ["place_of", "column_of", "video_columns", "columns_of_frame"],
    "02_attention_by_hand": ["attend", "tokens_for", "frame_shares"],
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


def kept(frames, tokens, merge, prune):
    return frames * tokens * (1 - 0.75 * merge) * (1 - prune)


def softmax(query, keys):
    return (keys @ query / len(query) ** 0.5).softmax(0)


@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        ("tokens_read", lambda f, n, k, p: round(f * n * (1 - k) * (1 - p)), "first frame is retained whole"),
        ("tokens_read", lambda f, n, k, p: round(kept(f, n, k, 0) - p * f * n), "not of all"),
        ("tokens_read", lambda f, n, k, p: f * n * 0.75 * k if k else kept(f, n, k, p), "count what is left"),
        ("tokens_read", lambda f, n, k, p: int(f * n / 4 * (1 + 3 * (1 - k)) * (1 - p)), "use `round`"),
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
        ("column_of", lambda f, r, c, s, h, w: (f * h + r) * w + c, "Add `start`"),
        ("column_of", lambda f, r, c, s, h, w: s + f * h + r * w + c, "whole frames"),
        ("video_columns", lambda f, i, p: f * (-(-(i // p) // 2)) ** 2, "line break"),
        ("video_columns", lambda f, i, p: f * (-(-(i // p) // 2)) ** 2 + f, "once"),
        ("video_columns", lambda f, i, p: f * (i // p) ** 2 + 1, "2 x 2"),
        ("video_columns", lambda f, i, p: f * (i // p // 2) ** 2 + 1, "Round up"),
        ("columns_of_frame", lambda n, c, f: (f == n).nonzero()[:, 0], "numbers of visual tokens"),
        ("columns_of_frame", lambda n, c, f: [c[0] + 2 * n, c[0] + 2 * n + 1], "line break"),
        ("attend", lambda q, k, v: (k @ q).masked_fill(~v, -torch.inf).softmax(0), "root of the dimension"),
        ("attend", lambda q, k, v: softmax(q, k), "Hidden places must get nothing"),
        ("attend", lambda q, k, v: softmax(q, k) * v, "before the softmax"),
        ("attend", lambda q, k, v: (k @ q / len(q) ** 0.5 * v).softmax(0), "before the softmax"),
        ("tokens_for", lambda a, s: int((a.cumsum(0) < s * a.sum()).sum()) + 1, "strongest tokens first"),
        (
            "tokens_for",
            lambda a, s: int((a.sort(descending=True).values.cumsum(0) < s * a.sum()).sum()),
            "One off",
        ),
        (
            "tokens_for",
            lambda a, s: min(len(a), int((a.sort(descending=True).values.cumsum(0) < s).sum()) + 1),
            "of what the video gets",
        ),
        ("frame_shares", lambda a, n: a.view(-1, n).sum(1) / a.sum(), "times 100"),
        ("frame_shares", lambda a, n: 100 * a.view(-1, n).sum(1), "whole video"),
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
    assert (state[:3] > 0).all() and ((state[3:] > 0).sum(1) == int(states.active.sum())).all()
    with pytest.raises(ValueError, match="no selector"):
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


def test_coverage_starts_at_none_and_ends_at_all():
    figure = course_attention.coverage_curves(torch.tensor([[4.0, 2, 1, 1], [1, 1, 1, 1]]) / 16, 0.9, "title")
    peaked, even = (line.get_ydata() for line in figure.axes[0].get_lines()[:2])
    assert peaked.tolist() == [0, 50, 75, 87.5, 100] and even.tolist() == [0, 25, 50, 75, 100]
