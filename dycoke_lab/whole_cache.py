"""What a cache as a whole is given and told, for as long as its layers hold tokens back or lack some."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any
from weakref import WeakMethod, ref

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from dycoke_lab.cache import RoomLayer, WaitingLayer
from dycoke_lab.compat import CACHE


def give_room(cache: Cache, numbers: Iterable[int]) -> list[int]:
    """Have these of a cache's layers write in place, where they are stock's that concatenate. The numbers of those it concerned:
    not those that gradients go through."""
    layers: list[Any] = cache.layers  # type: ignore[assignment]
    plain = [number for number in numbers if type(layers[number]) is DynamicLayer and _can_have_room(layers[number])]
    for number in plain:
        layers[number] = RoomLayer(layers[number])
    return plain


def _can_have_room(layer: DynamicLayer) -> bool:
    keys, values = layer.keys, layer.values
    return keys is not None and values is not None and keys.shape == values.shape and not keys.requires_grad and keys.numel() > 0


def take_room(cache: Cache) -> None:
    """Make stock's layers of those that only have room."""
    for number, layer in enumerate(cache.layers):
        if type(layer) is RoomLayer:
            cache.layers[number] = layer.stock()


def refuse_going_back(cache: Cache, layer: WaitingLayer) -> None:
    """Have a cache say what a layer of it cannot do, before layers that can have done it; `allow_going_back` ends it."""
    cache.crop, cache.reset = layer.crop, layer.reset  # type: ignore[method-assign]


def allow_going_back(cache: Cache) -> None:
    for name in ("crop", "reset"):
        vars(cache).pop(name, None)


def tell_of_rearranging(cache: Cache, told: Callable[[Tensor], None], batch: int) -> None:
    """Have a cache say which samples it goes on with, as numbers of those so far, when they are exchanged, dropped or repeated
    (beams). told: a bound method, of an object that the cache does not keep alive. batch: how many samples there are."""
    weak, told_ = ref(cache), WeakMethod(told)

    def select(name: str, how: Any) -> None:
        nonlocal batch
        index = torch.as_tensor(how)
        index = index.nonzero()[:, 0] if index.dtype == torch.bool else index
        batch, cache_ = len(index), weak()
        getattr(type(cache_), name)(cache_, index)
        if call := told_():
            call(index)

    def repeat(times: int) -> None:
        select("batch_select_indices", torch.arange(batch).repeat_interleave(times))

    for name in ("reorder_cache", "batch_select_indices"):
        setattr(cache, name, partial(select, name))
    cache.batch_repeat_interleave = repeat  # type: ignore[method-assign,assignment]


def tell_of_rearranging_no_more(cache: Cache) -> None:
    for name in ("reorder_cache", "batch_select_indices", "batch_repeat_interleave"):
        vars(cache).pop(name, None)


def report_whole_length(cache: Cache, merged: int) -> None:
    """Have a cache count the tokens that merging removed: `generate` reads off it how much of a prompt has been read.

    Masks go by what is stored (`get_query_offset`, `get_mask_sizes`).
    """
    weak = ref(cache)  # no cycle: a cache's memory is freed when it is dropped

    def stored(layer_idx: int = 0) -> int:
        return type(cache_ := weak()).get_seq_length(cache_, layer_idx)  # type: ignore[arg-type,union-attr]

    def whole(layer_idx: int = 0) -> int:
        return length + merged if (length := stored(layer_idx)) else 0

    cache.get_query_offset, cache.get_seq_length = stored, whole  # type: ignore[method-assign]


def refuse_copies(cache: Cache) -> None:
    """Say that a copy would lack what DyCoke knows of a cache; `allow_copies` ends it."""

    def refuse(memo: Any) -> Any:
        raise RuntimeError("a cache made inside a DyCoke context cannot be copied: run the prompt again for each answer")

    cache.__deepcopy__ = refuse  # type: ignore[attr-defined]


def allow_copies(cache: Cache) -> None:
    vars(cache).pop("__deepcopy__", None)


def close(cache: Cache) -> None:
    """Refuse to go on with a cache that lacks tokens, since no one is left who knows which."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError(
            f"{CACHE} was made inside a DyCoke context that has ended, and lacks the tokens merged or evicted there: go on "
            "inside the context, or start from the prompt again"
        )

    cache.update = refuse  # type: ignore[method-assign]
