"""What else goes on around a generation: other samples, other calls, other threads, other hands on model and cache."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from dycoke_lab.cache import RoomLayer
from dycoke_lab.graph import StaticSteps
from dycoke_lab.shapes import TEXT, build, prompt
from dycoke_lab.whole_cache import give_room, take_room
from families import FAMILIES, frames
from test_methods import generate, longer
from transformers import (
    AttentionInterface,
    Lfm2Config,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
)
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, StaticCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from dycoke_lab import DyCoke, attention, capture_attention, prune
from dycoke_lab.apply import generation_of, score_layer_for
from dycoke_lab.attention import _CONFIGS
from dycoke_lab.methods import METHODS, Method

PRUNING = dict(prune_ratio=0.7, score_layer=2, gate=2.0)


@pytest.fixture(scope="module")
def tiny():
    """With uneven attention, so that a wrong choice shows."""
    model = build("tiny").double()
    for layer in model.model.language_model.layers:
        layer.self_attn.q_proj.weight.data *= 40
        layer.self_attn.k_proj.weight.data *= 40
    return model


def cache_of(model):
    return DynamicCache(config=model.config.get_text_config())


def inputs_of(model, count=8, seed=0):
    return prompt("tiny", model, count, 1, seed=seed)


def words(model, inputs, count=6, **settings):
    found = dict(max_new_tokens=count, min_new_tokens=count, do_sample=False, suppress_tokens=[3, 4])
    out = model.generate(**inputs, **{**found, **settings}, return_dict_in_generate=True, output_logits=True)
    return torch.stack(out.logits, 1), out.past_key_values


@pytest.mark.parametrize("merge_ratio", [0.0, 0.5])
@pytest.mark.parametrize("method", ["dynamic", "fastv", "uniform", "random", "keep_first", "keep_none"])
def test_a_long_text_beside_a_video_is_as_alone(method, merge_ratio):
    """The text keeps all of its columns, so that the batch's prompt is as long for the upper layers as for the lower ones."""
    family = FAMILIES["llava_onevision"]
    model = family.model()
    video = family.inputs(["user\n", ("video", frames(8, 1)), "then?"])
    columns = video["input_ids"].shape[1]
    text = {
        "input_ids": torch.randint(20, 60, (1, columns)),
        "attention_mask": torch.ones(1, columns, dtype=torch.long),
    }
    both = {**video, **{name: torch.cat([video[name], text[name]]) for name in text}}
    with DyCoke(merge_ratio=merge_ratio, prune_ratio=0.7, score_layer=2, method=method)(model):
        found = generate(model, both)[1]
        if method != "random":  # whose choice goes by the shape of the batch
            torch.testing.assert_close(found[:1], generate(model, video)[1], atol=1e-6, rtol=0)
        torch.testing.assert_close(found[1:], generate(model, text)[1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("counts", [(8, 4), (4, 8)])
def test_fastv_in_a_batch_without_padding_is_as_alone(counts):
    """Samples of one length keep different numbers of tokens: what fills up the shorter must not be seen."""
    family = FAMILIES["llava_onevision"]
    model = family.model()
    singles = [family.inputs(["user\n", ("video", frames(count, count)), "then?"]) for count in counts]
    longest = max(one["input_ids"].shape[1] for one in singles)
    for one in singles:
        missing = longest - one["input_ids"].shape[1]
        one["input_ids"] = torch.cat([torch.full((1, missing), 30), one["input_ids"]], 1)
        one["attention_mask"] = torch.ones_like(one["input_ids"])
    with DyCoke(merge_ratio=0.0, prune_ratio=0.7, score_layer=2, method="fastv")(model), torch.no_grad():
        for sample, one in enumerate(singles):
            text = torch.randint(20, 60, (1, longest))
            both = {
                **one,
                "input_ids": torch.cat([one["input_ids"], text]),
                "attention_mask": torch.ones(2, longest, dtype=torch.long),
            }
            found = model(**both, use_cache=True, past_key_values=cache_of(model)).logits
            alone = model(**one, use_cache=True, past_key_values=cache_of(model)).logits
            torch.testing.assert_close(found[:1, -1], alone[:, -1], atol=1e-6, rtol=0, msg=str(sample))


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("positions", ["original", "repacked"])
def test_a_picture_in_a_later_turn_keeps_the_grid_of_its_positions(name, positions):
    """`merge_ratio` so small that nothing goes: the same as stock, or the same shape of positions where they are numbered anew."""
    family = FAMILIES[name]
    model = family.model()
    first = family.inputs(["user\n", ("video", frames(6 * family.paired)), "then?"])

    def turns():
        seen = []

        def note(module, args, inputs):
            seen.append(inputs["position_ids"][-3:, 0].clone())

        sequences, _, cache = generate(model, first, 3)
        picture = family.inputs(["what ", ("image", frames(1, 7)[0]), "then?"])
        turn = longer(first, torch.cat([sequences, picture["input_ids"]], 1))
        turn["mm_token_type_ids"][:, sequences.shape[1] :] = picture["mm_token_type_ids"]
        turn = {key: value for key, value in turn.items() if key != "pixel_values_videos"}
        turn |= {key: picture[key] for key in ("pixel_values", "image_grid_thw")}
        hook = model.model.language_model.register_forward_pre_hook(note, with_kwargs=True)
        try:
            return generate(model, turn, 3, past_key_values=cache)[1], seen[0]
        finally:
            hook.remove()

    expected, places = turns()
    with DyCoke(merge_ratio=1e-9, prune_ratio=0.0, positions=positions)(model):
        logits, shown = turns()
    assert (
        torch.equal(shown - shown[:, :1], places - places[:, :1])
        and len(set(places[0].tolist())) < places.shape[1]
    )
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
    found = []
    for between in (False, True):
        with DyCoke(merge_ratio=0.5, prune_ratio=prune_ratio, score_layer=2, gate=2.0, positions=positions)(
            model
        ):
            sequences, _, cache = generate(model, one, 3)
            if between:
                generate(model, two, 3)
            ids = torch.cat([sequences, more], 1)
            turn = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            logits = [generate(model, turn, 3, past_key_values=cache)[1]]
            if between:
                generate(model, two, 3)
            with torch.no_grad():
                logits.append(model(input_ids=more[:, :1], past_key_values=cache).logits)
        found.append(torch.cat(logits, 1))
    assert torch.equal(found[0], found[1])


@pytest.mark.parametrize(
    "settings", [dict(merge_ratio=0.5, prune_ratio=0.0), dict(merge_ratio=0.5, **PRUNING)], ids=str
)
def test_threads_generate_at_once_with_one_model(tiny, settings):
    given = [inputs_of(tiny, 8, seed) for seed in range(3)]
    with DyCoke(**settings)(tiny):
        expected = [words(tiny, one, 20)[0] for one in given]
        found, errors = {}, []

        def work(number):
            try:
                found[number] = [words(tiny, given[number], 20)[0] for _ in range(2)]
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors
    for number, logits in found.items():
        assert all(torch.equal(one, expected[number]) for one in logits)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_trace_is_of_one_generation(tiny, compressed):
    """A call without a video is none of its steps, nor is a later turn on another cache; one on its own cache is."""
    one, two = inputs_of(tiny, 8, 0), inputs_of(tiny, 4, 1)
    text = {"input_ids": torch.randint(TEXT, 200, (1, 300))}
    with (
        DyCoke(**PRUNING if compressed else dict(merge_ratio=0, prune_ratio=0))(tiny),
        capture_attention(tiny) as trace,
    ):
        _, first = words(tiny, one)
        _, second = words(tiny, two)
        attention = trace.stack(3)
        words(tiny, {"input_ids": text["input_ids"][:, :20]})
        words(tiny, text)
        with torch.no_grad():
            tiny(input_ids=text["input_ids"][:, :1], past_key_values=first)
        assert torch.equal(trace.stack(3), attention)
        with torch.no_grad():
            tiny(input_ids=text["input_ids"][:, :1], past_key_values=second)
        assert len(trace) == len(attention) + 1 and torch.equal(trace.stack(3)[:-1], attention)


def test_a_video_after_a_turn_of_text_is_found_where_it_stands(tiny):
    video = inputs_of(tiny)
    text = torch.randint(TEXT, 200, (1, 7))
    with capture_attention(tiny) as trace, torch.no_grad():
        cache = cache_of(tiny)
        tiny(input_ids=text, past_key_values=cache)
        tiny(**{**video, "attention_mask": None}, past_key_values=cache)
    whole = {**video, "input_ids": torch.cat([text, video["input_ids"]], 1), "attention_mask": None}
    with capture_attention(tiny) as expected, torch.no_grad():
        tiny(**whole, past_key_values=cache_of(tiny))
    torch.testing.assert_close(trace.stack(2), expected.stack(2), atol=1e-9, rtol=0)


def test_a_static_cache_is_looked_at_where_its_columns_are(tiny):
    given = inputs_of(tiny)
    ids = torch.randint(TEXT, 200, (1, 3))
    traces = []
    for cache in (cache_of(tiny), StaticCache(tiny.config.get_text_config(), max_cache_len=400)):
        with capture_attention(tiny) as trace, torch.no_grad():
            tiny(**given, past_key_values=cache)
            for word in ids.T:
                tiny(input_ids=word[None], past_key_values=cache)
        traces.append(trace.stack(3))
    assert len(traces[0]) == 4
    torch.testing.assert_close(traces[1], traces[0], atol=1e-9, rtol=0)


def test_a_trace_holds_no_graph(tiny):
    with capture_attention(tiny) as trace, torch.enable_grad():
        tiny(**inputs_of(tiny), past_key_values=cache_of(tiny))
    assert not trace.attention[0].requires_grad and len(trace.to_frame())


def test_a_kernel_without_a_mask_function_is_watched_and_flex_attention_is_refused(tiny):
    config = tiny.model.language_model.config
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in tiny.modules())
    AttentionInterface.register("tests_maskless", sdpa_attention_forward)
    try:
        config._attn_implementation = "tests_maskless"
        with DyCoke(merge_ratio=0.0, **PRUNING)(tiny):
            assert words(tiny, inputs_of(tiny))[1].layers[3].keys.shape[2] < 130
        config._attn_implementation = "flex_attention"
        for context in (DyCoke(), capture_attention):
            with pytest.raises(ValueError, match="flex_attention"):
                context(tiny).__enter__()
    finally:
        config._attn_implementation = "sdpa"
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in tiny.modules()) == hooks


def test_models_that_share_a_config_are_watched_each_for_itself(tiny):
    other = type(tiny)(tiny.config).double().eval()
    assert other.model.language_model.config is tiny.model.language_model.config
    given = inputs_of(tiny)
    with DyCoke(merge_ratio=0.0, **PRUNING)(tiny):
        expected = words(tiny, given)[0]
    outer = DyCoke(merge_ratio=0.0, **PRUNING)(tiny)
    outer.__enter__()
    with DyCoke(merge_ratio=0.0, **PRUNING)(other):
        logits, cache = words(tiny, given)
        assert torch.equal(logits, expected) and generation_of(tiny, cache).number == 5
        outer.__exit__(None, None, None)
        assert (
            words(other, given)[1].layers[3].keys.shape[2] < 130
        )  # goes on, though the first to come has gone
    assert tiny.model.language_model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("merge_ratio", [0.0, 0.5])
@pytest.mark.parametrize("prune_ratio", [0.0, 0.7])
@pytest.mark.parametrize("chosen", [[1, 0], [1], [0, 0, 1], "repeated", torch.tensor([False, True])], ids=str)
def test_samples_are_exchanged_dropped_and_repeated_before_any_step(tiny, chosen, merge_ratio, prune_ratio):
    """As if the prompt had been read by those samples alone."""
    given = prompt("tiny", tiny, 8, 2)
    given["attention_mask"][0, :1] = 0  # padding, of which samples have different amounts
    rows = [0, 0, 1, 1] if chosen == "repeated" else [1] if isinstance(chosen, torch.Tensor) else chosen
    found = []
    for before in (True, False):
        with (
            DyCoke(merge_ratio=merge_ratio, prune_ratio=prune_ratio, score_layer=2, gate=2.0)(tiny),
            torch.no_grad(),
        ):
            cache, mask = cache_of(tiny), given["attention_mask"]
            tiny(**given, past_key_values=cache)
            if before:
                if chosen == "repeated":
                    cache.batch_repeat_interleave(2)
                else:
                    cache.batch_select_indices(chosen)
                mask = mask[rows]
            logits = []
            for number in range(3):
                mask = torch.cat([mask, torch.ones(len(mask), 1, dtype=torch.long)], 1)
                word = torch.tensor([[20 + number], [90 + number]])
                logits.append(
                    tiny(
                        input_ids=word[rows] if before else word, attention_mask=mask, past_key_values=cache
                    ).logits
                )
        logits = torch.cat(logits, 1)
        found.append(logits if before else logits[rows])
    torch.testing.assert_close(found[0], found[1], atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    "settings", [dict(merge_ratio=1e-9, prune_ratio=0.0), dict(merge_ratio=0.0, prune_ratio=1e-9)], ids=str
)
def test_a_step_of_one_word_may_be_padding_for_a_sample(tiny, settings):
    """Ratios so small that nothing goes: the same as stock."""
    given = prompt("tiny", tiny, 8, 2)
    found = []
    for config in (dict(merge_ratio=0.0, prune_ratio=0.0), settings):
        with DyCoke(score_layer=2, **config)(tiny), torch.no_grad():
            cache, mask = cache_of(tiny), given["attention_mask"]
            tiny(**given, past_key_values=cache)
            logits = []
            for number in range(4):
                mask = torch.cat([mask, torch.tensor([[1], [int(number != 1)]])], 1)
                places = (mask.cumsum(1) - 1)[:, -1:]
                word = torch.tensor([[20 + number], [90 + number]])
                logits.append(
                    tiny(
                        input_ids=word, attention_mask=mask, position_ids=places, past_key_values=cache
                    ).logits
                )
        found.append(torch.cat(logits, 1))
    real = torch.tensor([[True] * 4, [True, False, True, True]])
    torch.testing.assert_close(found[1][real], found[0][real], atol=1e-9, rtol=0)


@pytest.mark.parametrize("looking", [True, False], ids=["cpu", "as a gpu"])
def test_padding_of_one_word_is_known_at_the_next_turn_at_the_latest(tiny, looking, monkeypatch):
    """Where looking at a step's mask would have a GPU wait, it is looked at with the next words."""
    monkeypatch.setattr(prune, "free_to_look", lambda device: looking)
    given = prompt("tiny", tiny, 8, 2)
    found = []
    for config in (dict(merge_ratio=0.0, prune_ratio=0.0), dict(merge_ratio=1e-9, prune_ratio=1e-9)):
        with DyCoke(score_layer=2, **config)(tiny), torch.no_grad():
            cache, mask = cache_of(tiny), given["attention_mask"]
            tiny(**given, past_key_values=cache)
            mask = torch.cat([mask, torch.tensor([[1], [0]])], 1)
            tiny(input_ids=torch.tensor([[20], [90]]), attention_mask=mask, past_key_values=cache)
            mask = torch.cat([mask, torch.ones(2, 3, dtype=torch.long)], 1)
            turn = torch.tensor([[21, 22, 23], [91, 92, 93]])
            places = (mask.cumsum(1) - 1)[:, -3:]
            found.append(
                tiny(input_ids=turn, attention_mask=mask, position_ids=places, past_key_values=cache).logits
            )
            if config["merge_ratio"]:
                with pytest.raises(ValueError, match="had padding after the prompt: go on giving it"):
                    tiny(input_ids=turn[:, :1], past_key_values=cache)
    torch.testing.assert_close(found[1], found[0], atol=1e-9, rtol=0)


def test_a_model_is_not_copied_or_given_another_kernel_inside(tiny):
    for context in (DyCoke(), capture_attention):
        with context(tiny), pytest.raises(RuntimeError, match="copy it before entering"):
            copy.deepcopy(tiny)
    own = copy.deepcopy(tiny)
    for context in (DyCoke(), capture_attention):
        with context(own):
            own.set_attn_implementation("eager")
            with pytest.raises(RuntimeError, match="'eager' inside a dycoke_lab context: set it before"):
                words(own, inputs_of(own))
        assert own.model.language_model.config._attn_implementation == "eager"
        own.set_attn_implementation("sdpa")


def test_gradients_are_refused_where_pruning_writes_in_place(tiny):
    given = inputs_of(tiny)
    for settings, refused in (
        (dict(merge_ratio=0.5, prune_ratio=0.0), False),
        (dict(merge_ratio=0.0, **PRUNING), True),
    ):
        with DyCoke(**settings)(tiny), torch.enable_grad():
            cache = cache_of(tiny)
            tiny(**given, past_key_values=cache)
            if refused:
                with pytest.raises(RuntimeError, match="has no gradients: decode under"):
                    tiny(input_ids=torch.tensor([[30]]), past_key_values=cache)
            else:
                assert tiny(input_ids=torch.tensor([[30]]), past_key_values=cache).logits.requires_grad


def test_gradients_of_a_later_turn_are_those_without_room(tiny):
    """Merged tokens, a turn without gradients, whose steps write in place, and one with."""
    given, word = inputs_of(tiny), torch.tensor([[30]])

    def gradient(first):
        cache = cache_of(tiny)
        with torch.set_grad_enabled(first):
            tiny(**given, past_key_values=cache)
            tiny(input_ids=word, past_key_values=cache)
        kinds = {type(layer) for layer in cache.layers}
        tiny(input_ids=word, past_key_values=cache)
        out = tiny(input_ids=word, past_key_values=cache).logits.sum()
        return kinds, torch.autograd.grad(out, tiny.model.language_model.norm.weight)[0]

    with DyCoke(merge_ratio=0.5, prune_ratio=0.0)(tiny):
        (room, found), (none, expected) = gradient(False), gradient(True)
    assert room == {RoomLayer} and none == {DynamicLayer}
    assert torch.allclose(found, expected, atol=1e-12)


def test_gradients_of_given_embeddings_go_through_a_frozen_model(tiny):
    given, found = inputs_of(tiny), []
    tiny.requires_grad_(False)
    try:
        with DyCoke(merge_ratio=0.5, prune_ratio=0.0)(tiny):
            for stock in (False, True):
                cache, words = (
                    cache_of(tiny),
                    torch.linspace(-1, 1, 128).double().view(1, 2, 64).requires_grad_(),
                )
                tiny(**given, past_key_values=cache)
                if stock:
                    take_room(cache)
                for word in words.split(1, 1):
                    logits = tiny(inputs_embeds=word, past_key_values=cache).logits
                found.append(torch.autograd.grad(logits.sum(), words)[0])
        with DyCoke(merge_ratio=0.0, **PRUNING)(tiny), torch.enable_grad():
            cache = cache_of(tiny)
            tiny(**given, past_key_values=cache)
            with pytest.raises(RuntimeError, match="has no gradients: decode under"):
                tiny(inputs_embeds=words, past_key_values=cache)
    finally:
        tiny.requires_grad_(True)
    assert found[0][0, 0].any() and torch.allclose(*found, atol=1e-12)


def test_a_merged_cache_is_stock_again_afterwards(tiny):
    given, rooms = inputs_of(tiny), []
    for settings in (
        dict(merge_ratio=0.5, prune_ratio=0.0),
        dict(merge_ratio=0.0, prune_ratio=0.5, method="fastv", score_layer=2),
    ):
        with DyCoke(**settings)(tiny):
            cache = words(tiny, given)[1]
            rooms += [type(layer) for layer in cache.layers]
        for layer in cache.layers:
            assert type(layer) is DynamicLayer
            assert layer.keys.untyped_storage().nbytes() == layer.keys.numel() * layer.keys.element_size()
    assert set(rooms) == {RoomLayer}


@pytest.mark.parametrize(
    "settings",
    [
        dict(merge_ratio=0.5, prune_ratio=0.0),
        dict(merge_ratio=0.0, **PRUNING),
        dict(merge_ratio=0.5, **PRUNING),
    ],
)
def test_a_steps_queries_are_grouped_where_that_is_faster(tiny, settings, monkeypatch):
    """On a CPU that has no more threads than there are key heads, if nothing is masked; the same but for rounding."""
    grouped, calls, steps = attention._grouped, [], 5

    def counted(query, key, *rest):
        calls.append((query.shape[1], key.shape[1], query.shape[2]))
        return grouped(query, key, *rest)

    def count(threads=2, context=settings, **inputs):
        calls.clear()
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        with DyCoke(**context)(tiny) if context else capture_attention(tiny):
            logits = words(tiny, inputs or inputs_of(tiny), steps + 1)[0]
        assert set(calls) <= {(4, 2, 1)}
        return len(calls), logits

    monkeypatch.setattr(attention, "_grouped", counted)
    layers = len(tiny.model.language_model.layers)
    found, expected = count(threads=2), count(threads=3)
    assert found[0] == layers * steps and expected[0] == 0
    assert torch.allclose(found[1], expected[1], atol=1e-10)
    two = prompt("tiny", tiny, 8, 2)
    assert count(threads=4, **two)[0] == layers * steps and count(threads=5, **two)[0] == 0
    two["attention_mask"][0, 0] = 0
    assert count(threads=1, **two)[0] == 0
    assert count(input_ids=torch.randint(TEXT, 200, (1, 7)))[0] == 0  # no video: as stock
    assert count(context=dict(merge_ratio=0.0, prune_ratio=0.0))[0] == count(context=None)[0] == 0
    tiny.set_attn_implementation("eager")
    try:
        assert count()[0] == 0
    finally:
        tiny.set_attn_implementation("sdpa")


def steps_of(model, cache, first, static, count=3):
    """Logits of the next steps, ordinary ones or those of static shapes."""
    given, place = torch.arange(60, 60 + count)[:, None, None], torch.tensor([[first]])
    if not static:
        return [
            model(input_ids=word, position_ids=place + n, past_key_values=cache).logits
            for n, word in enumerate(given)
        ]
    with StaticSteps(model, cache, place, count) as step:
        return [step(word).clone() for word in given]


@pytest.mark.parametrize("what", ["a kernel that is named anew", "a text", "a frozen model"])
def test_static_steps_in_a_merging_context(tiny, what):
    given = inputs_of(tiny) if what != "a text" else {"input_ids": torch.randint(TEXT, 200, (1, 7))}
    found = []
    with DyCoke(merge_ratio=0.5, prune_ratio=0.0)(tiny), torch.set_grad_enabled(what == "a frozen model"):
        tiny.requires_grad_(what != "a frozen model")
        if what == "a kernel that is named anew":
            tiny.set_attn_implementation("sdpa")
        for static in (False, True):
            cache = cache_of(tiny)
            tiny(**given, past_key_values=cache)
            found.append(torch.cat(steps_of(tiny, cache, given["input_ids"].shape[1], static)))
    tiny.requires_grad_(True)
    assert torch.allclose(*found, atol=1e-10)
    assert not _CONFIGS and tiny.model.language_model.config._attn_implementation == "sdpa"


def test_a_kernel_that_is_set_inside_is_looked_at_after_merging_and_refused_after_pruning(tiny):
    given = inputs_of(tiny)
    for settings, refused in (
        (dict(merge_ratio=0.5, prune_ratio=0.0), False),
        (dict(merge_ratio=0.0, **PRUNING), True),
    ):
        with DyCoke(**settings)(tiny), torch.no_grad():
            tiny.set_attn_implementation("eager")
            if refused:
                with (
                    pytest.raises(RuntimeError, match="'eager' inside a dycoke_lab context: set"),
                    capture_attention(tiny),
                ):
                    pass
            else:
                with capture_attention(tiny) as trace:
                    words(tiny, given, 3)
                assert len(trace.attention) == 3
        assert not _CONFIGS and tiny.model.language_model.config._attn_implementation == "eager"
        tiny.set_attn_implementation("sdpa")


def test_a_function_of_ones_own_by_the_name_of_sdpa_is_asked(tiny):
    calls = []

    def own(module, query, *rest, **kwargs):
        calls.append(query.shape[2])
        return sdpa_attention_forward(module, query, *rest, **kwargs)

    AttentionInterface.register("sdpa", own)
    try:
        with DyCoke(merge_ratio=0.5, prune_ratio=0.0)(tiny):
            words(tiny, inputs_of(tiny), 4)
    finally:
        AttentionInterface.register("sdpa", sdpa_attention_forward)
    assert calls.count(1) == 3 * len(tiny.model.language_model.layers)


@pytest.mark.parametrize(
    "settings", [dict(merge_ratio=0.5, prune_ratio=0.0), dict(merge_ratio=0.0, **PRUNING)]
)
def test_keys_that_someone_replaces_are_heeded_or_refused(tiny, settings):
    given, word, found = inputs_of(tiny), torch.tensor([[30]]), []
    with DyCoke(**settings)(tiny), torch.no_grad():
        for shorten in (Cache.crop, lambda cache, count: [trim(layer, count) for layer in cache.layers]):

            def trim(layer, count):
                layer.keys, layer.values = layer.keys[:, :, :count], layer.values[:, :, :count]

            cache = cache_of(tiny)
            tiny(**given, past_key_values=cache)
            tiny(input_ids=word, past_key_values=cache)
            if settings["prune_ratio"]:
                trim(cache.layers[2], -1)
                with pytest.raises(RuntimeError, match="keys of a pruned layer were replaced"):
                    tiny(input_ids=word, past_key_values=cache)
                return
            length = cache.get_seq_length()
            shorten(cache, -1)
            assert cache.get_seq_length() == length - 1
            found.append(tiny(input_ids=word, past_key_values=cache).logits)
    assert torch.equal(*found)


def test_a_decoder_with_layers_of_another_kind_can_merge():
    """A convolution has no attention to group, and a cache of its own kind."""
    base = build("tiny").config
    text = Lfm2Config(
        vocab_size=200, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        layer_types=["conv", "full_attention"], pad_token_id=0, eos_token_id=None,
    )  # fmt: skip
    ids = dict(image_token_id=base.image_token_id, video_token_id=base.video_token_id)
    config = LlavaOnevisionConfig(vision_config=base.vision_config, text_config=text, **ids)
    model = LlavaOnevisionForConditionalGeneration(config).eval()
    with DyCoke(merge_ratio=0.5, prune_ratio=0.0)(model):
        found, cache = words(model, prompt("tiny", model, 8, 1), 3)
        assert found.shape[1] == 3 and type(cache.layers[1]) is RoomLayer


def test_only_what_can_be_one_buffer_gets_room():
    keys, values = torch.randn(1, 2, 5, 4), torch.randn(1, 2, 5, 3)
    cache = DynamicCache()
    cache.update(keys, keys, 0), cache.update(keys, values, 1), cache.update(keys.requires_grad_(), keys, 2)
    assert give_room(cache, range(3)) == [0]


def test_off_takes_what_stock_takes(tiny):
    given = inputs_of(tiny)
    expected = words(tiny, given, cache_implementation="static")[0]
    text = torch.randint(TEXT, 200, (1, 7))
    caches = [cache_of(tiny), cache_of(tiny)]
    with torch.no_grad():
        tiny(input_ids=text, past_key_values=caches[0])
        turn = tiny(**given, past_key_values=caches[0]).logits
    with DyCoke(merge_ratio=0, prune_ratio=0)(tiny), torch.no_grad():
        assert torch.equal(words(tiny, given, cache_implementation="static")[0], expected)
        tiny(input_ids=text, past_key_values=caches[1])
        assert torch.equal(tiny(**given, past_key_values=caches[1]).logits, turn)


def test_an_error_in_a_forward_pass_leaves_nothing_running(tiny):
    with DyCoke(merge_ratio=0.0, **PRUNING)(tiny):
        cache = words(tiny, inputs_of(tiny))[1]

        def stop(*_):
            raise torch.OutOfMemoryError("no room")

        hook = tiny.model.language_model.layers[2].register_forward_hook(stop)
        generation = generation_of(tiny, cache)
        with pytest.raises(torch.OutOfMemoryError), torch.no_grad():
            tiny(input_ids=torch.tensor([[30]]), past_key_values=cache)
        hook.remove()
        from dycoke_lab.apply import _ACTIVE

        assert generation is not None and _ACTIVE[tiny].now is None


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (
            lambda step: step.available,
            r"chose \[80\] tokens, but step.counts is \[24\]: choose as many, or set exact=False",
        ),
        (lambda step: torch.ones_like(step.available), "chose tokens that merging took away"),
        (
            lambda step: step.scores,
            r"must return a boolean tensor .*, here \(1, 128\), or None; it returned torch.float",
        ),
        (lambda step: step.available[0], r"it returned torch.bool, \(128,\)"),
        (lambda step: [3, 4], "it returned list"),
    ],
)
@pytest.mark.parametrize("registered", [False, True])
def test_what_a_method_of_ones_own_may_not_choose_is_named(tiny, chosen, message, registered, monkeypatch):
    class Own(Method):
        def select(self, step):
            return chosen(step) if step.number else None

    monkeypatch.setitem(METHODS, "own", Own)
    method = "own" if registered else Own()
    with pytest.raises(ValueError, match=message), DyCoke(merge_ratio=0.5, **PRUNING, method=method)(tiny):
        words(tiny, inputs_of(tiny))


def test_a_context_without_a_model_says_how_it_is_written(tiny):
    with pytest.raises(TypeError, match=r"write `with DyCoke\(...\)\(model\)"), DyCoke():
        pass
    with pytest.raises(TypeError, match="config is a LlavaOnevisionForConditionalGeneration: write"):
        DyCoke(tiny)


def test_a_part_of_a_model_is_named(tiny):
    for call in (DyCoke(), capture_attention):
        with pytest.raises(TypeError, match="give the whole model"):
            call(tiny.model).__enter__()
    small = type(tiny)(copy.deepcopy(tiny.config))
    del small.model.language_model.layers[1:]
    with pytest.raises(ValueError, match="has 1 decoder layers"):
        score_layer_for(small)
