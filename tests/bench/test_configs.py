"""Benchmark configs: what each applies to the model, how it is called, and the plan for a GPU."""

from __future__ import annotations

import pytest

from dycoke_lab.bench.configs import METHODS_TO_MEASURE, BenchmarkConfig, configs, gpu_plan
from dycoke_lab.methods import TTM, Dynamic, FastV, LastQuery


def test_config_applies_what_its_method_says():
    def compression(method, **settings):
        return BenchmarkConfig("tiny", 4, 1, 2, method, **settings).compression()

    ratios = dict(merge_ratio=0.7, prune_ratio=0.6)
    for method in ("vision", "full", "full-in-place", "capture"):
        assert compression(method) is None
    assert (
        compression("merge", merge_ratio=0.7).parts == compression("truncated", **ratios).parts == (TTM(0.7),)
    )
    dycoke = compression("dycoke", **ratios, inactive="evict", reselect_below=0.5)
    assert dycoke == TTM(0.7) + Dynamic(0.6, from_layer=3, reselect_below=0.5, inactive="evict")
    assert compression("one-shot", prune_ratio=0.6).parts == (LastQuery(0.6, from_layer=3),)
    assert compression("fastv", prune_ratio=0.6).parts == (FastV(0.6, from_layer=3),)
    with pytest.raises(ValueError, match="prune_ratio=1"):
        compression("dycoke", prune_ratio=1.0)


def test_methods_to_measure_leave_out_what_cannot_be_measured():
    assert {"dycoke", "one-shot", "fastv", "random", "full-in-place"} <= set(METHODS_TO_MEASURE)
    assert not {"ttm", "hindsight", "dynamic", "last_query"} & set(METHODS_TO_MEASURE)


def test_configs_combine_only_the_parameters_that_a_method_has():
    methods = ["full", "merge", "truncated", "dycoke", "one-shot"]
    found = configs("tiny", 4, 1, 2, methods, [0.5], [0.3, 0.7], [0.9, 2.0], "evict")
    assert [config.label for config in found] == [
        "full",
        "merge K=0.5",
        "truncated K=0.5 P=0.3",
        "truncated K=0.5 P=0.7",
        "dycoke K=0.5 P=0.3 evict",
        "dycoke K=0.5 P=0.3 every step evict",
        "dycoke K=0.5 P=0.7 evict",
        "dycoke K=0.5 P=0.7 every step evict",
        "one-shot K=0 P=0.3",
        "one-shot K=0 P=0.7",
    ]
    with pytest.raises(ValueError, match="new_tokens=0 must be at least 1"):
        configs("tiny", 4, 1, 0, ["full"], [0.5], [0.5])


def test_gpu_plan_has_each_denominator_beside_what_it_divides():
    plan = list(gpu_plan("llava-ov-7b"))
    assert len(set(plan)) == len(plan) == len({(config.job, config.label) for config in plan})
    assert {config.merge_ratio for config in plan if config.method == "dycoke"} == {0.3, 0.5, 0.7}
    assert {config.new_tokens for config in plan} == {32, 64, 256}
    assert {config.frames for config in plan} == {32, 64, 128}
    assert {config.inactive for config in plan} == {"device", "offload", "evict"}
    assert any(config.whole_logits for config in plan) and any(config.graph for config in plan)
    for config in plan:
        if config.method == "dycoke":
            beside = {
                other.method for other in plan if (other.job, other.graph) == (config.job, config.graph)
            }
            assert {"full", "merge"} <= beside and (config.graph or "full-in-place" in beside)
        compression = config.compression()
        assert compression is None or compression.prune_ratio in (0.0, 0.7)


def test_gpu_plan_begins_with_encoding_and_the_papers_32_frames():
    plan = list(gpu_plan("llava-ov-7b"))
    assert [config.frames for config in plan[:3] if config.method == "vision"] == [32, 64, 128]
    jobs = list(dict.fromkeys(config.job for config in plan if config.method != "vision"))
    assert jobs[0] == ("llava-ov-7b", 32, 1, 64)
    batches = [job[2] for job in jobs]
    assert max(batches[:4]) <= 8 and batches.index(32) > batches.index(16)
