"""Frames that are given as images are known by the processor's own words between them alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.families import FAMILIES, frames
from PIL import Image

from dycoke_lab import DyCoke
from dycoke_lab.models import ADAPTERS, words
from dycoke_lab.video import chat, on_model, read_video

BY_IMAGES = ["internvl", "smolvlm", "gemma3"]
by_images = pytest.mark.parametrize("family", BY_IMAGES, indirect=True)
VIDEOS = [read_video(frames(8, seed), rate=1) for seed in (0, 1)]


def asked(family, *content):
    """A prompt of text, videos (Video) and pictures (an array)."""
    parts = []
    for part in content:
        kind = "text" if isinstance(part, str) else "image" if isinstance(part, np.ndarray) else "video"
        parts.append({"type": kind, kind: Image.fromarray(part) if kind == "image" else part})
    return chat(family.processor(), [{"role": "user", "content": parts}])


def found(family, inputs):
    layout = ADAPTERS[family.name].find_videos(family.model().config, inputs)
    return [] if layout is None else [grid.frames for grid in layout.videos[0]]


@pytest.mark.parametrize("before", ["", "user "])
@pytest.mark.parametrize(
    "between", ["", " ", " and ", "\n", "then ", "compare with the following video ", "s " * 20]
)
@pytest.mark.parametrize("family", [*BY_IMAGES, "llava_onevision"], indirect=True)
def test_two_videos_are_two_whatever_stands_between(family, before, between):
    content = [part for part in (before, VIDEOS[0], between, VIDEOS[1], " what happens first?") if part != ""]
    if family.name == "gemma3" and not between.strip():
        with pytest.raises(ValueError, match="a video follows a video at once"):
            asked(family, *content)
        return
    assert found(family, asked(family, *content)) == [8, 8]


@pytest.mark.parametrize(
    "labels", [("Image-1: ", "\nImage-2: ", "\nImage-3: "), ("Frame: ", "\nFrame: ", "\nFrame: ")]
)
@by_images
def test_pictures_with_labels_of_ones_own_are_no_video(family, labels):
    pictures = [frames(1, seed)[0] for seed in (0, 3, 7)]
    content = [part for pair in zip(labels, pictures, strict=True) for part in pair]
    inputs = asked(family, *content, "\ncompare the images")
    assert found(family, inputs) == []
    model = family.model()
    inputs = on_model(inputs, model)
    settings = dict(max_new_tokens=3, do_sample=False, output_logits=True, return_dict_in_generate=True)
    stock = model.generate(**inputs, **settings)
    with DyCoke(0.7, 0.5, from_layer=2)(model):
        ours = model.generate(**inputs, **settings)
    assert all(torch.equal(one, other) for one, other in zip(stock.logits, ours.logits, strict=True))


@pytest.mark.parametrize("family", ["internvl", "smolvlm"], indirect=True)
def test_a_picture_beside_a_video_is_none_of_its_frames(family):
    if family.name == "smolvlm":
        pytest.skip("its processor takes pictures or videos, not both")
    assert found(family, asked(family, VIDEOS[0], frames(1, 5)[0], " what happens?")) == [8]
    assert found(family, asked(family, frames(1, 5)[0], VIDEOS[0], " what happens?")) == [8]


@by_images
def test_a_processor_that_is_not_known_is_asked_for(family, monkeypatch, tmp_path):
    inputs, config = asked(family, VIDEOS[0], "what happens?"), family.model().config
    monkeypatch.setattr(words, "_LEARNT", {})
    words._beside.cache_clear()
    with pytest.raises(ValueError, match=r"dycoke_lab\.models\.learn\(processor\)"):
        ADAPTERS[family.name].find_videos(config, inputs)
    family.processor().save_pretrained(tmp_path)
    monkeypatch.setattr(words, "_LEARNT", {})
    monkeypatch.setattr(config, "_name_or_path", str(tmp_path))
    assert found_in(family, config, inputs) == [8]  # the one beside the checkpoint


def found_in(family, config, inputs):
    return [grid.frames for grid in ADAPTERS[family.name].find_videos(config, inputs).videos[0]]


def test_the_latest_processors_are_remembered(monkeypatch):
    monkeypatch.setattr(words, "_LEARNT", {})
    processors = [FAMILIES["internvl"].make_processor.__wrapped__() for _ in range(words.MOST + 2)]
    for processor in [*processors, processors[-1]]:
        words.learn(processor)
    words.learn(object())
    assert {"internvl": processors[2:]} == words._LEARNT
