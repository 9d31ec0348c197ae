from __future__ import annotations

import pytest

from dycoke_lab.bench import benchmark
from dycoke_lab.bench.configs import METHODS_TO_MEASURE, configs
from dycoke_lab.bench.roofline import Device

PEAK = Device("a test's", 1e9, 1e10)


@pytest.fixture(scope="session", autouse=True)
def no_peak():
    """Skip the products of large matrices, which would take longer than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "measured_device", lambda device, dtype: PEAK)
        yield PEAK


@pytest.fixture(scope="session")
def measured(tmp_path_factory, no_peak):
    """A small benchmark on the CPU: its configs, rows and folder."""
    folder = tmp_path_factory.mktemp("bench")
    methods = [
        "vision",
        "full",
        "full-in-place",
        "capture",
        "merge",
        "truncated",
        "dycoke",
        "fastv",
        "one-shot",
    ]
    assert set(methods) <= set(METHODS_TO_MEASURE)
    found = configs("tiny", 8, 2, 5, methods, [0.5, 0.7], [0.7])
    found += configs("tiny", 8, 2, 5, ["dycoke"], [0.7], [0.7], [2.0])
    found += configs("tiny", 8, 2, 5, ["full", "truncated", "dycoke"], [0.7], [0.7], graph=True)
    return found, benchmark.run_benchmark(found, 2, folder, "cpu", "float32", progress=False), folder
