"""What cannot work is refused before any token is made, with a message that says what to do."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from helpers.families import frames
from helpers.matrix import SETTINGS, generate, longer
from helpers.tiny import FAMILY, MERGING, cache_of, inputs_of, text_of, write
from transformers.cache_utils import DynamicCache, StaticCache

from dycoke_lab import DyCoke, capture_attention
from dycoke_lab.apply import from_layer_for
from dycoke_lab.methods import METHODS, Dynamic, FastV, Selector
from dycoke_lab.models import HOW_TO
from dycoke_lab.results.folders import ROOT
from dycoke_lab.runtime.compat import CACHE


def test_what_cannot_work_is_refused_before_any_token(family, model, inputs):
    usual = DyCoke(from_layer=2)
    for pruning in (DyCoke(from_layer=4), FastV(0.5, from_layer=4)):
        with pytest.raises(ValueError, match=r"from_layer=4.* 4 decoder layers"), pruning(model):
            pass
    with pytest.raises(ValueError, match=f"give {CACHE}=DynamicCache"), usual(model), torch.no_grad():
        model(**inputs, use_cache=False)
    with pytest.raises(RuntimeError, match=r"inside a .*context already"), usual(model), usual(model):
        pass
    with (
        pytest.raises(ValueError, match="heads='max' must be 'mean' or 'all'"),
        capture_attention(model, "max"),
    ):
        pass


def test_an_unsupported_model_is_told_how_to_become_supported():
    for context in (DyCoke(), capture_attention):
        with pytest.raises(
            TypeError, match=rf"has no adapter here; supported: llava_onevision.*gemma3.*{HOW_TO}"
        ):
            context(torch.nn.Linear(2, 2)).__enter__()
    assert (ROOT / HOW_TO).is_file()


@pytest.mark.parametrize(
    ("family", "pruning", "message"),
    [
        ("gemma3", Dynamic(from_layer=3), "layer 2, whose attention would be the score, .*from_layer from 2"),
        ("gemma3", FastV(from_layer=2), "FastV.* drops tokens inside the prefill.*sliding window"),
        ("qwen3_vl", FastV(from_layer=1), "the first 2 layers get visual tokens of their own"),
    ],
    indirect=["family"],
)
def test_what_a_family_cannot_do_is_refused(family, model, pruning, message):
    with pytest.raises(ValueError, match=message), pruning(model):
        pass


@pytest.mark.parametrize("family", ["video_llama_3"], indirect=True)
def test_tokens_that_the_processor_dropped_are_named(family, model, inputs):
    inputs = {**inputs, "video_compression_mask": inputs["video_compression_mask"].clone()}
    inputs["video_compression_mask"][3] = False
    with pytest.raises(ValueError, match="use_token_compression"), DyCoke()(model):
        generate(model, inputs)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_onevision"], indirect=True)
def test_videos_given_again_or_of_unknown_size_are_named(family, model, prompts):
    inputs = family.inputs(prompts[0])
    with SETTINGS[0](model):
        sequences, _, cache = generate(model, inputs, 3)
        with pytest.raises(ValueError, match="not again in a later turn"):
            generate(model, longer(inputs, sequences), 2, past_key_values=cache)
        with pytest.raises(ValueError, match="no prefill_chunk_size"):
            generate(model, inputs, 2, prefill_chunk_size=32)
    if family.name == "qwen2_5_vl":
        with torch.no_grad():
            video = model.model.get_video_features(
                inputs["pixel_values_videos"], inputs["video_grid_thw"], return_dict=True
            )
        text = {name: inputs[name] for name in ("input_ids", "attention_mask", "mm_token_type_ids")}
        with pytest.raises(ValueError, match="sizes are not known"), SETTINGS[0](model):
            generate(model, {**text, "mm_encoder_outputs": {"video": video}}, 2)


@pytest.mark.parametrize("family", ["gemma3"], indirect=True)
def test_an_image_in_a_later_turn_is_refused_where_its_tokens_see_each_other(family, model, prompts):
    inputs = family.inputs(prompts[0])
    with Dynamic(0.5, from_layer=2)(model):
        sequences, _, cache = generate(model, inputs, 3)
        picture = family.inputs([("image", frames(1)[0]), "then?"])
        ids = torch.cat([sequences, picture["input_ids"]], 1)
        types = torch.nn.functional.pad(picture["token_type_ids"], (sequences.shape[1], 0))
        turn = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": types}
        with pytest.raises(ValueError, match="a later turn"):
            generate(model, {**turn, "pixel_values": picture["pixel_values"]}, 2, past_key_values=cache)


def test_what_generate_cannot_do_is_refused(family, model, prompts):
    inputs = family.inputs(prompts[0])
    with SETTINGS[0](model):
        with pytest.raises(ValueError, match=r"is a StaticCache: .* needs? a DynamicCache"):
            generate(model, inputs, cache_implementation="static")
        static = StaticCache(model.config.get_text_config(), max_cache_len=512)
        with pytest.raises(ValueError, match="DynamicCache on the model's device"):
            generate(model, inputs, past_key_values=static)
        cache = DynamicCache(config=model.config.get_text_config())
        with torch.no_grad():
            model(input_ids=torch.tensor([[30, 31]]), past_key_values=cache)
        with pytest.raises(ValueError, match="already holds tokens"), torch.no_grad():
            model(**inputs, past_key_values=cache)
        with pytest.raises(NotImplementedError, match="generate without an assistant"):
            generate(model, inputs, prompt_lookup_num_tokens=3)
    model.hf_device_map = {"model": "cpu", "lm_head": "disk"}
    try:
        with pytest.raises(ValueError, match=r"spread over \['cpu', 'disk'\] by device_map"), DyCoke()(model):
            pass
    finally:
        del model.hf_device_map


@pytest.mark.filterwarnings("ignore:.*script_method")
def test_a_compiled_model_is_refused(tiny):
    with pytest.raises(ValueError, match="model is compiled"), DyCoke()(torch.compile(tiny)):
        pass


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("whole", [False, True])
def test_a_model_that_is_compiled_inside_is_refused_in_our_words(whole):
    own = copy.deepcopy(FAMILY.model())
    message = "run the model uncompiled inside"
    with MERGING(own), torch.no_grad(), pytest.raises(RuntimeError, match=message):
        torch.compile(own, backend="eager", fullgraph=whole)(**inputs_of(), use_cache=False)
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore")
def test_what_has_a_place_for_each_token_is_refused_after_merging(family, model, prompts):
    inputs = family.inputs(prompts[0])
    labels = inputs["input_ids"]
    right = inputs["attention_mask"].clone()
    right[:, -2:] = 0
    with torch.no_grad():
        expected = model(**inputs, labels=labels).loss
        with DyCoke(0, 0)(model):
            assert torch.equal(model(**inputs, labels=labels).loss, expected)
        with DyCoke(0.5, 0)(model):
            with pytest.raises(ValueError, match="labels has a place for each token"):
                model(**inputs, labels=labels)
            with pytest.raises(ValueError, match=r"padding on the right: .* Pad on the left"):
                model(**{**inputs, "attention_mask": right})
    with DyCoke(0.5, 0)(model):
        with pytest.raises(NotImplementedError, match="output_hidden_states=True: generate with"):
            generate(model, inputs, 4, assistant_model=model, output_hidden_states=True)
        generate(model, inputs, 4, assistant_model=model)


def test_off_takes_what_stock_takes(tiny):
    given = inputs_of()
    expected = write(tiny, given, cache_implementation="static")[0]
    text = text_of(1, 7)
    caches = [cache_of(tiny), cache_of(tiny)]
    with torch.no_grad():
        tiny(input_ids=text, past_key_values=caches[0])
        turn = tiny(**given, past_key_values=caches[0]).logits
    with DyCoke(merge_ratio=0, prune_ratio=0)(tiny), torch.no_grad():
        assert torch.equal(write(tiny, given, cache_implementation="static")[0], expected)
        tiny(input_ids=text, past_key_values=caches[1])
        assert torch.equal(tiny(**given, past_key_values=caches[1]).logits, turn)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["prompt in parts", "on two devices", "flex_attention", "compiled"])
def test_off_takes_each_model_that_stock_takes(how):
    own, given = FAMILY.model(), inputs_of()
    expected = own.generate(**given, max_new_tokens=3, do_sample=False)
    if how == "prompt in parts":
        own.generation_config.prefill_chunk_size = 7
    elif how == "on two devices":
        own.hf_device_map = {"model": "cpu", "lm_head": "disk"}
    elif how == "flex_attention":
        own.set_attn_implementation(how)
    used = torch.compile(own, backend="eager") if how == "compiled" else own
    with pytest.raises(ValueError, match=r"compiled|prefill_chunk_size|spread over|flex"), DyCoke()(used):
        pass
    with DyCoke(merge_ratio=0, prune_ratio=0)(used):
        own.set_attn_implementation("sdpa")
        assert torch.equal(used.generate(**given, max_new_tokens=3, do_sample=False), expected)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("input_ids", lambda ids: None),
        ("input_ids", lambda ids: ids.tolist()),
        ("pixel_values_videos", lambda pixels: pixels.tolist()),
        ("pixel_values_videos", torch.flatten),
    ],
)
def test_off_refuses_in_the_words_of_stock(tiny, name, change):
    given = inputs_of()
    given[name] = change(given[name])
    with pytest.raises((AttributeError, TypeError, ValueError), match=r".") as stock:
        tiny(**given)
    with pytest.raises(stock.type, match=re.escape(str(stock.value))), DyCoke(0, 0)(tiny):
        tiny(**given)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (lambda step: step.candidates, r"chose \[80\] tokens, .*budget is \[24\]"),
        (lambda step: torch.ones_like(step.candidates), "chose tokens that "),
        (lambda step: step.scores, r"must return a boolean tensor .*\(1, 128\).*torch.float"),
        (lambda step: step.candidates[0], r"torch.bool, \(128,\)"),
        (lambda step: [3, 4], "list"),
    ],
)
@pytest.mark.parametrize("registered", [False, True])
def test_what_an_own_selector_may_not_choose_is_named(tiny, chosen, message, registered, monkeypatch):
    class Own(Selector):
        def select(self, step):
            return chosen(step)

    if registered:
        monkeypatch.setitem(METHODS, "own", Own)
    own = (METHODS["own"] if registered else Own)(0.7, from_layer=2)
    with pytest.raises(ValueError, match=message), (MERGING + own)(tiny):
        write(tiny, inputs_of())


def test_a_part_of_a_model_is_named(tiny):
    for call in (DyCoke(), capture_attention):
        with pytest.raises(TypeError, match="give the whole model"):
            call(tiny.model).__enter__()
    small = type(tiny)(copy.deepcopy(tiny.config))
    del small.model.language_model.layers[1:]
    with pytest.raises(ValueError, match="has 1 decoder layers"):
        from_layer_for(small)
