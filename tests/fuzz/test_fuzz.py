"""Whatever is composed and given, a call ends right or in an error of ours, and the model is as before."""

from __future__ import annotations

import os
import warnings
from typing import Any

import pytest
from helpers.fuzz_cases import cases
from helpers.fuzz_checks import check
from helpers.fuzz_reading import check_reading, readings
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

COUNT = int(os.environ.get("FUZZ_CASES", 50))  # make test-fuzz draws 1,000
ENDED: dict[str, int] = {}


@pytest.mark.slow
@seed(20)
@settings(
    max_examples=COUNT,
    deadline=None,
    database=None,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate, *([Phase.shrink] if "FUZZ_CASES" in os.environ else [])),
)
@given(st.integers(0, 4).flatmap(lambda kind: readings() if kind == 3 else cases()))
def test_any_case_ends_right_or_in_an_error_of_ours(tmp_path_factory: Any, case: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch and transformers, for wrong inputs
        if hasattr(case, "prompts"):
            ended = check(case)
        else:
            ended = check_reading(case, tmp_path_factory.getbasetemp())
    ENDED[ended] = ENDED.get(ended, 0) + 1


def teardown_module() -> None:
    """How many cases ended in which way: shown by make test-fuzz."""
    lines = [f"{count:5} {ended}" for ended, count in sorted(ENDED.items(), key=lambda item: -item[1])]
    print("\n" + "\n".join(lines))
