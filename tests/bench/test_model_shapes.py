"""Models of published shapes have their published size, and prompts the frames of their shape."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from dycoke_lab.bench.model_shapes import SHAPES, build_model, random_prompt
from dycoke_lab.models import adapter_for, decoder_of
from dycoke_lab.models.token_layout import TokenGrid

BILLIONS = {"llava-ov-0.5b": 0.49, "llava-ov-7b": 7.6, "qwen2.5-vl-3b": 3.1, "qwen2.5-vl-7b": 7.6}


@pytest.mark.parametrize("name", list(BILLIONS))
def test_published_shapes_have_their_published_size(name):
    model = build_model(name, "meta")
    decoder = sum(p.numel() for p in decoder_of(model).parameters())
    output = 0 if SHAPES[name].tied else model.lm_head.weight.numel()
    assert (decoder + output) / 1e9 == pytest.approx(BILLIONS[name], rel=0.02)
    assert SHAPES[name].parameters == pytest.approx(decoder + output, rel=0.001)


@pytest.mark.parametrize("name", list(SHAPES))
def test_random_prompt_has_the_frames_of_its_shape(name):
    """Also where the model has a small vision tower, which is not to be measured."""
    model = build_model(name, "meta")
    stand_in = SimpleNamespace(device="cpu", dtype=torch.float32, config=model.config)
    layout = adapter_for(model).find_videos(model.config, random_prompt(name, stand_in, 3, 2))
    assert layout.videos == ((TokenGrid(3, *SHAPES[name].grid),),) * 2
