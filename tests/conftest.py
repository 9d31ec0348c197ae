from __future__ import annotations

import pytest
import torch

import dycoke_lab  # noqa: F401  (torchvision is made importable first)
from dycoke_lab.specimen.build import build_model
from dycoke_lab.specimen.tasks import Task, make_task

torch.set_num_threads(1)  # small tensors: more threads only wait for each other


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def model():
    """A random model in float64 whose attention is uneven, so that a wrong choice shows."""
    torch.manual_seed(1)
    model = build_model(width=32, layers=4).double().eval()
    for layer in model.model.language_model.layers:
        layer.self_attn.q_proj.weight.data *= 40
        layer.self_attn.k_proj.weight.data *= 40
    return model


@pytest.fixture(scope="session")
def task() -> Task:
    return make_task("describe", 2, 2)


@pytest.fixture(scope="session")
def inputs(task):
    return {
        "input_ids": task.ids,
        "attention_mask": torch.ones_like(task.ids),
        "pixel_values_videos": task.videos.pixels.double() * 2 - 1,
    }
