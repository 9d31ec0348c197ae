"""Model families: one small adapter each, found by the `model_type` of a model's config.

An adapter says MODEL_TYPE; DECODER and VISION, which of `model.model`'s modules are the language model and
the vision tower; and `find_videos(config, inputs)`: where the videos' tokens stand in a call's prompt, None
if the call brings no video. A decoder that is given more for each column than embeddings and positions has
`shorten` too (qwen3_vl.py). VISION_PATCHES says how the vision tower's attention has a video's patches, for
methods that need it: "images" (a square of patches for each frame, maybe with a class token) or "packed" (a
row of patches, those of a token side by side); without it such methods are refused.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from torch import nn

from dycoke_lab.models import (
    gemma3,
    internvl,
    llava_next_video,
    llava_onevision,
    qwen2_5_vl,
    qwen3_vl,
    smolvlm,
    video_llama_3,
)  # fmt: skip
from dycoke_lab.models.words import learn as learn

HOW_TO = "docs/add-a-model-family.md"
ADAPTERS: dict[str, ModuleType] = {
    adapter.MODEL_TYPE: adapter
    for adapter in (
        llava_onevision,
        llava_next_video,
        qwen2_5_vl,
        qwen3_vl,
        internvl,
        video_llama_3,
        smolvlm,
        gemma3,
    )
}


def adapter_for(model: nn.Module) -> ModuleType:
    """Return the adapter of a model's family. Raises TypeError, naming the supported ones, if there is
    none."""
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    check_supported(kind)
    if not hasattr(model, "model"):
        raise TypeError(
            f"model is a {type(model).__name__}, a part of one that generates: give the whole model"
        )
    return ADAPTERS[kind]


def check_supported(kind: str) -> None:
    """Raise TypeError if models of this `model_type` have no adapter."""
    if kind not in ADAPTERS:
        raise TypeError(
            f"model is of type {kind!r}, which has no adapter here; supported: {', '.join(ADAPTERS)}. "
            f"How to add one, in about 20 lines: {HOW_TO}"
        )


def register(adapter: ModuleType) -> None:
    """Support one more family, by a module (or object) with what an adapter has."""
    missing = [
        name for name in ("MODEL_TYPE", "DECODER", "VISION", "find_videos") if not hasattr(adapter, name)
    ]
    if missing:
        raise TypeError(f"adapter={adapter!r} lacks {', '.join(missing)}: see {HOW_TO}")
    ADAPTERS[adapter.MODEL_TYPE] = adapter


def decoder_of(model: Any) -> Any:
    """Return the language model, which is called with `inputs_embeds` in which the visual tokens already
    stand."""
    adapter = adapter_for(model)
    return getattr(model.model, adapter.DECODER)


def vision_of(model: Any) -> Any:
    """Return the vision tower."""
    adapter = adapter_for(model)
    return getattr(model.model, adapter.VISION)


def vision_attentions(model: Any) -> list[nn.Module]:
    """Return the attention modules of the vision tower, layer by layer."""
    tower = vision_of(model)
    return [
        module for module in tower.modules()
        if type(module).__name__.endswith("Attention") and not isinstance(module, nn.MultiheadAttention)
    ]  # fmt: skip
