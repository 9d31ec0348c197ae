"""Where a prompt's videos are found, and where none are."""

from __future__ import annotations

import pytest
import torch
from helpers.families import frames
from helpers.matrix import mixed_prompts, together, visual_columns

from dycoke_lab.models import ADAPTERS, decoder_of, vision_attentions, vision_of
from dycoke_lab.models.token_layout import TokenGrid


def test_videos_are_found_where_they_were_put(family, model):
    prompts = mixed_prompts(family)
    inputs = together(family, [family.inputs(parts) for parts in prompts])
    layout = ADAPTERS[family.name].find_videos(model.config, inputs)
    for b, parts in enumerate(prompts):
        videos = visual_columns(family, parts, inputs["input_ids"][b])
        assert layout.videos[b] == tuple(TokenGrid(count, 4, 4) for count, _ in videos)
        expected = torch.cat([where for _, where in videos])
        assert torch.equal(layout.columns[b][layout.real[b]], expected)
    assert layout.length == inputs["input_ids"].shape[1]


@pytest.mark.parametrize("family", ["smolvlm", "internvl"], indirect=True)
def test_images_with_words_between_are_no_video(family, model):
    one, two = frames(2, 3)
    for parts in (
        ["question ", ("image", one), "question what is ", ("image", two), "compare"],
        ["question: ", ("image", one), "then: ", ("image", two), "compare"],
    ):
        assert ADAPTERS[family.name].find_videos(model.config, family.inputs(parts)) is None


def test_decoder_and_vision_tower_are_found(model):
    assert len(decoder_of(model).layers) == 4
    assert len(vision_attentions(model)) == (3 if model.config.model_type == "qwen3_vl" else 2)
    assert any(module is vision_of(model) for module in model.model.children())
