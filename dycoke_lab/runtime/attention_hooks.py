"""Observe a model's attention, and change its masks, through transformers' attention registry.

The model's own kernel (SDPA, eager, FlashAttention) still does the work, on the same tensors; hooks see
what it is given. While there are hooks, the registry has a wrapper under the kernel's name, which lets the
calls of all other modules through. Neither the model nor its config is changed, so a copy carries nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, flash_attention_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


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
    kernel: str
    owners: list[Any]  # whose hooks these are; models may share a config


class _Wrapped(NamedTuple):
    before: Any  # what the registry had of its own under this name, None if nothing
    users: list[Any]


NO_LAYER = _Layer(-1, [], [], [])
# by ids, while there are hooks: looking up weak keys would take longer than all else
_LAYERS: dict[int, _Layer] = {}
_CONFIGS: dict[int, _Hooked] = {}
_KERNELS: dict[str, _Wrapped] = {}
_CHANGING = Lock()


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
    if any(id(module) in _LAYERS for module in modules.values()):
        check_hooked(owner)
    kernel = owner.config._attn_implementation
    with _CHANGING:
        _wrap(kernel, owner)
        _CONFIGS.setdefault(id(owner.config), _Hooked(kernel, [])).owners.append(owner)
    mine: list[tuple[list[Any], Any]] = [
        (_LAYERS.setdefault(id(modules[number]), _Layer(number, [], [], []))[place], hook)  # type: ignore[misc]
        for place, asked in enumerate((masks, crops, observers), 1)
        for number, hook in (asked or {}).items()
    ]
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
        with _CHANGING:
            owners = _CONFIGS[id(owner.config)].owners
            _remove(owners, owner)
            if not owners:
                del _CONFIGS[id(owner.config)]
            _unwrap(kernel, owner)


def self_attentions(decoder: Any) -> dict[int, nn.Module]:
    """Return the decoder's attention modules by layer numbers; layers without attention have none."""
    return {n: layer.self_attn for n, layer in enumerate(decoder.layers) if hasattr(layer, "self_attn")}


def count_hooked(owner: Any) -> int:
    """Return how many hook its attention now."""
    state = _CONFIGS.get(id(owner.config))
    return sum(one is owner for one in state.owners) if state else 0


def has_flat_masks(owner: Any) -> bool:
    """Return whether its kernel's masks are (batch, keys), as FlashAttention's."""
    return ALL_MASK_ATTENTION_FUNCTIONS.get(owner.config._attn_implementation) is flash_attention_mask


def check_hooked(owner: Any) -> None:
    """Raise RuntimeError if its attention implementation was changed meanwhile, so that hooks get nothing."""
    state = _CONFIGS.get(id(owner.config))
    if state is None or owner.config._attn_implementation != state.kernel:
        raise RuntimeError(
            f"the attention implementation was set to {owner.config._attn_implementation!r} inside a "
            "dycoke_lab context: set it before entering"
        )


def _wrap(kernel: str, user: Any) -> None:
    """Have the registry call the hooks around this kernel."""
    if kernel == "flex_attention":
        raise ValueError(
            "attention kernel 'flex_attention' is not supported: load the model with "
            "attn_implementation='sdpa'"
        )
    if kernel not in _KERNELS:
        local = ALL_ATTENTION_FUNCTIONS._local_mapping
        _KERNELS[kernel] = _Wrapped(local.get(kernel), [])
        ALL_ATTENTION_FUNCTIONS[kernel] = _wrapper(kernel)
    _KERNELS[kernel].users.append(user)


def _unwrap(kernel: str, user: Any) -> None:
    before, users = _KERNELS[kernel]
    _remove(users, user)
    if users:
        return
    del _KERNELS[kernel]
    if before is None:
        del ALL_ATTENTION_FUNCTIONS[kernel]
    else:
        ALL_ATTENTION_FUNCTIONS[kernel] = before


def _remove(owners: list[Any], owner: Any) -> None:
    """Remove this very object once; models compare by identity, and so do we."""
    owners.pop(next(place for place, one in enumerate(owners) if one is owner))


def _wrapper(kernel: str) -> Callable[..., Any]:
    """Return an attention function that calls the hooks and `kernel`."""
    known = None if kernel == "eager" else ALL_ATTENTION_FUNCTIONS[kernel]

    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **kwargs: Any,
    ) -> Any:
        # eager is not in the registry: every model file brings its own
        base = known or sys.modules[type(module).__module__].eager_attention_forward
        mask = attention_mask
        number, masks, crops, observers = _LAYERS.get(id(module), NO_LAYER)
        for change in masks if mask is None and query.size(0) == 1 else [*crops, *masks]:
            mask = change(Call(number, query, key, mask, kwargs["scaling"]))
        found = base(module, query, key, value, mask, **kwargs)
        for observe in observers:
            observe(Call(number, query, key, mask, kwargs["scaling"]))
        return found

    return attend
