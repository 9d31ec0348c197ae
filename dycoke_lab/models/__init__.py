"""Model families: one small adapter each, found by the `model_type` of a model's config."""

from __future__ import annotations

from types import ModuleType

from torch import nn

from dycoke_lab.models import llava_next_video, llava_onevision

ADAPTERS: dict[str, ModuleType] = {adapter.MODEL_TYPE: adapter for adapter in (llava_onevision, llava_next_video)}


def adapter_for(model: nn.Module) -> ModuleType:
    """The adapter of a model's family. Raises TypeError, naming the supported ones, if there is none."""
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if kind not in ADAPTERS:
        raise TypeError(f"model is of type {kind!r}, which has no adapter here; supported: {', '.join(ADAPTERS)}")
    return ADAPTERS[kind]
