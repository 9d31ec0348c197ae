"""Sample clips through the real video path: file, decoder, processor."""

from __future__ import annotations

import json

import pytest
import torch

from dycoke_lab.specimen.clips import CLIPS, clip_names, truth, write_clips, write_mp4
from dycoke_lab.specimen.specimens import SPECIMENS
from dycoke_lab.specimen.tasks import make_task
from dycoke_lab.video import prompt, read_video


def test_a_written_video_reads_back(tmp_path):
    pixels = make_task("describe", 1, 2).videos.pixels[0]
    write_mp4(tmp_path / "clip.mp4", pixels)
    video = read_video(tmp_path / "clip.mp4").frames
    assert video.shape == (8, 256, 256, 3)
    small = torch.from_numpy(video).float().view(8, 32, 8, 32, 8, 3).mean((2, 4)).permute(0, 3, 1, 2) / 255
    assert (small - pixels).abs().mean() < 0.02  # chroma is stored at half resolution
    assert (read_video(tmp_path / "clip.mp4", frames=4).frames == video[::2]).all()


@pytest.mark.parametrize("name", sorted(json.loads((CLIPS / "clips.json").read_text())))
def test_clips_are_what_their_truth_says(name):
    question, answer, scene, actor, places = truth(name)
    world, _, kind = name.removesuffix(".mp4").partition("-")
    motions = {motion.replace(" ", "-"): motion for motion in SPECIMENS["footage"].world.motions}
    about = dict(scenes=int(kind[0])) if world == "constructed" else dict(scenes=4, motion=motions[kind])
    for specimen in (one for one in SPECIMENS.values() if one.world.name == world):
        task = make_task("describe", 1, batch=1_000, specimen=specimen.name, **about)
        assert specimen.encode(answer) == task.answer[0, :-1].tolist() and places == specimen.world.places
        assert torch.equal(scene, task.videos.scene[0]) and torch.equal(actor, task.videos.actor[0])
        inputs = prompt(specimen.processor(), read_video(CLIPS / name), question)
        assert torch.equal(inputs["input_ids"], task.ids)
        for part, made in task.inputs.items():
            off = (inputs[part].double() - made.double()).abs()
            assert off.mean() < (0.06 if part == "pixel_values_videos" else 1e-6), part


def test_clips_are_known_by_their_world():
    assert clip_names("constructed") == [f"constructed-{n}-scenes.mp4" for n in (2, 3, 4, 5)]
    motions = ("still", "slow-pan", "fast-pan", "hand-held")
    assert clip_names("footage") == [f"footage-{motion}.mp4" for motion in motions]
    assert {path.name for path in CLIPS.iterdir()} == {*clip_names(), "clips.json"}


def test_clips_can_be_written_again(tmp_path):
    write_clips(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in CLIPS.iterdir()}
    assert json.loads((tmp_path / "clips.json").read_text()) == json.loads((CLIPS / "clips.json").read_text())
    for name in clip_names("constructed"):
        assert (read_video(tmp_path / name).frames == read_video(CLIPS / name).frames).all()


@pytest.mark.parametrize("name", clip_names())
@pytest.mark.parametrize("share", [0, 0.001, 0.2, 0.5, 0.9])
def test_a_truncated_clip_is_named_and_refused(tmp_path, name, share):
    whole = (CLIPS / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=rf"source='.*/{name}' "):
        read_video(tmp_path / name)


def test_damaged_truth_of_clips_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("dycoke_lab.specimen.clips.CLIPS", tmp_path)
    (tmp_path / "clips.json").write_text((CLIPS / "clips.json").read_text()[:-9])
    with pytest.raises(ValueError, match=r"/clips\.json is damaged \("):
        clip_names()
