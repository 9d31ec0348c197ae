"""KV cache layers: one that is written in place, and one whose inactive tokens can return.

What is written in place, where stock transformers copies: `InPlaceLayer` keeps room for more columns, so that
a decoding step writes its keys and values there; a stock DynamicLayer concatenates, which copies the whole
cache at every step. Every compressed generation decodes so, and `capture_attention`. A bench compares with
stock, and with stock on such layers, too.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from dycoke_lab.models.token_layout import take
from dycoke_lab.runtime.kv_swap import Moves, fetch, swap

ROOM = 256  # columns added at once


class InPlaceLayer(DynamicLayer):
    """A layer with room for more columns.

    buffer: (2 * batch, kv_heads, columns and room, head_dim), all keys and then all values. used: how many
    columns are in use. keys, values: those from column `first` on, (batch, kv_heads, used - first, head_dim).
    """

    first = 0

    def __init__(self, layer: DynamicLayer) -> None:
        super().__init__()
        keys, values = layer.keys, layer.values
        self.lazy_initialization(keys, values)  # type: ignore[arg-type]
        self._make_room(torch.cat([keys, values]), ROOM)  # type: ignore[list-item]

    def _make_room(self, states: Tensor, room: int) -> None:
        """Take a buffer that begins with these keys and values."""
        self.used = states.shape[2]
        self._take(torch.cat([states, states.new_empty(*states.shape[:2], room, states.shape[3])], 2))

    def _take(self, buffer: Tensor) -> None:
        self.buffer, self.halves = buffer, buffer.chunk(2)
        self._show()

    def _show(self) -> None:
        keys, values = self.halves
        self.keys, self.values = keys[:, :, self.first : self.used], values[:, :, self.first : self.used]
        self.shown = self.keys

    def _check(self) -> None:
        """Raise RuntimeError for what cannot be written in place."""
        if self.keys is not self.shown:
            raise RuntimeError(
                "keys of a cache inside a dycoke_lab context were replaced from outside: use `update`"
            )
        if self.buffer.is_inference() and not torch.is_inference_mode_enabled():
            raise RuntimeError(
                "this cache was made under torch.inference_mode and is continued outside it: stay in that "
                "mode, or use torch.no_grad from the prompt on"
            )

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        self._check()
        if not self.used:  # after a reset; of another batch, maybe
            self._make_room(torch.cat([key_states, value_states]), ROOM)
            return self.keys, self.values  # type: ignore[return-value]
        count = key_states.size(2)
        end = self.used + count
        if end > self.buffer.size(2):
            self._make_room(self.buffer[:, :, : self.used], max(count, ROOM))
        keys, values = self.halves
        keys[:, :, self.used : end], values[:, :, self.used : end] = key_states, value_states
        self.used = end
        self._show()
        return self.keys, self.values  # type: ignore[return-value]

    def get_seq_length(self) -> int:
        return self.used

    def held_bytes(self) -> int:
        """Return the bytes of keys and values on the device, without the room for more."""
        return self.buffer[:, :, : self.used].numel() * self.buffer.element_size()

    def batch_select_indices(self, indices: Tensor) -> None:
        self._take(self.buffer[_both(indices, self.buffer)])

    def reorder_cache(self, beam_idx: Tensor) -> None:  # type: ignore[override]
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.batch_select_indices(torch.arange(len(self.buffer) // 2).repeat_interleave(repeats))

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove > 0:
            raise ValueError(
                f"tokens_to_remove={tokens_to_remove} must be negative, or 0: how many tokens to go back"
            )
        self.used = max(self.used + tokens_to_remove, 0)
        self._show()

    def reset(self) -> None:
        self.used = 0
        self._show()

    def stock(self) -> DynamicLayer:
        """Return a layer of transformers' own with the same keys and values."""
        return _stock(self.buffer[:, :, : self.used])

    def __deepcopy__(self, memo: Any) -> DynamicLayer:
        return self.stock()


class PrunedLayer(InPlaceLayer):
    """A layer that presents only the active columns of its prompt, and what came later, to attention.

    buffer: the prompt's inactive columns, its active ones, what came later. Offloaded, a store on the host
    holds the whole prompt, (2 * batch, kv_heads, columns, head_dim), and the buffer only the active columns,
    as after an eviction. prompt: how many columns the prompt had; columns: how many of them are in the
    buffer.
    """

    rows: Any = None  # for kv_swap, of the buffer

    def __init__(self, layer: DynamicLayer, prompt: int, inactive: str = "device") -> None:
        super().__init__(layer)
        self.prompt = self.columns = prompt
        self.store = _to_host(self.buffer[:, :, :prompt]) if inactive == "offload" else None

    def swap(self, moves: Moves) -> None:
        """Activate these columns; the others stay inactive in the buffer."""
        self._check()
        self.rows = swap(self.buffer, moves, self.rows)
        if self.first != moves.inactive:
            self.first = moves.inactive
            self._show()

    def fetch(self, moves: Moves) -> None:
        """Activate these columns of the store."""
        self._check()
        assert self.store is not None
        if moves.numbers.shape[1] == self.columns:
            fetch(self.store, self.buffer, moves)
        else:
            self._keep(self.store, moves.numbers)

    def evict(self, places: Int[Tensor, "rows kept"]) -> None:
        """Forget all of the prompt's columns but these places of the buffer, which frees their memory.

        rows: the batch, or the batch and key heads (batch * kv_heads), for a choice of each head's own."""
        self._check()
        self._keep(self.buffer, places)

    def _keep(self, source: Tensor, places: Tensor) -> None:
        both, heads, _, dim = source.shape
        rows = len(places)
        apart = source.reshape(2 * rows, heads * both // (2 * rows), source.shape[2], dim)
        places = places.to(source.device).repeat(2, 1)[:, None].expand(-1, apart.shape[1], -1)
        kept = take(apart, places).view(both, heads, -1, dim).to(self.buffer.device)
        self._make_room(torch.cat([kept, self.buffer[:, :, self.columns : self.used]], 2), ROOM)
        self.columns = kept.shape[2]

    def _take(self, buffer: Tensor) -> None:
        super()._take(buffer)
        self.rows = None

    def get_seq_length(self) -> int:
        return self.used + self.prompt - self.columns

    def held_bytes(self) -> int:
        here = (
            self.store is not None and self.store.device == self.buffer.device and not self.store.is_pinned()
        )
        return super().held_bytes() + (self.store.numel() * self.store.element_size() if here else 0)  # type: ignore[union-attr]

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self.store = None if self.store is None else self.store[_both(indices, self.store)]

    def crop(self, tokens_to_remove: int) -> None:
        raise NotImplementedError(
            "a pruned cache cannot go back some tokens: generate without an assistant model or prompt "
            "lookup, or prune nothing"
        )

    def reset(self) -> None:
        raise NotImplementedError("a pruned cache cannot be used for another prompt: make a new one")

    def whole(self, order: Int[Tensor, "batch columns"] | None) -> DynamicLayer:
        """Return a layer of transformers' own with all that is still there, inactive columns too, in the
        prompt's order.

        order: the numbers of the prompt's columns, as the buffer has them; None after an eviction, which
        keeps order.
        """
        if self.store is not None:
            prompt = self.store.to(self.buffer.device)
        elif order is None:
            prompt = self.buffer[:, :, : self.columns]
        else:
            places = order.argsort(1).to(self.buffer.device).repeat(2, 1)
            prompt = take(self.buffer, places[:, None].expand(-1, self.buffer.shape[1], -1))
        return _stock(torch.cat([prompt, self.buffer[:, :, self.columns : self.used]], 2))


def _stock(states: Tensor) -> DynamicLayer:
    layer = DynamicLayer()
    if states.shape[2]:
        keys, values = (part.clone() for part in states.chunk(2))  # without the room
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
    return layer


def _both(indices: Tensor, states: Tensor) -> Tensor:
    """Batch indices, among keys and among values."""
    indices = indices.nonzero()[:, 0] if indices.dtype == torch.bool else indices
    indices = indices.to(states.device)
    return torch.cat([indices, indices + len(states) // 2])


def _to_host(states: Tensor) -> Tensor:
    if states.device.type == "cpu":
        return states.clone()
    pinned = torch.empty(states.shape, dtype=states.dtype, pin_memory=True)
    return pinned.copy_(states)
