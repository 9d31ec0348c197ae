"""Every method and every family, under real `generate`, against a mask on the unmodified model."""

from __future__ import annotations

import itertools

import pytest
import torch
from families import FAMILIES, ID, decoder_of, frames
from oracles import MaskedModel, merge

from dycoke_lab import METHODS, DyCoke, DyCokeConfig, capture_attention
from dycoke_lab.methods import Oracle

STEPS = 6


def noise_for(columns):
    return torch.rand(len(columns), max(map(len, columns)), generator=torch.Generator().manual_seed(0))


def config_for(method: str, noise=None, **settings) -> DyCokeConfig:
    return DyCokeConfig(method=Oracle(future=noise) if method == "oracle" else method, **settings)


def generate(model, inputs, steps=STEPS, **settings):
    placeholders = [
        ID[token] for token in ("<image>", "<video>", "<|image_pad|>", "<|video_pad|>", "<IMG_CONTEXT>", "<image_soft_token>")
    ]
    out = model.generate(
        suppress_tokens=placeholders,  # a random model might write them
        **inputs,
        **{"max_new_tokens": steps, "min_new_tokens": steps, "do_sample": False, **settings},
        return_dict_in_generate=True,
        output_logits=True,
    )
    return out.sequences, torch.stack(out.logits, 1), out.past_key_values


def visual_columns(family, parts, row):
    """Where a prompt's videos stand, from what went into it: their columns and the number of frames of each."""
    at, videos = (row == ID[family.placeholder]).nonzero()[:, 0], []
    for kind, pixels in (part for part in parts if not isinstance(part, str)):
        if kind == "video":
            count = len(pixels) // family.paired
            videos.append((count, at[: count * 16]))
            at = at[count * 16 + family.ending :]
        elif family.image_is_a_frame:
            at = at[16:]
    assert not len(at)
    return videos


def longer(inputs, sequences):
    """A call's inputs with what was written after the prompt."""
    more = sequences.shape[1] - inputs["input_ids"].shape[1]
    changes = {"input_ids": sequences}
    for name, value in (("attention_mask", 1), ("mm_token_type_ids", 0), ("token_type_ids", 0)):
        if name in inputs:
            changes[name] = torch.nn.functional.pad(inputs[name], (0, more), value=value)
    return {**inputs, **changes}


def positions_for(model, inputs):
    """Those that `generate` gives, (batch, length) or (3, batch, length)."""
    if hasattr(model.model, "get_rope_index"):
        wanted = ("input_ids", "mm_token_type_ids", "image_grid_thw", "video_grid_thw", "second_per_grid_ts", "attention_mask")
        return model.model.get_rope_index(**{name: inputs[name] for name in wanted if name in inputs})[0]
    return (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)


def compare_with_the_oracle(family, model, prompts, method, attention="sdpa", more=None, **settings):
    """Logits, what is kept, and the trace; returns what was merged away, for each sample.

    more: (batch, length) tokens of a second turn, on the same cache.
    """
    inputs = family.inputs(*prompts)
    ids, decoder = inputs["input_ids"], decoder_of(model)
    model.set_attn_implementation(attention)
    videos = [visual_columns(family, parts, row) for parts, row in zip(prompts, ids, strict=True)]
    columns = [torch.cat([where for _, where in sample]) for sample in videos]
    noise = noise_for(columns)
    config = config_for(method, noise, **settings)
    with DyCoke(config)(model), capture_attention(model) as trace:
        sequences, logits, cache = generate(model, inputs, STEPS if more is None else 3)
        steps = None
        if more is not None:
            whole = longer(inputs, torch.cat([sequences, more], 1))
            turn = {name: whole[name] for name in ("input_ids", "attention_mask")}
            sequences, second, _ = generate(model, turn, 3, past_key_values=cache)
            logits, steps = torch.cat([logits, second], 1), [1, 1, 1 + more.shape[1], 1, 1]

    given = []
    hook = decoder.register_forward_pre_hook(lambda _, __, kwargs: given.append(kwargs["inputs_embeds"]), with_kwargs=True)
    whole = longer(inputs, sequences[:, :-1])
    with torch.no_grad():
        model(**whole, use_cache=False)
    hook.remove()
    gone = []
    for b, sample in enumerate(videos):
        parts = []
        for count, where in sample:
            into = merge(given[0][b, where].unflatten(0, (count, 16)), config.window, config.merge_ratio, config.merge_threshold)
            parts += [into[t] != t for t in range(len(into))]
        gone.append(torch.tensor(parts))
    positions = positions_for(model, whole)
    if config.positions == "repacked":
        stays = whole["attention_mask"].bool()
        for b in range(len(ids)):
            stays[b, columns[b][gone[b]]] = False
        positions = (stays.cumsum(1) - 1).clamp(min=0).expand_as(positions)
    blocks = None
    if "token_type_ids" in inputs:
        image = inputs["token_type_ids"] == 1
        starts = image & ~torch.nn.functional.pad(image, (1, 0))[:, :-1]
        blocks = starts.cumsum(1) * image
    oracle = MaskedModel(model, decoder, columns, gone, inputs["attention_mask"], config, method, noise, blocks, steps)
    expected = oracle.logits(**whole, position_ids=positions)
    expected = expected[:, [end for end in oracle.ends if end < expected.shape[1]]]
    torch.testing.assert_close(logits, expected.float(), atol=2e-5, rtol=0)

    assert len(trace) == STEPS
    for layer in range(len(decoder.layers)):
        for b in range(len(ids)):
            want = oracle.attention[layer][b][:, columns[b]].float()
            rounding = 1e-5 if attention == "sdpa" else 2e-5  # stock eager attention takes its softmax in float32, in float64 too
            torch.testing.assert_close(trace.stack(layer, b).float(), want, atol=rounding, rtol=0)
            assert torch.equal(trace.kept(layer, b), oracle.visible[layer][b][:, columns[b]])
    return gone


CASES = [
    dict(merge_ratio=0.0, prune_ratio=0.7, score_layer=2),
    dict(merge_ratio=0.7, prune_ratio=0.5, score_layer=1, gate=0.97),
    dict(merge_ratio=0.5, prune_ratio=0.9, score_layer=3, gate=2.0),
    dict(merge_ratio=0.3, prune_ratio=0.6, score_layer=2, positions="repacked", gate=-1.0),
    dict(merge_threshold=0.9, prune_ratio=0.7, score_layer=2),
]
MAIN = ("dynamic", "reference_code", "last_query", "fastv")
RUNS = [
    (name, method, case, attention)
    for name, method, case, attention in itertools.product(FAMILIES, METHODS, range(len(CASES)), ("sdpa", "eager"))
    if name == "llava_onevision" or method in MAIN
]


def settings_for(family, method, case):
    """A case as this family can have it; what it cannot is refused, in test_apply."""
    settings = dict(CASES[case])
    if family.name == "gemma3":
        settings["score_layer"] = 2
        if method == "fastv":
            pytest.skip("refused")
    if family.name == "qwen3_vl" and method == "fastv":
        settings["score_layer"] = max(2, settings["score_layer"])
    return settings


@pytest.mark.parametrize(
    ("family", "method", "case", "attention"), RUNS,
    ids=["-".join(map(str, run)) for run in RUNS], indirect=["family"],
)  # fmt: skip
def test_generation_equals_a_mask_on_the_unmodified_model(family, model, prompts, method, case, attention):
    settings = settings_for(family, method, case)
    # stock eager attention in float64 gives NaN in padded rows, ours or not: one sample, which needs no padding
    count = 1 if attention == "eager" and "merge_threshold" in settings else 2
    gone = compare_with_the_oracle(family, model, prompts[:count], method, attention, **settings)
    if ratio := settings.get("merge_ratio"):
        assert [int(sample.sum()) for sample in gone] == [6 * (16 - int((1 - ratio) * 16 + 0.5)) for _ in gone]
    elif "merge_threshold" in settings and count == 2:
        assert len({int(sample.sum()) for sample in gone}) == 2  # else the case does not test samples that keep different counts


@pytest.mark.parametrize("method", METHODS)
def test_what_is_evicted_frees_its_memory_and_what_waits_comes_back(family, model, inputs, method):
    if family.name == "gemma3":
        pytest.skip("its windowed layers hold a window; test_kv_lengths covers it")
    noise = torch.rand(2, 128, generator=torch.Generator().manual_seed(0))
    config = config_for(method, noise, merge_ratio=0.0, prune_ratio=0.75, score_layer=2)
    with DyCoke(config)(model):
        _, _, cache = generate(model, inputs)
        inside = [layer.held() // layer.keys[:, :, 0].numel() // 16 for layer in cache.layers[2:] if hasattr(layer, "held")]
    after = [layer.keys.shape[2] for layer in cache.layers]
    full = inputs["input_ids"].shape[1] + STEPS - 1
    returns = METHODS[method]().returns
    left = full if returns else full - (128 if method == "keep_none" else 96)
    assert after == [full, full, left, left]
    if returns:  # nothing is held twice
        assert inside == [full, full]
    elif method != "fastv":
        assert inside == [left, left]
    assert {type(layer).__name__ for layer in cache.layers} == {"DynamicLayer"}


WORDS = "You are provided the following series of frames then compare Here is what happens first then compare with the question"


@pytest.mark.parametrize("kind", ["two videos", "image and video", "video and image"])
@pytest.mark.parametrize("settings", CASES[2:5], ids=str)
def test_several_in_one_prompt(family, model, kind, settings):
    if not family.both and "image" in kind:
        pytest.skip("transformers' processor loses one of the two")
    first, second = frames(6 * family.paired, 3), frames((6 if not family.mixed else 5) * family.paired, 4)
    parts = {
        "two videos": ["user\n", ("video", first), WORDS, ("video", second), "then?"],
        "image and video": ["user\n", ("image", second[0]), WORDS, ("video", first), "then?"],
        "video and image": ["user\n", ("video", first), WORDS, ("image", second[0]), "then?"],
    }[kind]
    compare_with_the_oracle(family, model, [parts], "dynamic", **{**settings, "score_layer": 2})
