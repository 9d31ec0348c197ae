"""The world "footage": drawn pixel by pixel beside it, the camera's motion, and the truth of every token."""

from __future__ import annotations

import math
import time
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.datasets import load_digits, load_sample_images

from dycoke_lab.specimen.footage import FOOTAGE, videos
from dycoke_lab.specimen.footage.language import DIGITS, WORDS, ask
from dycoke_lab.specimen.footage.videos import MOTIONS, make_videos
from dycoke_lab.specimen.world import SPLITS


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn, by name: lists of what `_ink` and `_background` were given and returned."""
    calls = {"_ink": [], "_background": []}
    for name in calls:
        monkeypatch.setattr(videos, name, partial(record, getattr(videos, name), calls[name]))
    return calls


def record(draw, kept, *given):
    kept.append((*given, draw(*given)))
    return kept[-1][-1].clone()  # what is drawn on is not what is kept


def between(picture, y, x, outside=None):
    """The value of a picture between four pixel centres, which lie at .5. outside: what is beyond the edge;
    None: what is at the edge."""
    height, width = picture.shape
    top, left = math.floor(y - 0.5), math.floor(x - 0.5)
    value = 0.0
    for row in (top, top + 1):
        for col in (left, left + 1):
            share = (1 - abs(y - 0.5 - row)) * (1 - abs(x - 0.5 - col))
            if outside is None:
                value += share * picture[min(max(row, 0), height - 1), min(max(col, 0), width - 1)]
            else:
                there = 0 <= row < height and 0 <= col < width
                value += share * (picture[row, col] if there else outside)
    return value


def test_ink_is_the_scan_turned_and_enlarged_pixel_by_pixel():
    scans, random = load_digits().images / 16, np.random.default_rng(0)
    for _ in range(6):
        scan, size, turn = int(random.integers(len(scans))), random.uniform(15, 18), random.uniform(-0.5, 0.5)
        centre = random.uniform(-3, 63, 2)  # may be cut off by the frame's edge
        given = torch.tensor([[[scan]]]), torch.tensor(centre)[None, None, None].float()
        ink = videos._ink(*given, torch.tensor([[[size]]]).float(), torch.tensor([[[turn]]]).float())
        expected = np.zeros((60, 60))
        for row in range(60):
            for col in range(60):
                # from the centre, to the right and upwards, before it was turned to the left and enlarged
                away = complex(col + 0.5 - centre[1], centre[0] - row - 0.5)
                away *= complex(math.cos(turn), -math.sin(turn)) * 8 / size
                expected[row, col] = between(scans[scan], 4 - away.imag, 4 + away.real, outside=0.0)
        assert expected.max() > 0.5
        np.testing.assert_allclose(ink[0, 0, 0], expected, atol=1e-3)


def halved(picture, axis):
    """Half as many pixels along one axis, each the mean of those that it touches."""
    before = picture.shape[axis]
    after = before // 2
    parts = [
        picture.take(range(n * before // after, -(-(n + 1) * before // after)), axis).mean(axis)
        for n in range(after)
    ]
    return np.stack(parts, axis)


def test_the_background_is_the_photograph_where_the_camera_looks():
    photos = [halved(halved(image / 255 / 2, 0), 1) for image in load_sample_images().images]
    assert photos[0].shape == photos[1].shape == (213, 320, 3)
    random = np.random.default_rng(1)
    for which, camera in ((0, (0.0, 0.0)), (1, (-2.3, 4.1)), (1, (7.5, -7.5)), (0, (0.4, 30.0))):
        corner = random.uniform(0, 1, 2)
        given = torch.tensor(corner)[None, None].float(), torch.tensor([[which]])
        seen = videos._background(*given, torch.tensor(camera)[None, None])[0, 0]
        top = 20 + corner[0] * (213 - 60 - 40) + camera[0]
        left = 20 + corner[1] * (320 - 60 - 40) + min(camera[1], 20)  # no farther than to the photo's edge
        for row, col in random.integers(0, 60, (200, 2)):
            for colour in range(3):
                value = between(photos[which][..., colour], top + row + 0.5, left + col + 0.5)
                assert seen[colour, row, col] == pytest.approx(value, abs=1e-4)
        assert seen.std() > 0.01


def test_a_split_shows_scans_that_the_others_never_show(drawn):
    target, shown = torch.tensor(load_digits().target), {}
    for split in SPLITS:
        made = make_videos(80, 3, seeded(), split)
        scan, *_ = drawn["_ink"][-1]
        for video in range(80):
            for frame in range(12):
                assert torch.equal(target[scan[video, frame]], made.label[video, made.scene[video, frame]])
        shown[split] = set(scan.flatten().tolist())
    for split in SPLITS:
        others = set().union(*(shown[other] for other in SPLITS if other != split))
        assert len(shown[split]) >= 100 and not shown[split] & others


def moved(before, after):
    """By how many pixels, down and to the right, one picture differs from another: the best of many."""

    def off(by):
        there = ndimage.shift(before, by, order=1, mode="nearest")[7:-7, 7:-7]
        return ((there - after[7:-7, 7:-7]) ** 2).sum()

    whole = range(-5, 6)
    near = min(((y, x) for y in whole for x in whole), key=off)
    fine = [0.2 * n for n in range(-4, 5)]
    return np.array(min(((near[0] + y, near[1] + x) for y in fine for x in fine), key=off))


@pytest.mark.parametrize(("motion", "pixels"), [("still", 0), ("slow pan", 1), ("fast pan", 3)])
def test_the_background_moves_by_so_many_pixels_a_frame(monkeypatch, motion, pixels):
    monkeypatch.setattr(videos, "_ink", lambda scan, *_: torch.zeros(*scan.shape, 60, 60))
    made = make_videos(4, 3, seeded(2), motion=motion)
    assert (made.motion == MOTIONS.index(motion)).all() and not (made.actor >= 0).any()
    lengths = []
    for video in range(4):
        for scene in range(3):
            frames = made.pixels[video, made.scene[video] == scene]
            if motion == "still":
                change = (frames[1:] - frames[:-1]).abs()
                assert change.max() < 0.12 and 0.005 < change.std() < 0.02  # noise
            grey = frames[:3].mean(1).double().numpy()
            steps = [moved(one, two) for one, two in pairwise(grey)]
            lengths.append(np.linalg.norm(np.mean(steps, 0)))
    assert np.median(lengths) == pytest.approx(pixels, abs=0.25)  # some have nothing to tell it by


@pytest.mark.parametrize("motion", MOTIONS)
def test_what_is_written_moves_with_the_photograph_and_drifts_a_little(drawn, motion):
    made = make_videos(30, 4, seeded(3), motion=motion)
    ((_, place, *_),), ((_, _, camera, _),) = drawn["_ink"], drawn["_background"]
    same = made.scene[:, 1:] == made.scene[:, :-1]
    by_itself = (place + camera[:, :, None]).diff(dim=1)[same].abs().amax((1, 2))
    assert by_itself.max() <= 0.5 + 1e-4 and by_itself.min() > 0.05
    steps = camera.diff(dim=1)[same].norm(dim=-1)
    if motion == "hand-held":
        assert camera.std() == pytest.approx(1.5, abs=0.1) and steps.min() < 1 < 3 < steps.max()
    else:
        assert (steps - {"still": 0, "slow pan": 1, "fast pan": 3}[motion]).abs().max() < 1e-4
    assert drawn["_ink"][0][2].min() >= 15 and drawn["_ink"][0][2].max() <= 18


def test_each_video_has_a_motion_of_its_own_unless_one_is_given():
    made = make_videos(80, 1, seeded(4), cadence=1)
    assert (torch.bincount(made.motion, minlength=4) > 10).all()
    stills = make_videos(3, 1, seeded(4), cadence=1)
    assert stills.pixels.shape == (3, 1, 3, 60, 60) and (stills.actor >= 0).any()


def test_tokens_show_a_digit_where_there_is_ink_and_nowhere_else(drawn, monkeypatch):
    made = make_videos(8, 4, seeded(5))
    ink = drawn["_ink"][0][-1]
    monkeypatch.setattr(videos, "_ink", lambda scan, *_: torch.zeros(*scan.shape, 60, 60))
    change = (made.pixels - make_videos(8, 4, seeded(5)).pixels).amax(2)  # the same without what is written
    late_or_early, found = 0, 0
    for video in range(8):
        for frame in range(16):
            there = []
            for thing in range(3):
                mine = ink[video, frame, thing]
                alone = (mine > 0.3) & (ink[video, frame].sum(0) - mine < 0.01)
                there.append(bool((change[video, frame][alone] > 0.02).float().mean() > 0.5))
                late_or_early += not there[-1]
            for token in range(36):
                rows, cols = (
                    slice(token // 6 * 10, token // 6 * 10 + 10),
                    slice(token % 6 * 10, token % 6 * 10 + 10),
                )
                share = [float(ink[video, frame, n, rows, cols].mean()) * there[n] for n in range(3)]
                most = max(range(3), key=share.__getitem__)
                assert made.actor[video, frame, token] == (most if share[most] >= 0.1 else -1)
                found += share[most] >= 0.1
    assert 0.05 < late_or_early / (8 * 16 * 3) < 0.4 and found > 500


@pytest.mark.parametrize("motion", MOTIONS)
def test_every_digit_can_be_seen_and_most_tokens_show_none(motion):
    made = make_videos(30, 5, seeded(6), motion=motion)
    assert 0.1 < (made.actor >= 0).float().mean() <= 0.45
    seen = []
    for video in range(30):
        for scene in range(5):
            actor = made.actor[video, made.scene[video] == scene]
            seen += [((actor == place).sum(1) > 0).sum() / len(actor) for place in range(3)]
    assert min(seen) >= 0.4 and torch.stack(seen).mean() > 0.7  # shares of the scene's frames


def test_the_same_seed_draws_the_same_and_another_draws_others():
    one, two, other = (make_videos(2, 3, seeded(seed)) for seed in (7, 7, 8))
    assert torch.equal(one.pixels, two.pixels) and torch.equal(one.actor, two.actor)
    assert not torch.equal(one.pixels, other.pixels)
    assert one.pixels.shape == (2, 12, 3, 60, 60) and one.actor.shape == (2, 12, 36)
    assert one.pixels.min() >= 0 and one.pixels.max() <= 1


def test_scenes_last_about_four_frames():
    made = make_videos(40, 5, seeded(9))
    lengths = torch.stack([(made.scene == scene).sum(1) for scene in range(5)], 1)
    assert set(lengths.flatten().tolist()) == {2, 3, 4, 5, 6} and (made.scene.diff(dim=1) >= 0).all()


def test_questions_and_answers_are_what_is_shown():
    shown = [["three", "zero", "nine"], ["three", "four", "one"]]
    describe = ask("describe", shown, 0, 0, 0)
    assert (describe.question, describe.answer) == (
        "describe the 2 scenes",
        "three zero nine , three four one",
    )
    assert describe.parts == [[0, 1, 2], [4, 5, 6]] and describe.named[3] == (-1, -1)
    actor = ask("actor", shown, 1, 0, 2)
    assert (actor.question, actor.answer) == ("right number in scene 2 of 2 ?", "one")
    assert (actor.named, actor.parts) == ([(1, 2)], [[0]])
    for place, (where, change) in enumerate((("left", "equal"), ("middle", "rising"), ("right", "falling"))):
        compare = ask("compare", shown, 0, 1, place)
        assert compare.question == f"{where} numbers in scenes 1 and 2 of 2 ?"
        assert compare.answer == f"{shown[0][place]} {shown[1][place]} {change}"
        assert compare.named == [(0, place), (1, place), (-1, -1)] and compare.parts == [[0], [1], [2]]
        for turn in (describe, actor, compare):
            assert set(f"{turn.question} {turn.answer}".split()) <= set(WORDS)
    assert FOOTAGE.things == DIGITS and FOOTAGE.tokens == 36


def test_drawing_takes_less_than_20_milliseconds_a_video():
    make_videos(1, 2, seeded())  # photographs and scans are read once
    taken = []
    for seed in range(3):
        started = time.perf_counter()
        make_videos(16, 4, seeded(seed))
        taken.append((time.perf_counter() - started) / 16)
    assert min(taken) < 0.020


def test_wrong_arguments_are_named():
    for wrong, message in (
        (dict(count=0, scenes=2), "count=0 and scenes=2 must both be at least 1"),
        (dict(count=1, scenes=0), "count=1 and scenes=0 must both be at least 1"),
        (dict(count=1, scenes=2, split="dev"), "split='dev' must be one of train, validation, test"),
        (dict(count=1, scenes=2, motion="zoom"), "motion='zoom' must be None or one of still, slow pan"),
    ):
        with pytest.raises(ValueError, match=message):
            make_videos(**wrong, generator=seeded())
