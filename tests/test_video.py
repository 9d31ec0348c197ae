"""Sample clips through the real video path: file, decoder, processor."""

from __future__ import annotations

import dataclasses
import json
import struct
import tracemalloc
import wave

import av
import numpy as np
import pytest
import torch
from PIL import Image
from transformers.video_utils import VideoMetadata, default_sample_indices_fn, load_video

from dycoke_lab import video as video_module
from dycoke_lab.models import ADAPTERS
from dycoke_lab.models.token_layout import TokenGrid
from dycoke_lab.specimen.clips import CLIPS, clip_names, truth, write_clips, write_mp4
from dycoke_lab.specimen.specimens import SPECIMENS
from dycoke_lab.specimen.tasks import make_task
from dycoke_lab.video import on_model, prompt, read_video


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


def write(path, count, rate=8, codec="libx264", pix_fmt="yuv420p", size=64, gop=12):
    """A video whose frame number can be read off its brightness."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width = stream.height = size
        stream.pix_fmt, stream.gop_size = pix_fmt, gop
        for number in range(count):
            picture = np.full((size, size, 3), (number * 7) % 250, np.uint8)
            picture[: size // 2, : size // 2, 0] = 255  # the corner that tells how it was turned
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def slow(path):
    """Every frame, decoded from the start."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.mp4", "libx264", "yuv420p"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.gif", "gif", "rgb8"),
        ("a.mkv", "mpeg4", "yuv420p"),
    ],
)
def test_chosen_frames_are_those_of_a_full_decode(tmp_path, monkeypatch, name, codec, pix_fmt):
    path = write(tmp_path / name, 60, codec=codec, pix_fmt=pix_fmt)
    everything = slow(path)
    assert len(everything) == 60 and (read_video(path).frames == everything).all()
    for far in (250, 5):  # decoded through, and by seeking
        monkeypatch.setattr(video_module, "FAR", far)
        for count in (1, 7, 60):
            chosen = default_sample_indices_fn(VideoMetadata(total_num_frames=60, fps=8), num_frames=count)
            assert (read_video(path, frames=count).frames == everything[chosen]).all()
    chosen = default_sample_indices_fn(VideoMetadata(total_num_frames=60, fps=8), fps=2)
    assert (read_video(path, fps=2).frames == everything[chosen]).all()
    assert len(read_video(path, frames=100).frames) == 60  # at most


@pytest.mark.slow
def test_an_hour_takes_the_memory_of_the_frames_asked_for(tmp_path):
    path = write(tmp_path / "hour.mp4", 3600, rate=1, size=160, gop=60)
    tracemalloc.start()
    video = read_video(path, frames=8).frames
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert video.shape == (8, 160, 160, 3) and peak < 4 * video.nbytes < 3600 * 160 * 160
    assert [int(frame[-1, -1, 1]) for frame in video] == pytest.approx(
        [n * 450 * 7 % 250 for n in range(8)], abs=4
    )


def test_a_rotated_file_is_turned(tmp_path):
    path = write(tmp_path / "phone.mp4", 4)
    upright, data = read_video(path).frames, bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44
    data[matrix : matrix + 20] = struct.pack(
        ">5i", 0, 1 << 16, 0, -(1 << 16), 0
    )  # shown a quarter turned to the right
    path.write_bytes(data)
    turned = read_video(path).frames
    assert upright[0, 0, 0, 0] > 200 > upright[0, 0, -1, 0]
    assert turned[0, 0, -1, 0] > 200 > turned[0, 0, 0, 0]  # top left has become top right
    assert (turned == np.rot90(upright, -1, (1, 2))).all()


def test_folders_and_arrays(tmp_path):
    video = np.random.default_rng(0).integers(0, 256, (11, 8, 12, 3), np.uint8)
    for number, frame in enumerate(video):
        Image.fromarray(frame).save(tmp_path / f"frame-{number}.png")  # 10 comes after 9, not after 1
    (tmp_path / "notes.txt").write_text("not a picture")
    assert (read_video(tmp_path).frames == video).all()
    assert (read_video(tmp_path, frames=4).frames == video[[0, 2, 5, 8]]).all()
    assert (read_video(video, frames=4).frames == video[[0, 2, 5, 8]]).all()
    assert (read_video(torch.from_numpy(video)).frames == video).all()
    with pytest.raises(ValueError, match=r"fps=2 needs a file"):
        read_video(video, fps=2)
    with pytest.raises(ValueError, match=r"shape \(11, 8, 12\).*must be"):
        read_video(video[..., 0])
    Image.fromarray(video[0, :4]).save(tmp_path / "frame-11.png")
    with pytest.raises(ValueError, match=r"frame-11\.png has another size"):
        read_video(tmp_path)


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.mp4"):
        read_video(tmp_path / "gone.mp4")
    with pytest.raises(ValueError, match="a folder without pictures"):
        read_video(tmp_path)
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    whole = (CLIPS / "constructed-2-scenes.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    for name in ("text.mp4", "empty.mp4", "cut.mp4"):
        with pytest.raises(ValueError, match=rf"{name}.*cannot be read as a video"):
            read_video(tmp_path / name)
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(1600))
    with pytest.raises(ValueError, match=r"sound\.wav.*holds no video"):
        read_video(tmp_path / "sound.wav")
    assert read_video(write(tmp_path / "one.mp4", 1), frames=8).frames.shape == (1, 64, 64, 3)
    for wrong in ({"frames": 0}, {"fps": 0}, {"frames": 2, "fps": 1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            read_video(CLIPS / "constructed-2-scenes.mp4", **wrong)


@pytest.mark.parametrize("how", [dict(num_frames=8), dict(fps=2)], ids=str)
def test_a_processor_gets_what_transformers_own_reader_would_give_it(family, tmp_path, how):
    path = write(tmp_path / "a.mp4", 40, size=32)
    pixels, metadata = load_video(str(path), backend="pyav", **how)
    video = read_video(path, how.get("num_frames"), how.get("fps"))
    assert (video.frames == pixels).all() and video.numbers == tuple(metadata.frames_indices)
    assert (video.metadata.fps, video.total) == (metadata.fps, metadata.total_num_frames)
    processor = family.processor()
    ours = prompt(processor, video, "what happens first?")
    if family.name == "gemma3":
        shown = {"images": list(pixels)}
        content = [{"type": "image"}] * len(pixels)
    else:
        shown = {"videos": [pixels], "video_metadata": [metadata], "do_sample_frames": False}
        content = [{"type": "video"}]
    conversation = [{"role": "user", "content": [*content, {"type": "text", "text": "what happens first?"}]}]
    text = processor.apply_chat_template(conversation, add_generation_prompt=True)
    theirs = processor(text=text, return_tensors="pt", **shown)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    found = ADAPTERS[family.name].find_videos(family.model().config, ours)
    assert found.videos == ((TokenGrid(len(pixels) // family.paired, 4, 4),),)


@pytest.mark.parametrize("family", ["qwen3_vl", "video_llama_3", "smolvlm"], indirect=True)
def test_the_times_in_a_prompt_are_those_of_the_file(family, tmp_path):
    video = read_video(write(tmp_path / "a.mp4", 40, rate=4), frames=4)  # 10 seconds
    text = family.processor().tokenizer.decode(prompt(family.processor(), video, "?")["input_ids"][0])
    wanted = {
        "qwen3_vl": ["<1.2seconds>", "<6.2seconds>"],
        "video_llama_3": ["Time0.0s:", "Time2.5s:", "Time7.5s:"],
        "smolvlm": ["from00:00:", "from00:02:", "from00:07:"],
    }[family.name]
    assert all(time in text.replace(" ", "") for time in wanted), text


@pytest.mark.parametrize("family", ["qwen2_5_vl"], indirect=True)
def test_times_are_not_rounded_to_the_precision_of_a_model(family, tmp_path):
    video = read_video(np.zeros((9000 // 100, 32, 32, 3), np.uint8))
    video = dataclasses.replace(video, numbers=tuple(range(0, 9000, 100)), total=9000, fps=30.0)
    model = family.model().bfloat16()
    exact = prompt(family.processor(), video, "?")
    seconds = exact["second_per_grid_ts"].clone()
    moved = on_model(exact, model)
    assert moved["pixel_values_videos"].dtype == torch.bfloat16
    assert torch.equal(moved["second_per_grid_ts"], seconds) and seconds.bfloat16().float() != seconds
