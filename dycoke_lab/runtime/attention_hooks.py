"""Observe a model's attention, and change its masks, through transformers' attention registry, one model at a
time.

The model's own kernel (SDPA, eager, FlashAttention) still does the work, on the same tensors; hooks see
what it is given. Nothing is patched: the model's config names a wrapper while hooks are there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
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


Mask = Callable[[Call], Tensor | None]  # returns the mask to use in a call, after those who were asked before
Observer = Callable[[Call], None]  # gets a call as the kernel got it, when it is done


class _Layer(NamedTuple):
    number: int
    masks: list[Mask]
    crops: list[Mask]
    observers: list[Observer]


class _Hooked(NamedTuple):
    kernel: str  # that the config names without hooks
    wrapper: str
    owners: list[Any]  # whose hooks these are; models may share a config


NO_LAYER = _Layer(-1, [], [], [])
# by ids, while there are hooks: looking up weak keys would take longer than all else
_LAYERS: dict[int, _Layer] = {}
_CONFIGS: dict[int, _Hooked] = {}


@contextmanager
def hooked(
    owner: Any,
    modules: Mapping[int, nn.Module],
    masks: Mapping[int, Mask] | None = None,
    crops: Mapping[int, Mask] | None = None,
    observers: Mapping[int, Observer] | None = None,
) -> Iterator[None]:
    """Hook the attention of these modules, by layer numbers, until the context ends.

    owner: the language model or vision tower they belong to, whose config names the kernel. masks: may change
    the masks of these layers. crops: the same, but not asked in a call of one batch element without a mask,
    where nothing has to be hidden. observers: get the calls. Raises ValueError for flex attention, whose
    masks are no tensors, and RuntimeError if the attention implementation was changed while other hooks are
    there.
    """
    config: Any = owner.config
    if _CONFIGS.get(id(config)) and any(id(module) in _LAYERS for module in modules.values()):
        check_hooked(owner)
    state = _CONFIGS.get(id(config))
    if state is None or config._attn_implementation != state.wrapper:
        kernel = config._attn_implementation
        wrapper = _wrapper(kernel, next(iter(modules.values())))
        _CONFIGS[id(config)] = _Hooked(kernel, wrapper, state.owners if state else [])
        config._attn_implementation = wrapper
    mine: list[tuple[list[Any], Any]] = [(_CONFIGS[id(config)].owners, owner)]
    for place, asked in enumerate((masks, crops, observers), 1):
        for number, hook in (asked or {}).items():
            layer = _LAYERS.setdefault(id(modules[number]), _Layer(number, [], [], []))
            mine.append((layer[place], hook))  # type: ignore[arg-type]
    for hooks, hook in mine:
        hooks.append(hook)
    try:
        yield
    finally:
        for hooks, hook in mine:
            hooks.remove(hook)
        for module in modules.values():
            if not any(_LAYERS.get(id(module), NO_LAYER)[1:]):
                _LAYERS.pop(id(module), None)
        if not _CONFIGS[id(config)].owners:
            state = _CONFIGS.pop(id(config))
            if config._attn_implementation == state.wrapper:  # else someone has chosen another meanwhile
                config._attn_implementation = state.kernel


def self_attentions(decoder: Any) -> dict[int, nn.Module]:
    """Return the decoder's attention modules by layer numbers; layers without attention have none."""
    return {n: layer.self_attn for n, layer in enumerate(decoder.layers) if hasattr(layer, "self_attn")}


def count_hooked(owner: Any) -> int:
    """Return how many hook its attention now."""
    state = _CONFIGS.get(id(owner.config))
    return sum(one is owner for one in state.owners) if state else 0


def kernel_of(owner: Any) -> str:
    """Return the name of the kernel that does the work, hooked or not."""
    return str(owner.config._attn_implementation).removeprefix(PREFIX)


def has_flat_masks(owner: Any) -> bool:
    """Return whether its kernel's masks are (batch, keys), as FlashAttention's."""
    return ALL_MASK_ATTENTION_FUNCTIONS.get(owner.config._attn_implementation) is flash_attention_mask


def check_hooked(owner: Any) -> None:
    """Raise RuntimeError if its attention implementation was changed meanwhile, so that hooks get nothing."""
    state = _CONFIGS.get(id(owner.config))
    if state is None or owner.config._attn_implementation != state.wrapper:
        raise RuntimeError(
            f"the attention implementation was set to {owner.config._attn_implementation!r} inside a "
            "dycoke_lab context: set it before entering"
        )


def _wrapper(kernel: str, module: nn.Module) -> str:
    """Register an attention function that calls the hooks and `kernel`, and return its name."""
    if kernel == "flex_attention":
        raise ValueError(
            "attention kernel 'flex_attention' is not supported: load the model with "
            "attn_implementation='sdpa'"
        )
    name = PREFIX + kernel
    if kernel == "eager":  # not in the registry: every model file brings its own
        base: Callable[..., Any] = sys.modules[type(module).__module__].eager_attention_forward
        name = f"{name}_{type(module).__module__.rpartition('.')[2]}"
    else:
        base = ALL_ATTENTION_FUNCTIONS[kernel]
    # FlashAttention's function reads in the configuration which kernel to load
    reads_config = kernel not in ("sdpa", "eager")

    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **kwargs: Any,
    ) -> Any:
        mask = attention_mask
        number, masks, crops, observers = _LAYERS.get(id(module), NO_LAYER)
        for change in masks if mask is None and query.size(0) == 1 else [*crops, *masks]:
            mask = change(Call(number, query, key, mask, kwargs["scaling"]))
        if not reads_config:
            found = base(module, query, key, value, mask, **kwargs)
        else:
            config: Any = module.config
            config._attn_implementation = kernel
            try:
                found = base(module, query, key, value, mask, **kwargs)
            finally:
                config._attn_implementation = name
        for observe in observers:
            observe(Call(number, query, key, mask, kwargs["scaling"]))
        return found

    AttentionInterface.register(name, attend)
    if kernel in ALL_MASK_ATTENTION_FUNCTIONS:  # else it wants none
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[kernel])
    return name
