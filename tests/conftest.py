"""Fixtures of all tests. Shapes in signatures are really checked in them: the hook precedes the library."""

from __future__ import annotations

import functools

import pytest
import torch
from helpers import checked_shapes  # noqa: F401  (for the hook, which finds it by name)
from helpers.families import FAMILIES, frames
from jaxtyping import install_import_hook

CHECKED = ("dycoke_lab.methods", "dycoke_lab.models.token_layout", "dycoke_lab.runtime.kv_swap")
install_import_hook(CHECKED, "helpers.checked_shapes.checked")

import dycoke_lab  # noqa: E402, F401  (torchvision is made importable first)

torch.set_num_threads(1)  # small tensors: more threads only wait for each other


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session", params=list(FAMILIES))
def family(request):
    return FAMILIES[request.param]


@functools.cache
def built(name):
    """Build each family's model once; pytest would do so for each set of parameters that names the family."""
    return FAMILIES[name].model()


@pytest.fixture(scope="session")
def family_model(family):
    return built(family.name)


@pytest.fixture
def model(family_model):
    """The family's model, with the kernel that it came with."""
    family_model.set_attn_implementation("sdpa")
    return family_model


@pytest.fixture(scope="session")
def tiny():
    """A model for what does not depend on the family."""
    return FAMILIES["llava_onevision"].model()


@pytest.fixture(scope="session")
def prompts(family):
    """Two prompts with one video each, as parts."""
    return [["user\n", ("video", frames(8 * family.paired, seed)), "what happens first?"] for seed in (0, 1)]


@pytest.fixture(scope="session")
def inputs(family, prompts):
    return family.inputs(*prompts)
