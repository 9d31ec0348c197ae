"""A timed run holds the bytes that are predicted, shares weights with others, and releases what it held."""

from __future__ import annotations

import gc
import weakref
from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.cache_utils import DynamicCache

from dycoke_lab.attention.capture import capture_attention
from dycoke_lab.bench.configs import BenchmarkConfig
from dycoke_lab.bench.model_shapes import SHAPES, TEXT, build_model, random_prompt
from dycoke_lab.bench.roofline import work
from dycoke_lab.bench.timed_run import TimedRun, sharing_weights
from dycoke_lab.methods import TTM, Dynamic, FastV
from dycoke_lab.models import decoder_of

LARGE = 60_000  # bytes; keys of a layer in the test of allocations are 64 KB and more


@pytest.mark.parametrize("method", ["first_step", "reference_code", "keep_none", "random"])
def test_bytes_of_other_methods_are_those_predicted(method):
    run = TimedRun(build_model("tiny"), BenchmarkConfig("tiny", 8, 2, 3, method, 0.7, 0.7))
    run.prefill()
    for _ in range(3):
        run.step()
    assert run.finish()["bytes"]["held"] == work(run.config, 4).held


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", ["full", "full-in-place", "capture", "merge", "truncated", "dycoke", "fastv", "one-shot"]
)
def test_timed_run_releases_what_it_held(method):
    """Else the next run's peak of memory would hold it, too."""
    gc.collect()
    gc.disable()
    try:
        run = TimedRun(build_model("tiny"), BenchmarkConfig("tiny", 8, 1, 2, method, 0.5, 0.5))
        run.prefill()
        run.step()
        cache, model = weakref.ref(run.cache), weakref.ref(run.model)
        run.finish()
        assert cache() is None
        del run
        gc.enable()
        gc.collect()
        assert model() is None
    finally:
        gc.enable()


def test_copies_share_weights_and_nothing_else():
    model = build_model("tiny")
    other = sharing_weights(model)
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    assert all(a.data_ptr() == b.data_ptr() for a, b in pairs)
    with TTM(0.5)(other):
        assert decoder_of(other)._forward_pre_hooks and not decoder_of(model)._forward_pre_hooks
    assert decoder_of(other).config is not decoder_of(model).config


def logits_after(method, merge_ratio=0.0, prune_ratio=0.0, **settings):
    config = BenchmarkConfig("tiny", 8, 1, 1, method, merge_ratio, prune_ratio, **settings)
    run = TimedRun(build_model("tiny"), config)
    run.prefill()
    out = []
    hook = run.model.lm_head.register_forward_hook(lambda module, args, output: out.append(output[:, -1]))
    run.step()
    hook.remove()
    run.close()
    return out[-1]


def test_full_in_place_writes_what_stock_writes():
    torch.testing.assert_close(logits_after("full-in-place"), logits_after("full"))


def test_truncated_caches_are_those_of_merging_where_nothing_is_pruned():
    torch.testing.assert_close(logits_after("truncated", 0.5, 0.0), logits_after("merge", 0.5))


class LargeAllocations(TorchDispatchMode):
    """Counts operations that allocate much memory."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and not out.is_sparse:
            mine = {arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, torch.Tensor)}
            new = out.untyped_storage()
            large = new.nbytes() >= LARGE and new.data_ptr() not in mine
            self.count += large and name != "_scaled_dot_product_flash_attention_for_cpu"
        return out


def test_decoding_step_allocates_nothing_the_size_of_a_cache():
    """Stock copies all keys and values at each step; what is compressed or captured is written in place."""
    model = build_model("tiny")
    inputs = random_prompt("tiny", model, 32, 1)
    token = torch.tensor([[TEXT]])

    def large(context):
        found = []
        with context, torch.no_grad():
            cache = DynamicCache(config=model.config.get_text_config())
            model(**inputs, past_key_values=cache)
            for _ in range(40):
                with LargeAllocations() as counter:
                    model(input_ids=token, past_key_values=cache)
                found.append(counter.count)
        return found

    assert large(nullcontext()) == [2 * SHAPES["tiny"].layers] * 40  # all keys, and all values
    for compression in (
        Dynamic(0.1, from_layer=1, reselect_below=-1.0),
        TTM(0.1),
        FastV(0.1, from_layer=1),
    ):
        assert large(compression(model))[1:] == [0] * 39
    assert large(capture_attention(model))[1:] == [0] * 39
