from __future__ import annotations

import pytest
import torch
from families import FAMILIES, frames

import dycoke_lab  # noqa: F401  (torchvision is made importable first)
from dycoke_lab.specimen.tasks import Task, make_task

torch.set_num_threads(1)  # small tensors: more threads only wait for each other


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session", params=list(FAMILIES))
def family(request):
    return FAMILIES[request.param]


@pytest.fixture(scope="session")
def model(family):
    return family.model()


@pytest.fixture(scope="session")
def prompts(family):
    """Two prompts with one video each, as parts."""
    return [["user\n", ("video", frames(8 * family.paired, seed)), "what happens first?"] for seed in (0, 1)]


@pytest.fixture(scope="session")
def inputs(family, prompts):
    return family.inputs(*prompts)


@pytest.fixture(scope="session")
def task() -> Task:
    return make_task("describe", 2, 2)
