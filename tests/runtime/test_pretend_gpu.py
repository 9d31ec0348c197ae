"""What can be known without a GPU: no tensor there is mixed with the CPU's, and a decoding step waits for no
more than stock's."""

from __future__ import annotations

import functools
from contextlib import ExitStack

import pytest
import torch
from helpers.families import FAMILIES, frames
from helpers.matrix import FEW_BEFORE_ALL, generate
from helpers.pretend import GPU, Pretend, PretendGPU, move, waits
from transformers.cache_utils import DynamicCache

from dycoke_lab import TTM, DyCoke, capture_attention
from dycoke_lab.methods import Dynamic, LastQuery

SETTINGS = [
    DyCoke(0.5, 0.6, from_layer=2, reselect_below=0.97),
    TTM(threshold=0.9, combine="average", positions="repacked")
    + Dynamic(0.5, from_layer=2, reselect_below=2.0),
    TTM(0.3) + LastQuery(0.5, from_layer=2),
    TTM(0.5),
]
OFFLOADED = DyCoke(0.5, 0.6, from_layer=2, reselect_below=2.0, inactive="offload")


@functools.cache
def moved(name):
    return move(FAMILIES[name].model())


@pytest.fixture
def there(family):
    """The family's model on the pretended GPU."""
    return moved(family.name)


def sent(inputs):
    return {
        name: value.to(GPU) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()
    }


def test_the_pretended_gpu_notices_what_a_gpu_would():
    with PretendGPU():
        there = torch.ones(3, device=GPU)
        assert isinstance(there + 1, Pretend) and not waits
        here, mask = torch.tensor([0, 2]), there > 0
        for wrong in (
            lambda: there + torch.ones(3),
            lambda: there.index_select(0, here),
            lambda: there.index_copy_(0, here, there[:2]),
        ):
            with pytest.raises(RuntimeError, match="same device, but"):
                wrong()
        for wait in (
            there.sum().item,
            there.nonzero,
            there.cpu,
            there.tolist,
            lambda: there[[0, 2]],
            lambda: there[here],
            lambda: there[mask],
            lambda: here.to(GPU),
        ):
            waits.clear()
            wait()
            assert waits


@pytest.mark.parametrize("family", FEW_BEFORE_ALL, indirect=True)
@pytest.mark.parametrize("compression", [*SETTINGS, OFFLOADED], ids=str)
def test_generation_on_a_pretended_gpu_writes_the_same_answer(family, model, there, inputs, compression):
    with compression(model), capture_attention(model) as trace:
        written, logits, _ = generate(model, inputs)
    with PretendGPU(), compression(there), capture_attention(there) as other:
        found = generate(there, sent(inputs))
    assert torch.equal(found[0].inner, written)
    torch.testing.assert_close(found[1].inner, logits, atol=1e-5, rtol=0)
    for layer in range(4):
        torch.testing.assert_close(other.stack(layer).inner, trace.stack(layer), atol=1e-5, rtol=0)


def waited_for(family, model, *contexts):
    """What a decoding step waits for inside these contexts, the third after the prompt."""
    inputs = family.inputs(["user\n", ("video", frames(8 * family.paired, 1)), "then?"])
    cache = DynamicCache(config=model.config.get_text_config())
    with PretendGPU(), torch.no_grad(), ExitStack() as stack:
        found = [stack.enter_context(context) for context in contexts]
        ids = torch.tensor([[60]]).to(GPU)
        model(**sent(inputs), past_key_values=cache)
        assert waits  # the prompt is read by the CPU, once
        for _ in range(3):
            waits.clear()
            model(input_ids=ids, past_key_values=cache)
        return [*waits], found


@pytest.mark.parametrize("family", FEW_BEFORE_ALL, indirect=True)
@pytest.mark.parametrize("compression", SETTINGS, ids=str)
def test_a_decoding_step_waits_for_nothing_that_stocks_does_not(family, there, compression):
    stock, _ = waited_for(family, there)
    assert len(stock) < 2  # Qwen's sends there by how much positions differ
    assert waited_for(family, there, compression(there))[0] in ([], stock)
    captured, (_, trace) = waited_for(family, there, compression(there), capture_attention(there))
    assert captured in ([], stock) and len(trace) == 4
