"""The predicted cost of a setting, counted another way: by torch's own counter on the model, and by hand."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers.cache_utils import DynamicCache

from dycoke_lab.bench import flops
from dycoke_lab.bench.configs import BenchmarkConfig
from dycoke_lab.bench.interleaving import interleaved
from dycoke_lab.bench.model_shapes import SHAPES, TEXT, build_model, encoding, random_prompt
from dycoke_lab.bench.roofline import H100, Device, columns, measured_device, prediction, seconds, work
from dycoke_lab.methods import compose
from dycoke_lab.runtime.cache_layers import InPlaceLayer

TINY = SHAPES["tiny"]


@pytest.fixture(scope="module")
def eager():
    model = build_model("tiny")
    model.set_attn_implementation("eager")  # torch counts products of matrices
    return model


def counted(call):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize("logits", [0, 1])
def test_flops_of_a_prefill_and_a_step(eager, logits):
    inputs = random_prompt("tiny", eager, 4, 1)
    n = inputs["input_ids"].shape[1]
    cache = DynamicCache(config=eager.config.get_text_config())
    hidden = (
        flops.attention(TINY, n * n - n * (n + 1) / 2) * TINY.layers
    )  # eager computes what the mask hides
    own = counted(lambda: eager(**inputs, past_key_values=cache, logits_to_keep=logits)) - hidden
    expected = flops.prefill(TINY, [n] * TINY.layers, logits or n)
    assert own == pytest.approx(expected, rel=1e-3)  # rotary embeddings are a small product, too
    token = torch.tensor([[TEXT]])
    own = counted(lambda: eager(input_ids=token, past_key_values=cache))
    assert own == pytest.approx(flops.step(TINY, [n + 1] * TINY.layers), rel=1e-3)


@pytest.mark.parametrize("name", ["tiny", "qwen2.5-vl-3b"])
def test_flops_of_encoding(name):
    model = build_model(name, "meta" if name != "tiny" else "cpu", vision=True)
    if name == "tiny":
        model.set_attn_implementation("eager")
        own = counted(encoding(name, model, 2, 1))
        # besides: the embedding of patches, and the projector, which has two matrices
        tower = TINY.tower
        more = 2 * 2 * tower.patches**2 * (3 * 14 * 14 * tower.hidden + (tower.hidden + 64) * 64)
        assert own - more == pytest.approx(flops.vision(tower, 2), rel=0.01)
    layers = [
        p.numel()
        for n, p in model.model.named_parameters()
        if p.ndim == 2 and ("layers" in n or "blocks" in n) and "language" not in n
    ]
    tower = SHAPES[name].tower
    assert sum(layers) == tower.layers * tower.hidden * (4 * tower.hidden + tower.matrices * tower.mlp)


def test_paper_and_honest_count_differ_by_what_is_named():
    shape = SHAPES["llava-ov-7b"]
    paper = flops.prefill_flops(6272, shape.layers, shape.hidden, shape.mlp)
    assert paper == pytest.approx(41.4e12, rel=0.03)
    own = flops.prefill(shape, [6272] * shape.layers, 0)
    # twice as many operations; a third matrix; keys of 4 heads, not 28; half of the pairs
    d, m, n = shape.hidden, shape.mlp, 6272
    as_paper = 2 * shape.layers * (4 * n * d**2 + 2 * n**2 * d + 2 * n * d * m)
    more = 2 * shape.layers * n * d * m
    less = 2 * shape.layers * (2 * n * d * (d - 4 * 128) + d * n * (n - 1))
    assert own == pytest.approx(as_paper + more - less, rel=1e-9)


@pytest.mark.parametrize(
    "config",
    [
        BenchmarkConfig("tiny", 5, 1, 4, "full"),
        BenchmarkConfig("tiny", 5, 1, 4, "full", graph=True),
        BenchmarkConfig("tiny", 7, 3, 9, "dycoke", 0.7, 0.7),
        BenchmarkConfig("tiny", 8, 1, 4, "dycoke", 0.7, 0.0),
        BenchmarkConfig("tiny", 7, 2, 9, "dycoke", 0.7, 0.7, inactive="evict"),
        BenchmarkConfig("tiny", 6, 2, 5, "fastv", 0.3, 0.5),
        BenchmarkConfig("tiny", 6, 1, 5, "one-shot", 0, 0.9),
    ],
    ids=lambda config: config.label,
)
def test_columns_are_those_a_run_has(config):
    (row,) = interleaved(build_model("tiny"), [config])
    own = work(config, 4)
    assert (row["bytes"]["held"], row["bytes"]["read"]) == (own.held, own.read)
    assert row["prompt_tokens"] == columns(replace(config, merge_ratio=0.0)).prompt


def test_only_the_stock_full_cache_is_copied():
    """A copy reads and writes all keys and values, besides the reading by attention."""

    def moved(method, **settings):
        own = work(BenchmarkConfig("llava-ov-7b", 32, 1, 1, method, **settings))
        return round(own.step_bytes - own.weights - own.select_bytes) / own.read

    assert moved("full") == 3.0 and moved("full-in-place") == 1.0 == moved("merge", merge_ratio=0.7)
    for method in ("dycoke", "truncated"):
        assert moved(method, merge_ratio=0.7, prune_ratio=0.7) == 1.0
    for method in ("fastv", "one-shot", "first_step", "reference_code"):
        assert moved(method, prune_ratio=0.7) == 1.0
    assert moved("capture") == 1.5  # it reads all keys again
    graph = work(BenchmarkConfig("llava-ov-7b", 32, 1, 1, "full", graph=True))
    assert graph.step_bytes - graph.weights == graph.read


def test_seconds_are_bytes_or_operations_whichever_take_longer():
    own = work(BenchmarkConfig("llava-ov-7b", 32, 1, 64, "full"))
    slow_memory, slow_arithmetic = Device("", 1.0, 1e30), Device("", 1e30, 1.0)
    assert seconds(own, slow_memory, 64)["step"] == own.step_bytes
    assert seconds(own, slow_arithmetic, 64)["step"] == own.step_flops
    both = seconds(own, H100, 64)
    assert both["total"] == pytest.approx(both["vision"] + both["prefill"] + 64 * both["step"])
    few = measured_device("cpu", torch.float32, size=64, repeats=1)
    assert few.bandwidth > 0 and few.flops > 0


def test_dynamic_pruning_pays_for_long_videos_in_batches():
    """At batch 1 on a 7B it saves hardly 2 % of a step."""

    def saved(frames, batch, changed=0.0, prune_ratio=0.7):
        merged = BenchmarkConfig("llava-ov-7b", frames, batch, 64, "dycoke", 0.7, 0.0)
        least = prediction(merged, H100, 2)["step"]
        return 1 - prediction(replace(merged, prune_ratio=prune_ratio), H100, 2, changed)["step"] / least

    full = work(BenchmarkConfig("llava-ov-7b", 128, 8, 64, "full"))
    assert full.read == pytest.approx(11.5e9, rel=0.02)
    assert 0.0 < saved(32, 1) < 0.02 < 0.1 < saved(128, 8) < saved(256, 32)
    # if half of what is selected changes at each step, moving it costs most of what is saved: each token that
    # returns is read and written, and so is the one whose place it takes
    assert 0 < saved(128, 8, changed=0.5) < saved(128, 8) / 4
    assert saved(128, 8, changed=1.0) < 0 and saved(128, 8, changed=0.5, prune_ratio=0.5) < 0


@pytest.mark.parametrize("inactive", ["device", "offload", "evict"])
@pytest.mark.parametrize("method", ["dynamic", "last_query", "fastv", "full"])
def test_bytes_of_each_layer(eager, method, inactive):
    """A pruned layer holds what it attends to, and besides what is inactive there.

    On a CPU, "offload" is the same memory, in which the whole prompt is held.
    """
    inputs, tokens = random_prompt("tiny", eager, 8, 2), torch.tensor([[TEXT], [TEXT]])
    token = 2 * TINY.kv_bytes(4)  # of two batch elements
    retained, other, active = 8 * 16 - 6 * (16 - 8), 45, int(0.4 * 80 + 0.5)
    fields = dict(inactive=inactive) if method == "dynamic" else {}
    context = nullcontext() if method == "full" else compose(method, 0.5, 0.6, 2, **fields)(eager)
    with context, torch.no_grad():
        cache = DynamicCache(config=eager.config.get_text_config())
        eager(**inputs, past_key_values=cache)
        for step in range(1, 4):
            eager(input_ids=tokens, past_key_values=cache)
            for number, layer in enumerate(cache.layers):
                pruned = number >= 2 and method != "full"
                attended = active if pruned else 8 * 16 if method == "full" else retained
                kept = {"device": retained - active, "offload": retained + other, "evict": 0}[inactive]
                kept = kept if pruned and method == "dynamic" else 0
                read = 4 * (layer.keys.numel() + layer.values.numel())
                assert read == token * (attended + other + step)
                held = layer.held_bytes() if isinstance(layer, InPlaceLayer) else read
                assert held == token * (attended + other + step + kept)
