"""KV cache layers: one with room for more, and one whose pruned tokens wait, and come back when a later step wants them."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from dycoke_lab.fetch import Moves, fetch, rows_of, swap
from dycoke_lab.layout import take

ROOM = 256  # columns added at once

Waiting = Literal["device", "host", "nowhere"]


class RoomLayer(DynamicLayer):
    """A layer that has room for more columns, so that a step writes its keys and values in place, where stock concatenates.

    buffer: (2 * batch, kv_heads, columns and room, head_dim), all samples' keys and then their values. used: how many columns are
    in use. keys, values: those from column `first` on, (batch, kv_heads, used - first, head_dim).
    """

    first = 0

    def __init__(self, layer: DynamicLayer, states: Tensor | None = None) -> None:
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)  # type: ignore[arg-type]
        self._make_room(torch.cat([layer.keys, layer.values]) if states is None else states, ROOM)  # type: ignore[list-item]

    def _make_room(self, states: Tensor, room: int) -> None:
        """A buffer that begins with these keys and values."""
        self.used = states.shape[2]
        self._take(torch.cat([states, states.new_empty(*states.shape[:2], room, states.shape[3])], 2))

    def _take(self, buffer: Tensor) -> None:
        self.buffer, self.halves = buffer, buffer.chunk(2)
        self._look()

    def _look(self) -> None:
        keys, values = self.halves
        self.keys, self.values = keys[:, :, self.first : self.used], values[:, :, self.first : self.used]
        self.shown = self.keys

    def _heed(self) -> None:
        """Go on with keys and values that someone else has put in their place, as stock does."""
        if self.keys is not self.shown and self.end is None:
            self._make_room(torch.cat([self.keys, self.values]), ROOM)  # type: ignore[list-item]

    end: Tensor | None = None  # (1,), the column of the next token, while the layer holds still

    def hold_still(self, end: Int[Tensor, " one"], count: int) -> None:
        """Have `keys` and `values` keep their place and size for `count` steps: they show the room, too, and each step writes into
        the column that `end` says."""
        self._made_writable()
        if self.used + count > self.buffer.shape[2]:
            self._make_room(self.buffer[:, :, : self.used], count)
        self.buffer[:, :, self.used :] = 0  # what a mask hides must still be a number
        self.end = end
        self.keys, self.values = self.buffer[:, :, self.first : self.used + count].chunk(2)

    def go_on(self, done: int) -> None:
        """End that, after so many steps."""
        self.end, self.used = None, self.used + done
        self._look()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.end is not None:
            self.buffer.index_copy_(2, self.end, torch.cat([key_states, value_states]))
            return self.keys, self.values  # type: ignore[return-value]
        self._heed()
        if not self.used:  # after a reset; of another batch, maybe
            self._make_room(torch.cat([key_states, value_states]), ROOM)
            return self.keys, self.values  # type: ignore[return-value]
        count = key_states.size(2)
        end = self.used + count
        if end > self.buffer.size(2):
            self._make_room(self.buffer[:, :, : self.used], max(count, ROOM))
        keys, values = self.halves
        try:
            keys[:, :, self.used : end], values[:, :, self.used : end] = key_states, value_states
        except RuntimeError:
            if not self._made_writable():
                raise
            return self.update(key_states, value_states)
        self.used = end
        self._look()
        return self.keys, self.values  # type: ignore[return-value]

    def _made_writable(self) -> bool:
        """Whether the buffer had to be copied, since an earlier turn ran under torch.inference_mode and this one does not."""
        if torch.is_inference_mode_enabled() or not self.buffer.is_inference():
            return False
        self._take(self.buffer.clone())
        return True

    def get_seq_length(self) -> int:
        self._heed()
        return self.used

    def held(self) -> int:
        """Bytes of keys and values on the device, without room for more."""
        return self.buffer[:, :, : self.used].numel() * self.buffer.element_size()

    def batch_select_indices(self, indices: Tensor) -> None:
        self._heed()
        self._take(self.buffer[_both(indices, self.buffer)])

    def reorder_cache(self, beam_idx: Tensor) -> None:  # type: ignore[override]
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.batch_select_indices(torch.arange(len(self.buffer) // 2).repeat_interleave(repeats))

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove > 0:
            raise ValueError(f"tokens_to_remove={tokens_to_remove} must be negative, or 0: how many tokens to go back")
        self._heed()
        self.used = max(self.used + tokens_to_remove, 0)
        self._look()

    def reset(self) -> None:
        self.used = 0
        self._look()

    def stock(self) -> DynamicLayer:
        """A layer that knows nothing of this library, with the same keys and values."""
        self._heed()
        return self._stock(self.buffer[:, :, : self.used])

    def _stock(self, states: Tensor) -> DynamicLayer:
        layer = DynamicLayer()
        if states.shape[2]:
            keys, values = (part.clone() for part in states.chunk(2))  # without the room
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values
        return layer

    def __deepcopy__(self, memo: Any) -> DynamicLayer:
        return self.stock()


class WaitingLayer(RoomLayer):
    """A layer that holds columns of a prompt before those that it hands to attention.

    buffer: the prompt's columns that wait, its others, what came later. On the host, a store holds the whole prompt, (2 * batch,
    kv_heads, columns, head_dim), and the buffer only those attended to, as when what waited was evicted.
    """

    rows: Any = None  # the buffer's, once they are asked for

    def __init__(self, layer: DynamicLayer, prompt: int, waiting: Waiting = "device") -> None:
        super().__init__(layer)
        self.prompt = self.columns = prompt  # how many columns it has, and how many of them are in the buffer
        self.store = _to_host(self.buffer[:, :, :prompt]) if waiting == "host" else None
        self.evicted = False

    def select(self, moves: Moves, evict: bool = False) -> None:
        """Attend to these of the prompt's columns, and to what came later. evict: forget the others for good, which frees their
        memory."""
        if self.evicted:
            raise RuntimeError("tokens that were evicted cannot be selected")
        if moves.rows is None or self.store is not None:  # else bytes are written, which may be in any mode
            self._made_writable()
        width = moves.numbers.shape[1]
        if self.store is None and not evict:
            if self.rows is None and moves.rows is not None:
                self.rows = rows_of(self.buffer)
            swap(self.buffer, moves, self.rows)
            if self.first != moves.waiting:
                self.first = moves.waiting
                self._look()
        elif self.store is not None and not evict and width == self.columns:
            fetch(self.store, self.buffer, moves)
        else:
            source = self.buffer if self.store is None else self.store
            found = _of_both(source, moves.numbers.to(source.device)).to(self.buffer.device)
            self._make_room(torch.cat([found, self.buffer[:, :, self.columns : self.used]], 2), ROOM)
            self.columns, self.evicted = width, evict
            self.store = None if evict else self.store

    def _take(self, buffer: Tensor) -> None:
        super()._take(buffer)
        self.rows = None

    def _heed(self) -> None:
        if self.keys is not self.shown and self.end is None:
            raise RuntimeError("keys of a pruned layer were replaced from outside, and nobody knows which tokens they are")

    def get_seq_length(self) -> int:
        return self.used + self.prompt - self.columns

    def held(self) -> int:
        waits_here = self.store is not None and self.store.device == self.buffer.device and not self.store.is_pinned()
        return super().held() + (self.store.numel() * self.store.element_size() if waits_here else 0)  # type: ignore[union-attr]

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self.store = None if self.store is None else self.store[_both(indices, self.store)]

    def crop(self, tokens_to_remove: int) -> None:
        raise NotImplementedError(
            "a pruned cache cannot go back some tokens: generate without an assistant model or prompt lookup, or set prune_ratio=0"
        )

    def reset(self) -> None:
        raise NotImplementedError("a pruned cache cannot be used for another prompt: make a new one")

    def whole(self, order: Int[Tensor, "batch columns"]) -> DynamicLayer:
        """A layer that knows nothing of this library: all that is still there, waiting columns too, in the prompt's order.

        order: the numbers of the prompt's columns, as the buffer has them.
        """
        prompt = _of_both(self.buffer, order.argsort(1)) if self.store is None else self.store.to(self.buffer.device)
        return self._stock(torch.cat([prompt, self.buffer[:, :, self.columns : self.used]], 2))


def _both(indices: Tensor, states: Tensor) -> Tensor:
    """Numbers of samples, among keys and among values."""
    indices = indices.to(states.device)
    return torch.cat([indices, indices + len(states) // 2])


def _of_both(states: Tensor, columns: Int[Tensor, "batch columns"]) -> Tensor:
    """These columns of keys and of values, (2 * batch, kv_heads, columns, head_dim)."""
    return take(states, columns.repeat(2, 1)[:, None].expand(-1, states.shape[1], -1))


def _to_host(states: Tensor) -> Tensor:
    if states.device.type == "cpu":
        return states.clone()
    pinned = torch.empty(states.shape, dtype=states.dtype, pin_memory=True)
    return pinned.copy_(states)
