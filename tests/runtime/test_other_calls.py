"""Calls of other kinds than a plain `generate` of input_ids with a cache: equal to it, and to stock."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.families import decoder_of, frames
from helpers.matrix import generate
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from dycoke_lab import DyCoke, capture_attention
from dycoke_lab.methods import Dynamic

SETTINGS = {"nothing": DyCoke(0, 0), "merging": DyCoke(0.5, 0), "pruning": Dynamic(0.6, from_layer=2)}
setting = pytest.mark.parametrize("setting", SETTINGS)
BY_IMAGES = ("internvl", "smolvlm", "gemma3")


@pytest.fixture
def video(family):
    return family.inputs(["user\n", ("video", frames(8)), "what happens?"])


@pytest.mark.parametrize("setting", ["nothing", "merging"])
@pytest.mark.parametrize("how", ["no cache", "assistant", "prompt lookup"])
@pytest.mark.filterwarnings("ignore")
def test_other_ways_to_generate_write_the_same(family, model, video, setting, how):
    ways = {
        "no cache": dict(use_cache=False),
        "assistant": dict(assistant_model=model),
        "prompt lookup": dict(prompt_lookup_num_tokens=2),
    }
    with SETTINGS[setting](model):
        expected = generate(model, video, 5)[0]
        assert torch.equal(generate(model, video, 5, **ways[how])[0], expected)


@pytest.mark.parametrize("setting", ["nothing", "merging"])
def test_embeddings_in_place_of_ids_give_the_same(family, model, video, setting):
    """A prompt with a video; families whose videos are images need the words between them."""
    embeds = model.get_input_embeddings()(video["input_ids"]).detach()
    given = {**video, "input_ids": None, "inputs_embeds": embeds}
    with torch.no_grad():
        stock = model(**given, use_cache=True).logits
        with SETTINGS[setting](model):
            if family.name in BY_IMAGES and setting != "nothing":
                with pytest.raises(ValueError, match=r"images without input_ids: .* Call with"):
                    model(**given, use_cache=True)
                return
            ours = model(**given, use_cache=True).logits
            by_ids = model(**video, use_cache=True).logits
    if setting == "nothing":
        assert torch.equal(ours, stock)
    else:
        assert ours.shape == by_ids.shape != stock.shape
        if "qwen" not in family.name:  # which numbers places by ids alone, stock too
            assert torch.equal(ours, by_ids)


def test_pixels_without_a_prompt_are_refused(family, model, video):
    given = {name: value for name, value in video.items() if name != "input_ids"}
    with SETTINGS["merging"](model), pytest.raises(ValueError, match=r"input_ids is missing"):
        model(**given, use_cache=True)


@setting
@pytest.mark.parametrize(
    "family", ["llava_onevision", "llava_next_video", "qwen2_5_vl", "qwen3_vl"], indirect=True
)
def test_a_picture_given_with_embeddings_is_no_video(family, model, setting):
    inputs = family.inputs([("image", frames(1)[0]), "what is it?"])
    embeds = model.get_input_embeddings()(inputs["input_ids"]).detach()
    given = {name: value for name, value in inputs.items() if name != "input_ids"}
    settings = dict(max_new_tokens=4, do_sample=False)
    expected = model.generate(**given, inputs_embeds=embeds, **settings)
    with SETTINGS[setting](model):
        assert torch.equal(model.generate(**given, inputs_embeds=embeds, **settings), expected)


@setting
def test_a_context_leaves_nothing_that_a_copy_could_carry_away(family, model, setting):
    before = {name: dict(part._local_mapping) for name, part in _registries().items()}
    config, text = copy.deepcopy(model.config.to_dict()), decoder_of(model).config
    kernel = text._attn_implementation
    with SETTINGS[setting](model), capture_attention(model):
        carried = copy.deepcopy(model.config)
        assert carried.to_dict() == config and "dycoke" not in str(carried)
        assert text._attn_implementation == copy.deepcopy(text)._attn_implementation == kernel
        twin = type(model)(carried).eval()
        assert decoder_of(twin).config._attn_implementation == kernel
        with pytest.raises(RuntimeError, match="copy it before entering"):
            copy.deepcopy(model)
    assert {name: dict(part._local_mapping) for name, part in _registries().items()} == before


def _registries():
    return {"kernels": ALL_ATTENTION_FUNCTIONS, "masks": ALL_MASK_ATTENTION_FUNCTIONS}
