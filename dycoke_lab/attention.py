"""Look on at a model's attention through transformers' attention registry, one model at a time.

The model's own kernel (SDPA, eager, FlashAttention) still does the work, on the same tensors; watchers see
what it is given. Nothing is patched: the language model's config names a wrapper while someone watches.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

PREFIX = "dycoke_lab_"


class Call(NamedTuple):
    """One attention call. query (batch, heads, queries, dim), key (batch, kv_heads, keys, dim)."""

    layer: int
    query: Tensor
    key: Tensor
    mask: Tensor | None
    scaling: float


class Watcher(Protocol):
    def mask(self, call: Call) -> Tensor | None:
        """The mask to use in this call, after those of the watchers before."""

    def see(self, call: Call) -> None:
        """Look at the call as the kernel got it, when it is done: what it has read is then at hand, in a CPU's caches."""


_WATCHERS: WeakKeyDictionary[nn.Module, list[Watcher]] = WeakKeyDictionary()
_KERNELS: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()  # what a watched model had before


@contextmanager
def watching(language_model: nn.Module, watcher: Watcher) -> Iterator[None]:
    """Have `watcher` see every self-attention call of this language model, until the context ends."""
    config: Any = language_model.config
    modules = [layer.self_attn for layer in language_model.layers]  # type: ignore[union-attr]
    if modules[0] not in _WATCHERS:
        _KERNELS[modules[0]] = config._attn_implementation
        config._attn_implementation = _wrapper(config._attn_implementation, modules[0])
    for module in modules:
        _WATCHERS.setdefault(module, []).append(watcher)
    try:
        yield
    finally:
        for module in modules:
            _WATCHERS[module].remove(watcher)
            if not _WATCHERS[module]:
                del _WATCHERS[module]
        if modules[0] not in _WATCHERS:
            config._attn_implementation = _KERNELS.pop(modules[0])


def watched(language_model: nn.Module) -> int:
    """How many watchers see its attention now."""
    return len(_WATCHERS.get(language_model.layers[0].self_attn, ()))  # type: ignore[union-attr,index,arg-type]


def _wrapper(kernel: str, module: nn.Module) -> str:
    """The registered name of an attention function that calls the watchers, then `kernel`."""
    name = PREFIX + kernel
    if kernel == "eager":  # not in the registry: every model file brings its own
        base: Callable[..., Any] = sys.modules[type(module).__module__].eager_attention_forward
        name = f"{name}_{type(module).__module__.rpartition('.')[2]}"
    else:
        base = ALL_ATTENTION_FUNCTIONS[kernel]

    def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any) -> Any:
        watchers = _WATCHERS.get(module, ())
        call = Call(int(module.layer_idx), query, key, mask, kwargs["scaling"])  # type: ignore[arg-type]
        for watcher in watchers:
            if (changed := watcher.mask(call)) is not call.mask:
                call = call._replace(mask=changed)
        config: Any = module.config
        looks_up = kernel not in ("sdpa", "eager")  # FlashAttention's function looks up by this name which kernel to load
        if looks_up:
            config._attn_implementation = kernel
        try:
            found = base(module, query, key, value, call.mask, **kwargs)
        finally:
            if looks_up:
                config._attn_implementation = name
        for watcher in watchers:
            watcher.see(call)
        return found

    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[kernel])
    return name
