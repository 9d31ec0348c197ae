"""Later turns on the same cache: text, images, other prompts in between, and the cache after the context."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.families import FAMILIES, frames
from helpers.matrix import SETTINGS, compare_with_the_oracle, generate, longer, turn_of
from helpers.tiny import MERGING, PRUNING, cache_of, inputs_of

from dycoke_lab import TTM, DyCoke
from dycoke_lab.methods import Compression, Dynamic

ENDED = "inside a .*context that has ended"


@pytest.mark.parametrize("compression", SETTINGS, ids=str)
def test_a_second_turn_goes_on_with_the_same_cache(family, model, prompts, compression):
    """What is read at once is one step: all of it attends to what its last token chooses."""
    more = torch.randint(20, 60, (2, 5), generator=torch.Generator().manual_seed(0))
    compare_with_the_oracle(family, model, prompts, compression, more=more)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("positions", ["original", "repacked"])
def test_an_image_in_a_later_turn_keeps_the_grid_of_its_positions(name, positions):
    """A ratio so small that nothing goes: the same as stock, or the same shape of positions where they are
    numbered anew."""
    family = FAMILIES[name]
    model = family.model()
    first = family.inputs(["user\n", ("video", frames(6 * family.paired)), "then?"])

    def turns():
        given = []

        def note(module, args, inputs):
            given.append(inputs["position_ids"][-3:, 0].clone())

        sequences, _, cache = generate(model, first, 3)
        picture = family.inputs(["what ", ("image", frames(1, 7)[0]), "then?"])
        turn = longer(first, torch.cat([sequences, picture["input_ids"]], 1))
        turn["mm_token_type_ids"][:, sequences.shape[1] :] = picture["mm_token_type_ids"]
        turn = {key: value for key, value in turn.items() if key != "pixel_values_videos"}
        turn |= {key: picture[key] for key in ("pixel_values", "image_grid_thw")}
        hook = model.model.language_model.register_forward_pre_hook(note, with_kwargs=True)
        try:
            return generate(model, turn, 3, past_key_values=cache)[1], given[0]
        finally:
            hook.remove()

    expected, places = turns()
    with TTM(1e-9, positions=positions)(model):
        logits, found = turns()
    assert torch.equal(found - found[:, :1], places - places[:, :1])
    assert len(set(places[0].tolist())) < places.shape[1]
    if positions == "original":
        torch.testing.assert_close(logits, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("positions", ["original", "repacked"])
@pytest.mark.parametrize("prune_ratio", [0.0, 0.6])
@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_5_vl", "qwen3_vl"])
def test_another_prompt_in_between_changes_nothing(name, prune_ratio, positions):
    """Qwen's models remember where the prompt before ended, whoever's it was."""
    family = FAMILIES[name]
    model = family.model()
    one = family.inputs(["user\n", ("video", frames(8 * family.paired)), "then?"])
    two = family.inputs(["user\n", ("video", frames(4 * family.paired, 1)), "what happens first, and then?"])
    more = torch.randint(20, 60, (1, 4))
    compression = DyCoke(0.5, prune_ratio, from_layer=2, reselect_below=2.0, positions=positions)
    found = []
    for between in (False, True):
        with compression(model):
            sequences, _, cache = generate(model, one, 3)
            if between:
                generate(model, two, 3)
            turn = turn_of(torch.cat([sequences, more], 1))
            logits = [generate(model, turn, 3, past_key_values=cache)[1]]
            if between:
                generate(model, two, 3)
            with torch.no_grad():
                logits.append(model(input_ids=more[:, :1], past_key_values=cache).logits)
        found.append(torch.cat(logits, 1))
    assert torch.equal(found[0], found[1])


def test_merged_tokens_count_in_a_cache_and_it_is_closed_when_the_context_ends(family, model, prompts):
    inputs = family.inputs(prompts[0])
    for compression, closed in ((SETTINGS[0], True), (Dynamic(0.5, from_layer=2), False)):
        with compression(model):
            sequences, _, cache = generate(model, inputs, 3)
            assert (
                cache.get_seq_length() == sequences.shape[1] - 1
            )  # generate reads off it what has been read
        if closed:
            with pytest.raises(RuntimeError, match=ENDED):
                generate(model, turn_of(sequences), 2, past_key_values=cache)
        else:
            assert type(cache).__name__ == "DynamicCache"
            assert torch.isfinite(generate(model, turn_of(sequences), 2, past_key_values=cache)[1]).all()


@pytest.mark.parametrize("compression", [MERGING, PRUNING], ids=str)
def test_a_cache_goes_on_beyond_the_room_it_began_with(tiny, compression):
    inputs = inputs_of()
    with compression(tiny):
        sequences, _, cache = generate(tiny, inputs, 3)
        found = generate(tiny, turn_of(sequences), 270, past_key_values=cache)[0]
        assert cache.get_seq_length() == found.shape[1] - 1
        whole = generate(tiny, inputs, 3 + 270)[0]
    assert torch.equal(found[:, :-1], whole[:, :-1])


def test_a_cache_cannot_be_copied_inside(tiny):
    for compression in (MERGING, PRUNING):
        with compression(tiny):
            cache = generate(tiny, inputs_of(), 3)[2]
            with pytest.raises(RuntimeError, match="cannot be copied"):
                copy.deepcopy(cache)
    assert (
        copy.deepcopy(cache).get_seq_length() == cache.get_seq_length()
    )  # of pruning: nothing is gone from it


@pytest.mark.parametrize("compression", [MERGING, PRUNING], ids=str)
def test_a_cache_of_inference_mode_is_refused_outside_it(tiny, compression):
    with compression(tiny):
        with torch.inference_mode():
            sequences, _, cache = generate(tiny, inputs_of(), 3)
            generate(tiny, turn_of(sequences), 2, past_key_values=cache)
        with pytest.raises(RuntimeError, match="inference_mode"), torch.no_grad():
            tiny(input_ids=torch.tensor([[30]]), past_key_values=cache)


@pytest.mark.parametrize("compression", [MERGING, PRUNING], ids=str)
def test_gradients_are_refused_at_a_decoding_step(tiny, compression):
    """Since it writes keys and values in place. Merging leaves those of the prompt, pruning not even them."""
    given, ids = inputs_of(), torch.tensor([[30]])
    with Compression()(tiny), torch.enable_grad():
        cache = cache_of(tiny)
        tiny(**given, past_key_values=cache)
        assert tiny(input_ids=ids, past_key_values=cache).logits.requires_grad  # off: as stock
    with compression(tiny):
        cache = cache_of(tiny)
        with torch.set_grad_enabled(compression is MERGING):
            assert tiny(**given, past_key_values=cache).logits.requires_grad == (compression is MERGING)
        with pytest.raises(RuntimeError, match=r"decode under torch\.no_grad"):
            tiny(input_ids=ids, past_key_values=cache)
        if compression is PRUNING:
            with pytest.raises(RuntimeError, match=r"no gradients: .* under torch\.no_grad"):
                tiny(**given, past_key_values=cache_of(tiny))
    tiny.requires_grad_(False)
    try:
        with compression(tiny), torch.enable_grad():
            cache = cache_of(tiny)
            tiny(**given, past_key_values=cache)
            tiny(input_ids=ids, past_key_values=cache)  # nothing of a frozen model wants gradients
            embeds = torch.randn(1, 1, 32).double().requires_grad_()
            with pytest.raises(RuntimeError, match=r"decode under torch\.no_grad"):
                tiny(inputs_embeds=embeds, past_key_values=cache)
    finally:
        tiny.requires_grad_(True)


def test_crop_and_reset_are_refused_before_any_layer_did_it(tiny):
    with PRUNING(tiny):
        cache = generate(tiny, inputs_of(), 3)[2]
        lengths = [layer.get_seq_length() for layer in cache.layers]
        for change in (lambda: cache.crop(-1), cache.reset):
            with pytest.raises(NotImplementedError, match=r"a (pruned|compressed) cache cannot"):
                change()
        assert [layer.get_seq_length() for layer in cache.layers] == lengths
    cache.crop(-1)
    assert cache.get_seq_length() == lengths[0] - 1
