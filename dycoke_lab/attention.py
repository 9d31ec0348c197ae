"""Look on at a model's attention through transformers' attention registry, one model at a time.

The model's own kernel (SDPA, eager, FlashAttention) still does the work, on the same tensors; watchers see
what it is given. Nothing is patched: the language model's config names a wrapper while someone watches.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
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


Mask = Callable[[Call], Tensor | None]  # the mask to use in a call, after those who were asked before
See = Callable[[Call], None]  # looks at a call as the kernel got it, when it is done: what it has read is in a CPU's caches then


class _Layer(NamedTuple):
    masks: list[Mask]
    crops: list[Mask]
    sees: list[See]


class _Model(NamedTuple):
    kernel: str  # that it has when nobody watches
    watchers: list[object]


NOBODY = _Layer([], [], [])
_LAYERS: dict[int, _Layer] = {}  # by a module's id, while someone watches: looking up weak keys would take longer than all else
_MODELS: WeakKeyDictionary[nn.Module, _Model] = WeakKeyDictionary()


@contextmanager
def watching(
    language_model: nn.Module,
    masks: Mapping[int, Mask] | None = None,
    crops: Mapping[int, Mask] | None = None,
    sees: Mapping[int, See] | None = None,
) -> Iterator[None]:
    """Watch the self-attention of this language model until the context ends.

    masks: who may change the masks of which layers, by their numbers. crops: the same, but not asked in a call of one sample
    without a mask, where nothing has to be hidden. sees: who looks at the calls.
    """
    config: Any = language_model.config
    modules = [layer.self_attn for layer in language_model.layers]  # type: ignore[union-attr]
    if language_model not in _MODELS:
        _MODELS[language_model] = _Model(config._attn_implementation, [])
        _LAYERS.update({id(module): _Layer([], [], []) for module in modules})
        config._attn_implementation = _wrapper(config._attn_implementation, modules[0])
    mine: list[tuple[list[Any], Any]] = [(_MODELS[language_model].watchers, object())]
    for place, asked in enumerate((masks, crops, sees)):
        mine += [(_LAYERS[id(modules[number])][place], who) for number, who in (asked or {}).items()]
    for callers, who in mine:
        callers.append(who)
    try:
        yield
    finally:
        for callers, who in mine:
            callers.remove(who)
        if not watched(language_model):
            config._attn_implementation = _MODELS.pop(language_model).kernel
            for module in modules:
                del _LAYERS[id(module)]


def watched(language_model: nn.Module) -> int:
    """How many watch its attention now."""
    return len(_MODELS[language_model].watchers) if language_model in _MODELS else 0


def _wrapper(kernel: str, module: nn.Module) -> str:
    """The registered name of an attention function that calls who watches, and `kernel`."""
    name = PREFIX + kernel
    if kernel == "eager":  # not in the registry: every model file brings its own
        base: Callable[..., Any] = sys.modules[type(module).__module__].eager_attention_forward
        name = f"{name}_{type(module).__module__.rpartition('.')[2]}"
    else:
        base = ALL_ATTENTION_FUNCTIONS[kernel]
    looks_up = kernel not in ("sdpa", "eager")  # FlashAttention's function looks up in the configuration which kernel to load

    def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any) -> Any:
        masks, crops, sees = _LAYERS.get(id(module), NOBODY)
        changes = masks if mask is None and query.size(0) == 1 else [*crops, *masks]
        for change in changes:
            mask = change(Call(int(module.layer_idx), query, key, mask, kwargs["scaling"]))  # type: ignore[arg-type]
        config: Any = module.config
        if looks_up:
            config._attn_implementation = kernel
        try:
            found = base(module, query, key, value, mask, **kwargs)
        finally:
            if looks_up:
                config._attn_implementation = name
        for see in sees:
            see(Call(int(module.layer_idx), query, key, mask, kwargs["scaling"]))  # type: ignore[arg-type]
        return found

    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[kernel])
    return name
