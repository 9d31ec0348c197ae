"""A KV cache layer whose pruned tokens wait, and come back when a later step wants them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import ref

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class WaitingLayer(DynamicLayer):
    """A stock dynamic layer that stores every token and hands attention only those selected.

    keys, values: (batch, kv_heads, columns, head_dim), all of them, as in the stock layer.
    """

    def __init__(self, layer: DynamicLayer, prompt: int) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, layer.is_initialized
        self.keys, self.values = layer.keys, layer.values
        self.prompt = prompt  # columns that a selection chooses from; later ones are always attended to
        self.attended: tuple[Tensor, Tensor] | None = None  # keys and values, where not all are
        self.on_rearranged: Callable[[], Callable[[Tensor], None] | None] | None = None  # a weak reference

    def select(self, index: Int[Tensor, "batch kept"], evict: bool = False) -> None:
        """Attend to these prompt columns and all later ones.

        evict: forget the other columns for good, which frees their memory.
        """
        chosen = (_choose(self.keys, index, self.prompt), _choose(self.values, index, self.prompt))
        if evict:
            self.keys, self.values, self.prompt = *chosen, index.shape[1]
            self.attended = None
        else:
            self.attended = chosen

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        everything = super().update(key_states, value_states, *args, **kwargs)
        if self.attended is None:
            return everything
        keys, values = self.attended
        self.attended = torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)
        return self.attended

    def batch_select_indices(self, indices: Tensor) -> None:
        indices = indices.to(self.keys.device)  # type: ignore[union-attr]
        self.keys, self.values = self.keys[indices], self.values[indices]  # type: ignore[index]
        if self.attended is not None:
            keys, values = self.attended
            self.attended = keys[indices], values[indices]
        told = self.on_rearranged and self.on_rearranged()
        if told:
            told(indices)

    def reorder_cache(self, beam_idx: Tensor) -> None:  # type: ignore[override]
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.batch_select_indices(torch.arange(len(self.keys)).repeat_interleave(repeats))  # type: ignore[arg-type]

    def crop(self, *_: Any) -> None:
        raise NotImplementedError(
            "a pruned cache cannot go back some tokens: generate without an assistant model or prompt lookup, or set prune_ratio=0"
        )

    def stock(self) -> DynamicLayer:
        """The same tokens, waiting ones included, as a layer that knows nothing of this library."""
        layer = DynamicLayer()
        layer.dtype, layer.device, layer.is_initialized = self.dtype, self.device, self.is_initialized
        layer.keys, layer.values = self.keys, self.values
        return layer


def _choose(states: Any, index: Tensor, prompt: int) -> Tensor:
    picked = states.gather(2, index[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3]))
    return torch.cat([picked, states[:, :, prompt:]], dim=2)


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


def close(cache: Cache) -> None:
    """Refuse to go on with a cache that lacks tokens, since no one is left who knows which."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError(
            "past_key_values was made inside a DyCoke context that has ended, and lacks the tokens merged or evicted there: go on "
            "inside the context, or start from the prompt again"
        )

    cache.update = refuse  # type: ignore[method-assign]
