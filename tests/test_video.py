"""Sample clips through the real video path: file, decoder, processor."""

from __future__ import annotations

import json

import pytest
import torch

from dycoke_lab.specimen.clips import CLIPS, truth, write_mp4
from dycoke_lab.specimen.export import build_processor
from dycoke_lab.specimen.language import ID
from dycoke_lab.specimen.tasks import make_task
from dycoke_lab.video import prompt, read_video


def test_a_written_video_reads_back(tmp_path):
    pixels = make_task("describe", 1, 2).videos.pixels[0]
    write_mp4(tmp_path / "clip.mp4", pixels)
    video = read_video(tmp_path / "clip.mp4")
    assert video.shape == (8, 256, 256, 3)
    small = torch.from_numpy(video).float().view(8, 32, 8, 32, 8, 3).mean((2, 4)).permute(0, 3, 1, 2) / 255
    assert (small - pixels).abs().mean() < 0.02  # chroma is stored at half resolution
    assert (read_video(tmp_path / "clip.mp4", frames=4) == video[::2]).all()


@pytest.mark.parametrize("name", sorted(json.loads((CLIPS / "clips.json").read_text())))
def test_clips_are_what_their_truth_says(name):
    question, answer, scene, actor = truth(name)
    task = make_task("describe", 1, int(name[0]), batch=1_000)
    assert [ID[word] for word in answer.split()] == task.answer[0, :-1].tolist()
    assert torch.equal(scene, task.videos.scene[0]) and torch.equal(actor, task.videos.actor[0])
    inputs = prompt(build_processor(), read_video(CLIPS / name), question)
    assert torch.equal(inputs["input_ids"], task.ids)
    assert (inputs["pixel_values_videos"] - (task.videos.pixels * 2 - 1)).abs().mean() < 0.06


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.mp4"):
        read_video(tmp_path / "gone.mp4")
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(ValueError, match=r"text\.mp4.*cannot be read as a video"):
        read_video(tmp_path / "text.mp4")
    with pytest.raises(ValueError, match="frames=0"):
        read_video(CLIPS / "2-scenes.mp4", frames=0)
    with pytest.raises(ValueError, match="exceeds total_num_frames=8"):
        read_video(CLIPS / "2-scenes.mp4", frames=100)
