"""Every registered method on every family, under real `generate`, against a mask on the unmodified model."""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers.families import FAMILIES, frames
from helpers.matrix import CASES, FEW, STEPS, WORDS, compare_with_the_oracle, generate

from dycoke_lab import METHODS, TTM
from dycoke_lab.methods import PUBLISHED, FastV, Merger, PrefillReducer, Selector

PRUNING = [n for n, kind in METHODS.items() if n not in PUBLISHED and not issubclass(kind, Merger)]
MAIN = ("dynamic", "layer_vote", "reference_code", "last_query", "fastv")
FAST = {(case, "sdpa") for case in (0, 1, 4)}  # all that `make test` tries of families much like others


def run(name, method, case, attention):
    fast = name in FEW or (case, attention) in FAST
    return pytest.param(name, method, case, attention, marks=[] if fast else pytest.mark.matrix)


RUNS = [
    run(name, method, case, attention)
    for name, method, case, attention in itertools.product(
        FAMILIES, PRUNING, range(len(CASES)), ("sdpa", "eager")
    )
    if name == "llava_onevision" or method in MAIN
]


def compression_for(family, method, case, batch=2):
    """A case as this family can have it; what it cannot is refused, in test_refusals.py."""
    changes = {}
    if family.name == "gemma3":
        changes["from_layer"] = 2
        if method == "fastv":
            pytest.skip("refused: layers with a sliding window cannot drop tokens in the prefill")
    if family.name == "qwen3_vl" and method == "fastv":
        changes["from_layer"] = max(2, CASES[case].from_layer)
    future = torch.rand(batch, 128, generator=torch.Generator().manual_seed(0))
    return CASES[case].compression(method, future, **changes)


@pytest.mark.parametrize(
    ("family", "method", "case", "attention"),
    RUNS,
    indirect=["family"],
)
def test_generation_equals_a_mask_on_the_unmodified_model(family, model, prompts, method, case, attention):
    # stock eager attention in float64 gives NaN in padded rows: one prompt, which needs no padding
    merger = CASES[case].merger
    count = 1 if attention == "eager" and merger and merger.threshold is not None else 2
    compression = compression_for(family, method, case, count)
    gone = compare_with_the_oracle(family, model, prompts[:count], compression, attention=attention)
    if merger and merger.threshold is None:
        assert [int(row.sum()) for row in gone] == [6 * (16 - int((1 - merger.merge_ratio) * 16 + 0.5))] * 2
    elif merger and count == 2:
        assert len({int(row.sum()) for row in gone}) == 2  # else the case lets both retain as many


def test_averaging_equals_the_unmodified_model_on_averaged_features(family, model, prompts):
    compare_with_the_oracle(family, model, prompts, TTM(0.6, combine="average"))


@pytest.mark.parametrize("method", PRUNING)
def test_evicted_tokens_free_their_memory_and_inactive_ones_return(family, model, inputs, method):
    if family.name == "gemma3":
        pytest.skip("its windowed layers hold a window: test_kv_lengths_and_bytes covers it")
    future = torch.rand(2, 128, generator=torch.Generator().manual_seed(0))
    kind = METHODS[method]
    known = {"future": future} if method == "hindsight" else {}
    with kind(prune_ratio=0.75, from_layer=2, **known)(model):
        _, _, cache = generate(model, inputs)
        inside = [layer.held_bytes() // layer.keys[:, :, 0].numel() // 16 for layer in cache.layers[2:]]
    after = [layer.keys.shape[2] for layer in cache.layers]
    full = inputs["input_ids"].shape[1] + STEPS - 1
    returns = issubclass(kind, Selector) and kind.can_return
    left = full if returns else full - (128 if method == "keep_none" else 96)
    assert after == [full, full, left, left]
    assert inside == [left, left]  # nothing is held twice
    assert {type(layer).__name__ for layer in cache.layers} == {"DynamicLayer"}


@pytest.mark.parametrize("kind", ["two videos", "image and video", "video and image"])
@pytest.mark.parametrize("case", CASES[2:5], ids=str)
def test_several_videos_and_images_in_one_prompt(family, model, kind, case):
    if not family.both and "image" in kind:
        pytest.skip("transformers' processor loses one of the two")
    first, second = frames(6 * family.paired, 3), frames((6 if not family.mixed else 5) * family.paired, 4)
    parts = {
        "two videos": ["user\n", ("video", first), WORDS, ("video", second), "then?"],
        "image and video": ["user\n", ("image", second[0]), WORDS, ("video", first), "then?"],
        "video and image": ["user\n", ("video", first), WORDS, ("image", second[0]), "then?"],
    }[kind]
    compare_with_the_oracle(family, model, [parts], case.compression("dynamic", from_layer=2))


def test_every_registered_method_is_in_the_matrix():
    assert {"dynamic", "first_step", "hindsight", "fastv"} <= set(PRUNING) and issubclass(
        FastV, PrefillReducer
    )
    assert {one.values[1] for one in RUNS} == set(PRUNING)
