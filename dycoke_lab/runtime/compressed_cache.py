"""What a cache as a whole does while some of its layers present fewer tokens than were read:
`CompressedCache`.

A cache of a compressed generation changes its class when the prefill is done, and gets it back when the
context ends; if tokens are gone from it by then, it becomes a `ClosedCache`, since no one is left who knows
which.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from dycoke_lab.runtime.cache_layers import InPlaceLayer, PrunedLayer
from dycoke_lab.runtime.compat import CACHE

if TYPE_CHECKING:
    from dycoke_lab.runtime.generation import Generation


class CompressedCache(DynamicCache):
    """A DynamicCache that belongs to a generation: it counts merged tokens, and tells of exchanged batch
    elements."""

    generation: ReferenceType[Generation]  # weak: a cache's memory is freed when it is dropped

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return how many tokens have been read, merged ones included: `generate` goes by it. Masks go by
        what is stored (`get_query_offset`, `get_mask_sizes`)."""
        length: int = super().get_seq_length(layer_idx)
        generation = self.generation()
        if generation is None or not length:
            return length
        return length + generation.merged_away + self._missing(layer_idx)

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return int(super().get_seq_length(layer_idx)) + self._missing(layer_idx)

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        length, offset = super().get_mask_sizes(query_length, layer_idx)
        return length + self._missing(layer_idx), offset

    def _missing(self, layer_idx: int) -> int:
        """How many columns a reducer took from layer 0, whose masks are then for the merged prompt, as those
        of all layers, which crop them."""
        generation = self.generation()
        return generation.missing_at_0 if generation and layer_idx == 0 else 0

    def batch_select_indices(self, indices: Tensor) -> None:
        self._select(DynamicCache.batch_select_indices, indices)

    def reorder_cache(self, beam_idx: Tensor) -> None:  # type: ignore[override]
        self._select(DynamicCache.reorder_cache, beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        generation = self.generation()
        assert generation is not None
        self.batch_select_indices(torch.arange(generation.batch).repeat_interleave(repeats))

    def _select(self, how: Any, indices: Any) -> None:
        index = torch.as_tensor(indices)
        index = index.nonzero()[:, 0] if index.dtype == torch.bool else index
        how(self, index)
        if generation := self.generation():
            generation.rearrange(index)

    def crop(self, tokens_to_remove: int) -> None:
        for layer in self._pruned():  # before layers that can have done it
            layer.crop(tokens_to_remove)
        super().crop(tokens_to_remove)

    def reset(self) -> None:
        raise NotImplementedError("a compressed cache cannot be used for another prompt: make a new one")

    def _pruned(self) -> list[PrunedLayer]:
        return [layer for layer in self.layers if isinstance(layer, PrunedLayer)]

    def __deepcopy__(self, memo: Any) -> Any:
        raise RuntimeError(
            "a cache made inside a compression's context cannot be copied: run the prompt again for each "
            "answer"
        )


class ClosedCache(DynamicCache):
    """A cache whose context has ended, and which lacks tokens."""

    def update(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError(
            f"{CACHE} was made inside a compression's context that has ended, and lacks the tokens merged "
            "or evicted there: go on inside the context, or start from the prompt again"
        )


def adopt(cache: Cache, generation: Generation) -> None:
    """Make a DynamicCache the cache of this generation."""
    cache.__class__ = CompressedCache
    cache.generation = ref(generation)  # type: ignore[attr-defined]


def release(cache: Cache, lacks_tokens: bool) -> None:
    """Give a cache back, or close it."""
    stock_layers(cache)
    if isinstance(cache, CompressedCache):
        cache.__class__ = ClosedCache if lacks_tokens else DynamicCache  # type: ignore[assignment]
        del cache.generation


def write_in_place(cache: Cache, numbers: Iterable[int] | None = None) -> list[int]:
    """Have these of a cache's layers (None: all) written in place, where they are stock's that concatenate.
    Return the numbers of those it concerned: not those that gradients go through, nor those with a sliding
    window."""
    layers: list[Any] = cache.layers  # type: ignore[assignment]
    chosen = range(len(layers)) if numbers is None else numbers
    plain = [n for n in chosen if type(layers[n]) is DynamicLayer and _can_be_in_place(layers[n])]
    for number in plain:
        layers[number] = InPlaceLayer(layers[number])
    return plain


def _can_be_in_place(layer: DynamicLayer) -> bool:
    keys, values = layer.keys, layer.values
    return (
        keys is not None
        and values is not None
        and keys.shape == values.shape
        and not keys.requires_grad
        and keys.numel() > 0
    )


def stock_layers(cache: Cache) -> None:
    """Make transformers' own layers of those that are only written in place."""
    for number, layer in enumerate(cache.layers):
        if type(layer) is InPlaceLayer:
            cache.layers[number] = layer.stock()


def cache_bytes(cache: Cache) -> tuple[int, int]:
    """Return the bytes of keys and values that a cache holds, and that a step's attention reads. Inactive
    ones are held, and not read."""
    held = read = 0
    layers: list[Any] = cache.layers  # type: ignore[assignment]
    for layer in layers:
        active = sum(part.numel() * part.element_size() for part in (layer.keys, layer.values))
        held += layer.held_bytes() if isinstance(layer, PrunedLayer) else active
        read += active
    return held, read
