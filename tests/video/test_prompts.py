"""A prompt with a video is what transformers' own processor makes of the same frames and times."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from helpers.families import FAMILIES, frames
from helpers.numbered import write
from transformers.video_utils import load_video

from dycoke_lab.evaluation.one_prompt import answer_prompt
from dycoke_lab.methods import TTM, Compression
from dycoke_lab.models import ADAPTERS
from dycoke_lab.models.token_layout import TokenGrid
from dycoke_lab.video import chat, on_model, prompt, read_video


@pytest.mark.parametrize("how", [dict(num_frames=8), dict(fps=2)], ids=str)
def test_a_processor_gets_what_transformers_own_reader_would_give_it(family, tmp_path, how):
    path = write(tmp_path / "a.mp4", 40, rate=8, wide=32, high=32)
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


@pytest.mark.parametrize("family", ["qwen3_vl", "video_llama_3", "smolvlm"], indirect=True)
def test_uneven_times_in_a_prompt_are_true(family, tmp_path):
    times = [0, 10_000, *(20_000 + 50 * k for k in range(38))]
    path = write(tmp_path / "a.mp4", 40, times=times, rate=20, wide=32, high=32)
    video = read_video(path, frames=4)  # shown at 0, 20.4, 20.9 and 21.4 s
    text = family.processor().tokenizer.decode(prompt(family.processor(), video, "?")["input_ids"][0])
    wanted = {
        "qwen3_vl": ["<10.2seconds>", "<21.1seconds>"],  # of two frames each
        "video_llama_3": ["Time0.0s:", "Time20.4s:", "Time20.9s:", "Time21.4s:"],
        "smolvlm": ["from00:00:", "from00:20:", "from00:21:"],
    }[family.name]
    assert all(time in text.replace(" ", "") for time in wanted), text


WRONG = {
    "a path": ([{"type": "video", "video": "a.mp4"}], TypeError, r"video is a str: give what read_video"),
    "an array": (
        [{"type": "video", "video": np.zeros((2, 8, 8, 3))}],
        TypeError,
        "video is a ndarray: give what",
    ),
    "a number": ([{"type": "text", "text": 7}], TypeError, "text is a int: give a string"),
    "sound": ([{"type": "audio", "audio": 1}], ValueError, "part of the content is .*audio.* it must be"),
    "no type": ([{"text": "what?"}], ValueError, "part of the content is .* it must be"),
    "text alone": (["what?"], ValueError, "part of the content is .*what.* it must be"),
}


@pytest.mark.parametrize("how", WRONG)
def test_a_conversation_that_cannot_be_written_is_refused(how):
    content, kind, message = WRONG[how]
    processor = FAMILIES["llava_onevision"].processor()
    with pytest.raises(kind, match=message):
        chat(processor, [{"role": "user", "content": content}])
    with pytest.raises(ValueError, match='must be a dict with "role" and "content"'):
        chat(processor, content)


def test_plain_text_is_content(family):
    plain, parts = (
        chat(family.processor(), [{"role": "user", "content": content}])["input_ids"]
        for content in ("what happens?", [{"type": "text", "text": "what happens?"}])
    )
    assert torch.equal(plain, parts)


def test_videos_of_unequal_length_are_read_or_refused(family):
    videos = [read_video(frames(count), rate=1) for count in (8, 4)]
    content = [{"type": "video", "video": video} for video in videos]
    content = [content[0], {"type": "text", "text": " then "}, content[1], {"type": "text", "text": "?"}]
    processor, messages = family.processor(), [{"role": "user", "content": content}]
    if family.name in ("llava_onevision", "llava_next_video", "internvl"):
        with pytest.raises(ValueError, match=r"have \[8, 4\] frames, and .* takes those .* same frames="):
            chat(processor, messages)
        return
    layout = ADAPTERS[family.name].find_videos(family.model().config, chat(processor, messages))
    assert [grid.frames * family.paired for grid in layout.videos[0]] == [8, 4]


def test_a_prompt_longer_than_the_models_positions_is_refused(family):
    inputs, model = prompt(family.processor(), read_video(frames(4), rate=1), "what?"), family.model()
    config = model.config.get_text_config()
    before, config.max_position_embeddings = config.max_position_embeddings, 20
    try:
        with pytest.raises(ValueError, match=r"the prompt has \d+ tokens, and the model 20 positions"):
            on_model(inputs, model)
    finally:
        config.max_position_embeddings = before


def test_one_frame_is_a_video_a_picture_or_refused(family):
    processor, model = family.processor(), family.model()
    video = read_video(frames(1), rate=1)
    if family.name == "qwen3_vl":
        with pytest.raises(ValueError, match="a video of 1 frame: Qwen3VLProcessor needs two or more"):
            prompt(processor, video, "what?")
        return
    inputs = on_model(prompt(processor, video, "what?"), model)
    if family.name in ("internvl", "smolvlm", "gemma3"):  # whose videos are images
        with pytest.raises(ValueError, match=r"inputs holds no video: .* of two frames or more"):
            answer_prompt(model, processor, inputs, Compression(), 2)
        return
    full = answer_prompt(model, processor, inputs, Compression(), 2)
    merged = answer_prompt(model, processor, inputs, Compression.of(TTM(0.7)), 2)
    assert merged.text == full.text and merged.retained == full.retained == full.visual  # nothing repeats
