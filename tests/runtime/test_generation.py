"""Generation as people use it: batches of mixed prompts, beams, several answers, streams, later turns, and what is refused."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from dycoke_lab.cache import RoomLayer
from families import FAMILIES, ID, decoder_of, frames
from test_methods import STEPS, WORDS, compare_with_the_oracle, generate, longer
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)
from transformers.cache_utils import DynamicCache, DynamicLayer, StaticCache
from transformers.masking_utils import flash_attention_mask

from dycoke_lab import DyCoke, capture_attention, prune
from dycoke_lab.models import ADAPTERS

SETTINGS = [
    dict(merge_ratio=0.5, prune_ratio=0.6, gate=0.97),
    dict(merge_ratio=0.5, prune_ratio=0.0),
    dict(merge_threshold=0.9, prune_ratio=0.5, gate=2.0),
    dict(merge_ratio=0.3, prune_ratio=0.5, method="last_query", positions="repacked"),
]


def config_for(family, settings):
    return DyCoke(score_layer=2, **settings)


def together(family, singles):
    """Inputs of several prompts as one left-padded batch, as a processor would join them."""
    length = max(single["input_ids"].shape[1] for single in singles)
    joined = {}
    for name in singles[0]:
        values = [single[name] for single in singles]
        if name in ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"):
            values = [torch.nn.functional.pad(v, (length - v.shape[1], 0)) for v in values]
        elif family.name == "smolvlm":  # its pictures are padded to the longest sample
            most = max(v.shape[1] for v in values)
            values = [
                torch.nn.functional.pad(v, (0,) * (2 * v.ndim - 4) + (0, most - v.shape[1])) for v in values
            ]
        joined[name] = torch.cat(values)
    return joined


def mixed_prompts(family):
    """Three prompts of other lengths, with videos of other lengths, or, where a batch's videos are all of one, another number."""
    one, two, three = (
        frames(count * family.paired, seed) for count, seed in ((6, 1), (6 if family.equal else 3, 2), (6, 5))
    )
    if family.equal:
        return [["user\n", ("video", one), "then?"], ["Here is ", ("video", two), WORDS, ("video", three), "what?"],
                ["question ", ("video", three), "what is first?"]]  # fmt: skip
    longest = frames(9 * family.paired, 4)
    return [
        ["user\n", ("video", one), "then?"],
        ["Here is ", ("video", two), "what happens first?"],
        ["You ", ("video", longest), WORDS],
    ]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_padded_batch_of_mixed_prompts_equals_the_single_runs(family, model, settings):
    model.set_attn_implementation("sdpa")
    singles = [family.inputs(parts) for parts in mixed_prompts(family)]
    with config_for(family, settings)(model):
        alone = []
        for single in singles:
            with capture_attention(model) as trace:
                alone.append((*generate(model, single)[:2], trace))
        with capture_attention(model) as trace:
            sequences, logits, _ = generate(model, together(family, singles))
    for b, (written, expected, own) in enumerate(alone):
        torch.testing.assert_close(logits[b], expected[0], atol=1e-6, rtol=0)
        assert torch.equal(sequences[b, -STEPS:], written[0, -STEPS:])
        for layer in range(4):
            assert torch.equal(trace.kept(layer, b), own.kept(layer))
            torch.testing.assert_close(trace.stack(layer, b), own.stack(layer), atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", ["llava_onevision"], indirect=True)
@pytest.mark.parametrize("looking", [True, False], ids=["cpu", "as a gpu"])
def test_a_sample_without_a_video_may_stand_in_a_batch(family, model, looking, monkeypatch):
    """Also if it has just as many columns to attend to as the others keep, or one less."""
    monkeypatch.setattr(prune, "free_to_look", lambda device: looking)
    model.set_attn_implementation("sdpa")
    video = family.inputs(["user\n", ("video", frames(2, 1)), "then?"])
    columns = video["input_ids"].shape[1]
    kept = columns - 32 + int(0.1 * 32 + 0.5)
    with DyCoke(merge_ratio=0.0, prune_ratio=0.9, score_layer=2, gate=2.0)(model):
        expected = generate(model, video)[1]
        for words in range(kept - 2, kept + 2):
            batch = {
                **video,
                "input_ids": video["input_ids"].repeat(2, 1),
                "attention_mask": video["attention_mask"].repeat(2, 1),
            }
            batch["input_ids"][1] = 60
            batch["attention_mask"][1, : columns - words] = 0
            text = {name: batch[name][1:, columns - words :] for name in ("input_ids", "attention_mask")}
            found = generate(model, batch)[1]
            torch.testing.assert_close(found[:1], expected, atol=1e-5, rtol=0)
            torch.testing.assert_close(found[1:], generate(model, text)[1], atol=1e-5, rtol=0)


def test_off_is_bit_identical_in_a_padded_batch(family, model):
    inputs = together(family, [family.inputs(parts) for parts in mixed_prompts(family)])
    stock = generate(model, inputs)[1]
    with DyCoke(merge_ratio=0, prune_ratio=0)(model), capture_attention(model):
        assert torch.equal(generate(model, inputs)[1], stock)


@pytest.mark.parametrize(
    "settings", [*SETTINGS, dict(merge_ratio=0.5, prune_ratio=0.6, waiting="nowhere")], ids=str
)
def test_kv_lengths_and_bytes_are_as_predicted_in_every_layer(family, model, prompts, settings):
    inputs = family.inputs(prompts[0])
    with config_for(family, settings)(model), capture_attention(model) as trace:
        _, _, cache = generate(model, inputs)
        read = [layer.keys.shape[2] for layer in cache.layers]
        a_column = [2 * layer.keys[:, :, 0].numel() * layer.keys.element_size() for layer in cache.layers]
        held = [
            layer.held() if hasattr(layer, "held") else n * a
            for layer, n, a in zip(cache.layers, read, a_column, strict=True)
        ]
    prompt = inputs["input_ids"].shape[1]
    left = int(trace.kept(1)[-1].sum()) if family.name == "gemma3" else int(trace.kept(0)[-1].sum())
    if "merge_ratio" in settings:
        assert left == 128 - 6 * (16 - int((1 - settings["merge_ratio"]) * 16 + 0.5))
    rest = prompt - 128 + STEPS - 1
    kept = max(1, int((1 - settings["prune_ratio"]) * left + 0.5))
    for number in range(4):
        pruned = settings["prune_ratio"] and number >= 2
        if family.name == "gemma3" and number % 2 == 0:
            assert (
                read[number] == held[number] // a_column[number] == 39
            )  # the window, less the token that is read next
            continue
        waits = pruned and settings.get("method") is None and settings.get("waiting", "device") == "device"
        assert read[number] == rest + (kept if pruned else left)
        assert held[number] == a_column[number] * (
            rest + (kept if pruned else left) + (left - kept if waits else 0)
        )


def test_capture_agrees_with_eager_output_attentions(family, model, inputs):
    model.set_attn_implementation("eager")
    with capture_attention(model, heads="all") as trace:
        out = model.generate(
            **inputs,
            max_new_tokens=4,
            min_new_tokens=4,
            do_sample=False,
            return_dict_in_generate=True,
            output_attentions=True,
        )
    model.set_attn_implementation("sdpa")
    assert len(trace) == len(out.attentions) == 4
    length = inputs["input_ids"].shape[1]
    at = next(iter(trace.videos))[0]
    assert at.tokens == 128
    from dycoke_lab.models import adapter_for

    columns = adapter_for(model).find_videos(model.config, inputs).columns
    for step, layers in enumerate(out.attentions):
        for number, weights in enumerate(layers):
            gone = length + step - weights.shape[3]  # what a sliding window has left behind
            for b in range(2):
                where = columns[b] - gone
                expected = torch.where(where >= 0, weights[b, :, -1, where.clamp(min=0)], 0.0)
                torch.testing.assert_close(
                    trace.attention[step][number, :, b].double(), expected.double(), atol=1e-5, rtol=0
                )


BEAMS = [
    dict(num_beams=3),
    dict(num_beams=4, num_return_sequences=2),
    dict(do_sample=True, num_return_sequences=3, top_k=20),
]


@pytest.mark.parametrize("how", BEAMS, ids=str)
def test_beams_and_several_answers_are_what_a_mask_would_give(family, model, prompts, how):
    """Each answer's score is that of the same answer, word for word, forced through a run on its own."""
    inputs = family.inputs(prompts[1])
    settings = dict(max_new_tokens=5, min_new_tokens=5, return_dict_in_generate=True, output_scores=True)
    with config_for(family, SETTINGS[0])(model):
        torch.manual_seed(3)
        out = model.generate(**inputs, **{"do_sample": False, **how}, **settings)
        sampled = how.get("do_sample", False)
        scores = model.compute_transition_scores(
            out.sequences, out.scores, None if sampled else out.beam_indices, normalize_logits=sampled
        )
        prompt = inputs["input_ids"].shape[1]
        for written, score in zip(out.sequences[:, prompt:], scores, strict=True):
            again = model.generate(
                **inputs, **settings, do_sample=False, output_logits=True,
                prefix_allowed_tokens_fn=lambda _, ids, words=written: [int(words[len(ids) - prompt])],
            )  # fmt: skip
            logits = torch.stack(again.logits)[:, 0].double()
            if sampled:
                logits[:, ID["<|end|>"]] = -torch.inf  # by min_new_tokens
                logits = logits.masked_fill(logits < logits.topk(20).values[:, -1:], -torch.inf)
            expected = logits.log_softmax(-1).gather(1, written[:, None])[:, 0]
            torch.testing.assert_close(score.double(), expected, atol=1e-4, rtol=0)


def test_sampling_streaming_and_stopping(model, family, prompts):
    inputs = family.inputs(prompts[0])
    tokenizer = family.processor().tokenizer
    with config_for(family, SETTINGS[0])(model):
        sampled = [generate(model, inputs, do_sample=True) for _ in range(2) if torch.manual_seed(5)]
        assert torch.equal(sampled[0][0], sampled[1][0])
        greedy = generate(model, inputs)[0]
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
        model.generate(
            **inputs, max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False, streamer=streamer
        )
        plain = model.generate(**inputs, max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False)
        assert "".join(streamer) == tokenizer.decode(plain[0, inputs["input_ids"].shape[1] :])

        class AfterThree(StoppingCriteria):
            def __call__(self, ids, scores, **_):
                return torch.full((len(ids),), ids.shape[1] >= inputs["input_ids"].shape[1] + 3)

        stopped = generate(model, inputs, stopping_criteria=StoppingCriteriaList([AfterThree()]))[0]
        assert (
            torch.equal(stopped, greedy[:, : stopped.shape[1]])
            and stopped.shape[1] == inputs["input_ids"].shape[1] + 3
        )


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_second_turn_goes_on_with_the_same_cache(family, model, prompts, settings):
    """What is read at once is one step: all of it attends to what its last token chooses."""
    more = torch.randint(20, 60, (2, 5), generator=torch.Generator().manual_seed(0))
    settings = {"method": "dynamic", "score_layer": 2, **settings}
    compare_with_the_oracle(family, model, prompts, more=more, **settings)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_later_turn_may_bring_padding(family, model, prompts, settings):
    """Answers of other lengths, then questions of other lengths: the second turn of a batch equals the single runs."""
    if family.name == "gemma3":
        pytest.skip("a window counts padding too, in stock transformers as here")
    inputs = family.inputs(*prompts)
    more = torch.randint(20, 60, (2, 5), generator=torch.Generator().manual_seed(0))
    with config_for(family, settings)(model):
        sequences, _, cache = generate(model, inputs, 3)
        whole = longer(inputs, torch.cat([sequences, more], 1))
        start = sequences.shape[1]
        whole["attention_mask"][0, start : start + 2] = 0
        turn = {name: whole[name] for name in ("input_ids", "attention_mask")}
        logits = generate(model, turn, 3, past_key_values=cache)[1]
        for b, parts in enumerate(prompts):
            own, _, cache = generate(model, family.inputs(parts), 3)
            follow = torch.cat([own, more[b : b + 1, 2 if b == 0 else 0 :]], 1)
            asked = {"input_ids": follow, "attention_mask": torch.ones_like(follow)}
            torch.testing.assert_close(
                generate(model, asked, 3, past_key_values=cache)[1][0], logits[b], atol=1e-6, rtol=0
            )


def test_merged_tokens_count_in_a_cache_and_it_is_closed_when_the_context_ends(family, model, prompts):
    inputs = family.inputs(prompts[0])
    for settings, closed in ((SETTINGS[0], True), (dict(merge_ratio=0, prune_ratio=0.5), False)):
        with config_for(family, settings)(model):
            sequences, _, cache = generate(model, inputs, 3)
            assert (
                cache.get_seq_length() == sequences.shape[1] - 1
            )  # generate reads off it what has been read
        follow = {"input_ids": sequences, "attention_mask": torch.ones_like(sequences)}
        if closed:
            with pytest.raises(RuntimeError, match="inside a DyCoke context that has ended"):
                generate(model, follow, 2, past_key_values=cache)
        else:
            assert torch.isfinite(generate(model, follow, 2, past_key_values=cache)[1]).all()


def test_a_cache_cannot_be_copied_inside_and_can_be_written_outside_inference_mode(family, model, prompts):
    inputs = family.inputs(prompts[0])
    with config_for(family, SETTINGS[0])(model):
        with torch.inference_mode():
            sequences, _, cache = generate(model, inputs, 3)
        with pytest.raises(RuntimeError, match="cannot be copied"):
            copy.deepcopy(cache)
        follow = {"input_ids": sequences, "attention_mask": torch.ones_like(sequences)}
        generate(model, follow, 70, past_key_values=cache)  # longer than the room the buffer began with
    with config_for(family, dict(merge_ratio=0, prune_ratio=0.5))(model):
        cache = generate(model, inputs, 3)[2]
    assert copy.deepcopy(cache).get_seq_length() == cache.get_seq_length()


@pytest.mark.parametrize("family", ["gemma3"], indirect=True)
def test_a_picture_in_a_later_turn_is_refused_where_images_see_themselves(family, model, prompts):
    inputs = family.inputs(prompts[0])
    with DyCoke(merge_ratio=0, score_layer=2, prune_ratio=0.5)(model):
        sequences, _, cache = generate(model, inputs, 3)
        picture = family.inputs([("image", frames(1)[0]), "then?"])
        ids = torch.cat([sequences, picture["input_ids"]], 1)
        types = torch.nn.functional.pad(picture["token_type_ids"], (sequences.shape[1], 0))
        turn = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": types}
        with pytest.raises(ValueError, match="a picture in a later turn"):
            generate(model, {**turn, "pixel_values": picture["pixel_values"]}, 2, past_key_values=cache)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_onevision"], indirect=True)
def test_videos_given_again_or_of_unknown_size_are_named(family, model, prompts):
    inputs = family.inputs(prompts[0])
    with config_for(family, SETTINGS[0])(model):
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
        with pytest.raises(ValueError, match="sizes are not known"), config_for(family, SETTINGS[0])(model):
            generate(model, {**text, "mm_encoder_outputs": {"video": video}}, 2)


@pytest.mark.parametrize("family", ["smolvlm", "internvl"], indirect=True)
def test_pictures_with_words_between_are_no_video(family, model):
    one, two = frames(2, 3)
    for parts in (
        ["question ", ("image", one), "question what is ", ("image", two), "compare"],
        ["question: ", ("image", one), "then: ", ("image", two), "compare"],
    ):
        assert ADAPTERS[family.name].find_videos(model.config, family.inputs(parts)) is None


def test_what_generate_cannot_do_is_refused(family, model, prompts):
    inputs = family.inputs(prompts[0])
    with config_for(family, SETTINGS[0])(model):
        with pytest.raises(ValueError, match="is a StaticCache: DyCoke needs a DynamicCache"):
            generate(model, inputs, cache_implementation="static")
        with pytest.raises(ValueError, match="DynamicCache on the model's device"):
            generate(
                model, inputs, past_key_values=StaticCache(model.config.get_text_config(), max_cache_len=512)
            )
        cache = DynamicCache(config=model.config.get_text_config())
        with torch.no_grad():
            model(input_ids=torch.tensor([[30, 31]]), past_key_values=cache)
        with pytest.raises(ValueError, match="already holds tokens"), torch.no_grad():
            model(**inputs, past_key_values=cache)
        with pytest.raises(NotImplementedError, match="generate without an assistant"):
            generate(model, inputs, prompt_lookup_num_tokens=3)
        embeds = model.get_input_embeddings()(inputs["input_ids"])
        with pytest.raises(ValueError, match="a video without input_ids"), torch.no_grad():
            model(**{**inputs, "input_ids": None, "inputs_embeds": embeds})
    model.hf_device_map = {"model": "cpu", "lm_head": "disk"}
    try:
        with pytest.raises(ValueError, match=r"spread over \['cpu', 'disk'\] by device_map"), DyCoke()(model):
            pass
    finally:
        del model.hf_device_map


@pytest.mark.filterwarnings("ignore:.*script_method")
@pytest.mark.parametrize("family", ["llava_onevision"], indirect=True)
def test_a_compiled_model_is_refused(model):
    with pytest.raises(ValueError, match="model is compiled"), DyCoke()(torch.compile(model)):
        pass


def test_prompt_lookup_on_merged_tokens_writes_the_same_words(family, model, prompts):
    inputs = family.inputs(prompts[0])
    with DyCoke(merge_ratio=0.5, prune_ratio=0)(model):
        plain = generate(model, inputs, 12)[0]
        assert torch.equal(generate(model, inputs, 12, prompt_lookup_num_tokens=2)[0], plain)


def test_capture_leaves_a_stock_cache_that_can_be_copied_shortened_and_used_again(family, model, prompts):
    model.set_attn_implementation("sdpa")
    inputs = family.inputs(prompts[0])
    sequences, _, stock = generate(model, inputs, 8)
    kinds = [type(layer) for layer in stock.layers]
    with capture_attention(model):
        assert torch.equal(generate(model, inputs, 8, prompt_lookup_num_tokens=2)[0], sequences)
        written, _, cache = generate(model, inputs, 8)
        assert any(type(layer) is RoomLayer for layer in cache.layers)
        twin, unused = copy.deepcopy(cache), copy.deepcopy(cache)
        follow = torch.cat([written, written[:, -2:]], 1)
        turn = {"input_ids": follow, "attention_mask": torch.ones_like(follow)}
        looked = generate(model, turn, 3, past_key_values=twin)[1]
    assert torch.equal(written, sequences)
    for one in (cache, twin, unused):
        assert [type(layer) for layer in one.layers] == kinds
        for layer in one.layers:
            if type(layer) is DynamicLayer:  # without room
                assert layer.keys.untyped_storage().nbytes() == layer.keys.numel() * layer.keys.element_size()
    for layer, other in zip(cache.layers, stock.layers, strict=True):
        assert torch.equal(layer.keys, other.keys) and torch.equal(layer.values, other.values)
    assert torch.equal(looked, generate(model, turn, 3, past_key_values=stock)[1])


@pytest.mark.parametrize("family", ["llava_onevision"], indirect=True)
def test_capture_gives_way_to_gradients_and_a_pruned_cache_stays_whole_when_it_refuses(
    family, model, prompts
):
    model.set_attn_implementation("sdpa")
    inputs, word = family.inputs(prompts[0]), torch.tensor([[60]])

    def gradient():
        cache = DynamicCache(config=model.config.get_text_config())
        with torch.no_grad():
            model(**inputs, past_key_values=cache)
            model(input_ids=word, past_key_values=cache)
        model(input_ids=word, past_key_values=cache)
        out = model(input_ids=word, past_key_values=cache).logits.sum()
        return torch.autograd.grad(out, model.lm_head.weight)[0]

    with capture_attention(model):
        looked = gradient()
    assert torch.equal(looked, gradient())
    with config_for(family, dict(merge_ratio=0, prune_ratio=0.5))(model):
        cache = generate(model, inputs, 3)[2]
        lengths = [layer.get_seq_length() for layer in cache.layers]
        for change in (lambda: cache.crop(-1), cache.reset):
            with pytest.raises(NotImplementedError, match="a pruned cache cannot"):
                change()
        assert [layer.get_seq_length() for layer in cache.layers] == lengths
    cache.crop(-1)
    assert cache.get_seq_length() == lengths[0] - 1


def test_a_layer_with_room_goes_back_and_begins_anew():
    layer, stock = DynamicLayer(), DynamicLayer()
    states = torch.randn(2, 2, 9, 4), torch.randn(2, 2, 9, 4)
    layer.update(*states), stock.update(*states)
    layer = RoomLayer(layer)
    for change in (
        lambda it: it.crop(-3), lambda it: it.update(*states), lambda it: it.batch_repeat_interleave(2), lambda it: it.crop(0),
        lambda it: it.batch_select_indices(torch.tensor([3, 0])),
    ):  # fmt: skip
        change(layer), change(stock)
        assert torch.equal(layer.keys, stock.keys) and torch.equal(layer.values, stock.values)
        assert layer.get_seq_length() == stock.get_seq_length()
    with pytest.raises(ValueError, match="tokens_to_remove=3 must be negative"):
        layer.crop(3)
    for batch in (2, 1):
        layer.reset()
        assert layer.get_seq_length() == 0
        keys, values = layer.update(states[0][:batch], states[1][:batch])
        assert torch.equal(keys, states[0][:batch]) and torch.equal(values, states[1][:batch])
    layer.reset()
    assert not layer.stock().is_initialized  # as stock's own after a reset


def test_flash_attention_gets_its_masks(family, model):
    """A stand-in that takes what FlashAttention takes, a (batch, keys) mask or none, since the kernel itself needs a GPU."""
    if family.name == "gemma3":
        pytest.skip("images that see each other are no mask that FlashAttention can have")

    def flash(module, query, key, value, mask, scaling, position_ids=None, **_):
        assert module.config._attn_implementation == "tests_flash"  # by it the real one loads its kernel
        assert position_ids is None or position_ids.shape[-1] == query.shape[2]
        groups = query.shape[1] // key.shape[1]
        scores = query @ key.repeat_interleave(groups, 1).transpose(-1, -2) * scaling
        rows, columns = scores.shape[-2:]
        hidden = torch.ones(rows, columns, dtype=torch.bool).triu(1 + columns - rows)
        if mask is not None:
            assert mask.shape == (len(query), columns)
            hidden = hidden | ~mask.bool()[:, None, None]
        weights = scores.masked_fill(hidden, -torch.inf).softmax(-1).nan_to_num(0)
        return (weights @ value.repeat_interleave(groups, 1)).transpose(1, 2).contiguous(), None

    AttentionInterface.register("tests_flash", flash)
    AttentionMaskInterface.register("tests_flash", flash_attention_mask)
    inputs = together(family, [family.inputs(parts) for parts in mixed_prompts(family)])
    config = decoder_of(model).config
    for settings in (*SETTINGS, dict(merge_ratio=0.5, prune_ratio=0.5, method="fastv")):
        logits = []
        for kernel in ("sdpa", "tests_flash"):
            config._attn_implementation = kernel
            with config_for(family, settings)(model):
                logits.append(generate(model, inputs)[1])
        config._attn_implementation = "sdpa"
        torch.testing.assert_close(logits[1], logits[0], atol=1e-6, rtol=0)


def test_bfloat16_on_a_cpu(family, prompts):
    model = family.model().to(torch.bfloat16)
    inputs = {k: v.bfloat16() if v.is_floating_point() else v for k, v in family.inputs(*prompts).items()}
    stock = generate(model, inputs)[1]
    with DyCoke(merge_ratio=0, prune_ratio=0)(model):
        assert torch.equal(generate(model, inputs)[1], stock)
    with config_for(family, SETTINGS[0])(model), capture_attention(model) as trace:
        logits = generate(model, inputs)[1]
    assert torch.isfinite(logits).all() and len(trace) == STEPS
    assert trace.kept(3)[1:].sum(1).tolist() == [int(0.4 * 80 + 0.5)] * (STEPS - 1)


def test_two_threads_with_two_models(family, prompts):
    other = FAMILIES["gemma3" if family.name != "gemma3" else "internvl"]
    jobs = []
    for one in (family, other):
        model = one.model()
        model.set_attn_implementation("eager")  # each family's own function
        inputs = one.inputs(["user\n", ("video", frames(8 * one.paired)), "then?"])
        with config_for(one, SETTINGS[0])(model):
            jobs.append((one, model, inputs, generate(model, inputs)[1]))
    results = {}
    together = threading.Barrier(2)

    def work(number, one, model, inputs):
        together.wait()
        with config_for(one, SETTINGS[0])(model):
            results[number] = [generate(model, inputs)[1] for _ in range(2)]

    threads = [threading.Thread(target=work, args=(n, *job[:3])) for n, job in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, job in enumerate(jobs):
        assert all(torch.equal(logits, job[3]) for logits in results[number])


@pytest.mark.parametrize("merge", [dict(merge_ratio=0.5), dict(merge_threshold=0.9)], ids=str)
def test_where_tokens_wait_changes_nothing_but_their_return(family, model, merge):
    inputs = together(family, [family.inputs(parts) for parts in mixed_prompts(family)])
    logits = {}
    for waiting in ("device", "host", "nowhere"):
        with config_for(family, dict(prune_ratio=0.6, gate=0.99, waiting=waiting, **merge))(model):
            logits[waiting] = generate(model, inputs, 10)[1]
    with config_for(family, dict(prune_ratio=0.6, method="first_step", **merge))(model):
        logits["first step"] = generate(model, inputs, 10)[1]
    torch.testing.assert_close(logits["host"], logits["device"], atol=1e-6, rtol=0)
    torch.testing.assert_close(logits["nowhere"], logits["first step"], atol=1e-6, rtol=0)
    assert not torch.allclose(
        logits["nowhere"], logits["device"], atol=1e-3
    )  # else nothing came back in this test
