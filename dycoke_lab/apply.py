"""Switch a compression on: `with compression(model): ...`. The context manager and its checks.

How DyCoke works, in one sentence: layer from_layer - 1 attends first; its scores over the visual tokens
choose what the layers above read in this same step; a token returns in the very step in which its score
re-enters the top (1 - P). (By default a step selects anew only if its attention has moved.)

- the video is found in the prompt: pre-hook of model.model -> models/find_video.py: VideoFinder.find
- merged tokens are DROPPED: pre-hook of the decoder -> runtime/decoder_inputs.py: narrowed
- a reducer drops tokens in the prefill: pre-hook of a decoder layer -> runtime/reduction.py: Reduction.before
- scores are read, tokens chosen: attention observer -> runtime/selection.py: Selection.observe
- tokens LEAVE AND RETURN: layers of the KV cache -> runtime/selection.py: Selection.apply
- later position ids and masks: pre-hook of the decoder -> runtime/generation.py: Generation.decode
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dycoke_lab.methods.base import Compression
from dycoke_lab.models import adapter_for, decoder_of
from dycoke_lab.runtime.attention_hooks import has_flat_masks
from dycoke_lab.runtime.generation import ModelFacts
from dycoke_lab.runtime.session import Session, active_session


@contextmanager
def compress(compression: Compression, model: Any) -> Iterator[Any]:
    """Compress every generation of `model` inside this context; afterwards the model is as before.

    Raises TypeError for a model of an unsupported family, ValueError for parameters the model cannot have,
    RuntimeError for a model that is inside such a context already. With SDPA or eager, threads may generate
    at once, each with its own caches. Caches made inside keep what merging and eviction left; inactive tokens
    are put back when it ends.
    """
    decoder = decoder_of(model)
    if active_session(model):
        raise RuntimeError("this model is inside a compression's context already: leave that one first")
    compression = compression.on
    with Session(compression, model, _facts(compression, model, decoder)).running_on_model():
        yield model


Compression.open = staticmethod(compress)  # methods are below and do not import this


def from_layer_for(model: Any, wanted: int = 3) -> int:
    """Return `wanted`, or the next layer that this model can have as from_layer (the last one it can, if
    there is no next)."""
    allowed = list(prunable_layers(model))
    return next((layer for layer in allowed if layer >= wanted), allowed[-1])


def prunable_layers(model: Any) -> dict[int, list[int]]:
    """Return each from_layer that this model can have, for a choice that is shared, and the layers that are
    then pruned."""
    depth, whole = _attending_to_all(decoder_of(model))
    allowed = {n + 1: [layer for layer in whole if layer > n] for n in whole if n < whole[-1]}
    if not allowed:
        raise ValueError(
            f"the model has {depth} decoder layers: there is none to prune above one that sees the whole "
            "prompt"
        )
    return allowed


def _attending_to_all(decoder: Any) -> tuple[int, list[int]]:
    """How many layers there are, and which of them see more than a sliding window."""
    depth = len(decoder.layers)
    kinds = getattr(decoder.config, "layer_types", None) or ["full_attention"] * depth
    return depth, [number for number, kind in enumerate(kinds[:depth]) if kind == "full_attention"]


def _facts(compression: Compression, model: Any, decoder: Any) -> ModelFacts:
    """What a generation must know of the model. ValueError for what cannot work, before any token is made."""
    if not compression.off:  # where nothing is compressed, any model works that works without
        _check_model(model, decoder)
    depth, whole = _attending_to_all(decoder)
    pruned, reduced = _pruned(compression, depth, whole), _reduced(compression, model, depth, whole)
    selector = compression.selector
    scoring = [n for n in selector.scoring if n in whole] if selector else []
    if selector and reduced:
        lowest = min(scoring) if selector.scope == "shared" else selector.from_layer
        if lowest < max(reduced):
            least = max(reduced) + selector.from_layer - lowest
            raise ValueError(
                f"from_layer={selector.from_layer} of {selector!r} must lie above the last layer "
                f"{max(reduced)} of {compression.reducer!r}, so that all its layers, and those that score, "
                f"have the same tokens: give from_layer={least} or more"
            )
    flash = has_flat_masks(decoder)
    if selector and selector.scope == "head" and not selector.fixed_budget and flash:
        raise ValueError(
            f"{selector!r} keeps other numbers of tokens in each head, which FlashAttention's masks cannot "
            "say"
        )
    window = getattr(decoder.config, "sliding_window", None) or 0
    shorten = getattr(adapter_for(model), "shorten", None)
    return ModelFacts(depth, pruned, reduced, window, shorten, flash, scoring)


def _check_model(model: Any, decoder: Any) -> None:
    if decoder.config._attn_implementation == "flex_attention":
        raise ValueError(
            "attention kernel 'flex_attention' is not supported: load the model with "
            "attn_implementation='sdpa'"
        )
    if hasattr(model, "_orig_mod") or model._compiled_call_impl is not None:
        raise ValueError(
            "model is compiled, and torch.compile cannot see what a compression changes at each step: give "
            "the model as it was"
        )
    devices = {str(device) for device in (getattr(model, "hf_device_map", None) or {}).values()}
    if len(devices) > 1:
        raise ValueError(
            f"model is spread over {sorted(devices)} by device_map: only a model on one device is supported"
        )
    if getattr(model.generation_config, "prefill_chunk_size", None):
        raise ValueError(
            "model.generation_config.prefill_chunk_size divides the prompt: set it to None, a video must be "
            "read at once"
        )


def _pruned(compression: Compression, depth: int, whole: list[int]) -> list[int]:
    """The layers that the selector prunes: those from from_layer on that attend to everything."""
    selector = compression.selector
    if selector is None:
        return []
    first = selector.from_layer
    if first >= depth:
        raise ValueError(f"from_layer={first} must be below the model's {depth} decoder layers")
    if selector.scope == "shared" and first - 1 not in whole:
        allowed = ", ".join(str(number + 1) for number in whole if number < whole[-1])
        raise ValueError(
            f"from_layer={first}: layer {first - 1}, whose attention would be the score, sees only a window "
            f"of the prompt in this model. Choose from_layer from {allowed}"
        )
    if first > whole[-1]:
        raise ValueError(
            f"from_layer={first}: no layer from there on sees the whole prompt; the last one is layer "
            f"{whole[-1]}"
        )
    return [number for number in whole if number >= first]


def _reduced(compression: Compression, model: Any, depth: int, whole: list[int]) -> list[int]:
    """The layers before which the reducer is asked."""
    reducer = compression.reducer
    if reducer is None:
        return []
    layers, lowest = sorted(set(reducer.layers(depth))), reducer.first_layer
    if not layers or layers[0] < lowest or layers[-1] >= depth:
        raise ValueError(
            f"from_layer={reducer.from_layer}: {reducer!r} acts before layers {layers}; there are {depth} "
            f"decoder layers, of which it may act before {lowest} to {depth - 1}"
        )
    fed = getattr(adapter_for(model), "layers_fed", lambda config: 0)(model.config)
    windowed = len([number for number in whole if number >= layers[0]]) < depth - layers[0]
    if windowed or layers[0] < fed:
        why = "layers with a sliding window are not pruned"
        why = f"the first {fed} layers get visual tokens of their own" if layers[0] < fed else why
        raise ValueError(
            f"{reducer!r} drops tokens inside the prefill, which this model cannot do at "
            f"from_layer={layers[0]}: {why}. LastQuery chooses as FastV does, after the prefill"
        )
    if layers[0] and layers[0] - 1 not in whole:
        raise ValueError(
            f"from_layer={layers[0]}: layer {layers[0] - 1}, whose attention would be the score, is windowed"
        )
    return layers
