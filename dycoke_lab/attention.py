"""Look on at a model's attention through transformers' attention registry, one model at a time.

The model's own kernel (SDPA, eager, FlashAttention) still does the work, on the same tensors; watchers see
what it is given. Nothing is patched: the language model's config names a wrapper while someone watches.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, flash_attention_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

PREFIX = "dycoke_lab_"


class Call(NamedTuple):
    """One attention call. query (batch, heads, queries, dim), key (batch, kv_heads, keys, dim)."""

    layer: int
    query: Tensor
    key: Tensor
    mask: Tensor | None
    scaling: float


Mask = Callable[[Call], Tensor | None]  # the mask to use in a call, after those who were asked before
Group = Callable[[], bool]  # whether this call's queries may be grouped by the key head that they share
See = Callable[[Call], None]  # looks at a call as the kernel got it, when it is done: what it has read is in a CPU's caches then


class _Layer(NamedTuple):
    masks: list[Mask]
    crops: list[Mask]
    sees: list[See]
    groups: list[Group]


class _Watched(NamedTuple):
    kernel: str  # that the config names when nobody watches
    wrapper: str
    watchers: list[nn.Module]  # of which model; models may share a config


NOBODY = _Layer([], [], [], [])
# by ids, while someone watches: looking up weak keys would take longer than all else
_LAYERS: dict[int, _Layer] = {}
_CONFIGS: dict[int, _Watched] = {}


@contextmanager
def watching(
    language_model: nn.Module,
    masks: Mapping[int, Mask] | None = None,
    crops: Mapping[int, Mask] | None = None,
    sees: Mapping[int, See] | None = None,
    groups: Mapping[int, Group] | None = None,
) -> Iterator[None]:
    """Watch the self-attention of this language model until the context ends.

    masks: who may change the masks of which layers, by their numbers. crops: the same, but not asked in a call of one sample
    without a mask, where nothing has to be hidden. sees: who looks at the calls. groups: who allows that SDPA works
    faster on a CPU, where that is equal but for rounding. Raises ValueError for flex attention, whose masks are no tensors, and
    RuntimeError if the attention implementation was changed while others look on.
    """
    config: Any = language_model.config
    modules = [layer.self_attn for layer in language_model.layers]  # type: ignore[union-attr]
    state = _CONFIGS.get(id(config))
    if state and any(any(_LAYERS.get(id(module), NOBODY)[:3]) for module in modules):
        check_watched(language_model)
    if state is None or config._attn_implementation != state.wrapper:  # those who only group can do so with another
        kernel = config._attn_implementation
        _CONFIGS[id(config)] = _Watched(kernel, _wrapper(kernel, modules[0]), state.watchers if state else [])
        config._attn_implementation = _CONFIGS[id(config)].wrapper
    mine: list[tuple[list[Any], Any]] = [(_CONFIGS[id(config)].watchers, language_model)]
    for place, asked in enumerate((masks, crops, sees, groups)):
        for number, who in (asked or {}).items():
            mine.append((_LAYERS.setdefault(id(modules[number]), _Layer([], [], [], []))[place], who))
    for callers, who in mine:
        callers.append(who)
    try:
        yield
    finally:
        for callers, who in mine:
            callers.remove(who)
        for module in modules:
            if not any(_LAYERS.get(id(module), NOBODY)):
                _LAYERS.pop(id(module), None)
        if not _CONFIGS[id(config)].watchers:
            state = _CONFIGS.pop(id(config))
            if config._attn_implementation == state.wrapper:  # else someone has chosen another meanwhile
                config._attn_implementation = state.kernel


def watched(language_model: Any) -> int:
    """How many watch its attention now."""
    state = _CONFIGS.get(id(language_model.config))
    return sum(model is language_model for model in state.watchers) if state else 0


def can_group(language_model: Any) -> bool:
    """Whether `groups` would be asked: each layer has an attention that SDPA computes."""
    state = _CONFIGS.get(id(language_model.config))
    kernel = state.kernel if state else language_model.config._attn_implementation
    return kernel == "sdpa" and all(hasattr(layer, "self_attn") for layer in language_model.layers)


def has_flat_masks(language_model: Any) -> bool:
    """Whether its kernel's masks are (batch, keys), as FlashAttention's."""
    return ALL_MASK_ATTENTION_FUNCTIONS.get(language_model.config._attn_implementation) is flash_attention_mask


def check_watched(language_model: Any) -> None:
    """Raise RuntimeError if its attention implementation was changed meanwhile, so that watchers see nothing."""
    state = _CONFIGS.get(id(language_model.config))
    if state is None or language_model.config._attn_implementation != state.wrapper:
        raise RuntimeError(
            f"the attention implementation was set to {language_model.config._attn_implementation!r} inside a dycoke_lab context: "
            "set it before entering"
        )


def _gains(base: Any, query: Tensor, key: Tensor, kwargs: Mapping[str, Any]) -> bool:
    """Whether `_grouped` can take this call, and gains by it: one word's on a CPU, whose kernel divides its work by heads, so that
    there must be a key head for each thread."""
    heads = key.size(0) * key.size(1)
    return (
        base is sdpa_attention_forward and query.size(2) == 1 and query.is_cpu and query.size(1) > key.size(1)
        and torch.get_num_threads() <= heads and not kwargs.get("dropout")
        and kwargs.get("softcap") is None and kwargs.get("position_bias") is None
    )  # fmt: skip


def _grouped(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> tuple[Tensor, None]:
    """One word's attention, with the queries of a key head side by side, so that the kernel reads its keys once, not once for each
    of them. transformers does so itself, but only where there is a mask."""
    batch, heads, _, dim = query.shape
    found = scaled_dot_product_attention(query.reshape(batch, key.size(1), -1, dim), key, value, scale=scaling)
    return found.reshape(batch, 1, heads, -1), None


def _wrapper(kernel: str, module: nn.Module) -> str:
    """The registered name of an attention function that calls who watches, and `kernel`."""
    if kernel == "flex_attention":
        raise ValueError("attention kernel 'flex_attention' is not supported: load the model with attn_implementation='sdpa'")
    name = PREFIX + kernel
    if kernel == "eager":  # not in the registry: every model file brings its own
        base: Callable[..., Any] = sys.modules[type(module).__module__].eager_attention_forward
        name = f"{name}_{type(module).__module__.rpartition('.')[2]}"
    else:
        base = ALL_ATTENTION_FUNCTIONS[kernel]
    looks_up = kernel not in ("sdpa", "eager")  # FlashAttention's function looks up in the configuration which kernel to load

    def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any) -> Any:
        mask = attention_mask
        masks, crops, sees, groups = _LAYERS.get(id(module), NOBODY)
        changes = masks if mask is None and query.size(0) == 1 else [*crops, *masks]
        for change in changes:
            mask = change(Call(int(module.layer_idx), query, key, mask, kwargs["scaling"]))  # type: ignore[arg-type]
        if groups and mask is None and _gains(base, query, key, kwargs) and all(allows() for allows in groups):
            found = _grouped(query, key, value, kwargs["scaling"])
        elif not looks_up:
            found = base(module, query, key, value, mask, **kwargs)
        else:
            config: Any = module.config
            config._attn_implementation = kernel
            try:
                found = base(module, query, key, value, mask, **kwargs)
            finally:
                config._attn_implementation = name
        for see in sees:
            see(Call(int(module.layer_idx), query, key, mask, kwargs["scaling"]))  # type: ignore[arg-type]
        return found

    AttentionInterface.register(name, attend)
    if kernel in ALL_MASK_ATTENTION_FUNCTIONS:  # else it wants none
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[kernel])
    return name
