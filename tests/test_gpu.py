"""What can be known without a GPU: no tensor there is mixed with the CPU's, and no decoding step waits for more than stock's."""

from __future__ import annotations

import copy
from contextlib import ExitStack

import pytest
import torch
from families import frames
from pretend import GPU, Pretend, PretendGPU, move, waits
from test_generate import config_for
from test_methods import generate
from transformers.cache_utils import DynamicCache

from dycoke_lab import capture_attention
from dycoke_lab.apply import generation_of
from dycoke_lab.graph import StaticSteps

SETTINGS = [
    dict(merge_ratio=0.5, prune_ratio=0.6, gate=0.97), dict(merge_ratio=0.5, prune_ratio=0.6, gate=2.0),
    dict(merge_threshold=0.9, merge_ratio=0.5, prune_ratio=0.5, merge="average", positions="repacked", gate=2.0),
    dict(merge_ratio=0.3, prune_ratio=0.5, method="last_query"), dict(prune_ratio=0.5, waiting="nowhere"),
    dict(merge_ratio=0.5, prune_ratio=0.0),
]  # fmt: skip
ON_THE_HOST = dict(merge_ratio=0.5, prune_ratio=0.6, gate=2.0, waiting="host")


@pytest.fixture(scope="session")
def there(model):
    model.set_attn_implementation("sdpa")
    return move(copy.deepcopy(model))


@pytest.fixture
def videos(family):
    return family.inputs(*[["user\n", ("video", frames(8 * family.paired, seed)), "what happens first?"] for seed in (0, 1)])


def sent(inputs):
    return {name: value.to(GPU) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}


def test_the_pretended_gpu_notices_what_a_gpu_would():
    with PretendGPU():
        there = torch.ones(3, device=GPU)
        assert isinstance(there + 1, Pretend) and not waits
        here, mask = torch.tensor([0, 2]), there > 0
        for wrong in (
            lambda: there + torch.ones(3), lambda: there.index_select(0, here), lambda: there.index_copy_(0, here, there[:2]),
        ):  # fmt: skip
            with pytest.raises(RuntimeError, match="same device, but"):
                wrong()
        for wait in (
            there.sum().item, there.nonzero, there.cpu, there.tolist, lambda: there[[0, 2]], lambda: there[here],
            lambda: there[mask], lambda: here.to(GPU),
        ):  # fmt: skip
            waits.clear()
            wait()
            assert waits


@pytest.mark.parametrize("settings", [*SETTINGS, ON_THE_HOST], ids=str)
def test_generation_there_writes_the_same_words(family, model, there, videos, settings):
    model.set_attn_implementation("sdpa")
    with config_for(family, settings)(model), capture_attention(model) as trace:
        words, logits, _ = generate(model, videos)
    with PretendGPU(), config_for(family, settings)(there), capture_attention(there) as other:
        found = generate(there, sent(videos))
    assert torch.equal(found[0].inner, words)
    torch.testing.assert_close(found[1].inner, logits, atol=1e-5, rtol=0)
    for layer in range(4):
        torch.testing.assert_close(other.stack(layer).inner, trace.stack(layer), atol=1e-5, rtol=0)


def waited_for(family, model, *contexts):
    """What a decoding step waits for inside these contexts, the third after the prompt."""
    inputs = family.inputs(["user\n", ("video", frames(8 * family.paired, 1)), "then?"])
    cache = DynamicCache(config=model.config.get_text_config())
    with PretendGPU(), torch.no_grad(), ExitStack() as stack:
        found = [stack.enter_context(context) for context in contexts]
        word = torch.tensor([[60]]).to(GPU)
        model(**sent(inputs), past_key_values=cache)
        assert waits  # the prompt is looked at, once
        for _ in range(3):
            waits.clear()
            model(input_ids=word, past_key_values=cache)
        return [*waits], found


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_decoding_step_waits_for_nothing_that_stocks_does_not(family, there, settings):
    stock, _ = waited_for(family, there)
    assert len(stock) < 2  # Qwen's sends there by how much positions differ
    assert waited_for(family, there, config_for(family, settings)(there))[0] in ([], stock)
    looked, (_, trace) = waited_for(family, there, config_for(family, settings)(there), capture_attention(there))
    assert looked in ([], stock) and len(trace) == 4


@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl"], indirect=True)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_static_steps_wait_for_nothing(family, there, settings):
    inputs = family.inputs(["user\n", ("video", frames(8, 1)), "then?"])
    cache = DynamicCache(config=there.config.get_text_config())
    with PretendGPU(), torch.no_grad(), config_for(family, settings)(there):
        word = torch.tensor([[60]]).to(GPU)
        there(**sent(inputs), past_key_values=cache)
        there(input_ids=word, past_key_values=cache)
        assert generation_of(there, cache) is not None
        place = torch.tensor([[inputs["input_ids"].shape[1] + 1]]).to(GPU)
        with StaticSteps(there, cache, place, 4) as step:
            step(word)
            waits.clear()
            step(word)
            step(word)
            assert waits == []
