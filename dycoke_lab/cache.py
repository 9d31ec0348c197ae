"""A KV cache layer whose pruned tokens wait, and come back when a later step wants them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal
from weakref import ref

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

ROOM = 64  # columns added at once; a step writes its keys and values in place, where stock concatenates

Waiting = Literal["device", "host", "nowhere"]


class WaitingLayer(DynamicLayer):
    """A layer that stores a prompt's visual tokens apart, and hands attention a copy of those selected, before all others.

    keys, values: (batch, kv_heads, columns, head_dim), what attention gets: selected visual tokens, the prompt's other
    columns, what came later; views of a buffer that has room for more. store: all visual tokens' keys and values,
    (batch, kv_heads, visual, head_dim) each, on the device or in the host's memory; None once the others were evicted.

    prompt: columns of the prompt. visual, others: (batch, ...), those of them to store, and those always to attend to.
    """

    def __init__(
        self, layer: DynamicLayer, prompt: int, visual: Int[Tensor, "batch visual"], others: Int[Tensor, "batch others"],
        waiting: Waiting = "device",
    ) -> None:  # fmt: skip
        super().__init__()
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, layer.is_initialized
        self.prompt = prompt
        self.store: tuple[Tensor, Tensor] | None = _rows(layer.keys, visual), _rows(layer.values, visual)
        if waiting == "host":
            self.store = _to_host(self.store[0]), _to_host(self.store[1])
        self.width = 0  # columns of selected tokens
        self.later = layer.keys.shape[2] - prompt  # type: ignore[union-attr]
        self._make_room(
            others.shape[1] + self.later,
            tuple(torch.cat([_rows(part, others), part[:, :, prompt:]], 2) for part in (layer.keys, layer.values)),  # type: ignore
        )
        self.on_rearranged: Callable[[], Callable[[Tensor], None] | None] | None = None  # a weak reference

    def _make_room(self, used: int, states: tuple[Tensor, Tensor]) -> None:
        """A new buffer that begins with these keys and values."""
        self.used, self.room = used, used + ROOM
        self.buffer = tuple(part.new_empty(*part.shape[:2], self.room, part.shape[3]) for part in states)
        for buffer, part in zip(self.buffer, states, strict=True):
            buffer[:, :, :used] = part
        self._look()

    def _look(self) -> None:
        self.keys, self.values = (buffer[:, :, : self.used] for buffer in self.buffer)

    def select(
        self, numbers: Int[Tensor, "batch selected"], evict: bool = False, changed: Bool[Tensor, "batch selected"] | None = None
    ) -> None:
        """Attend to these of the visual tokens, and all other columns.

        evict: forget the others for good, which frees their memory. changed: on the CPU, which of the numbers differ from
        those of the selection before, at the same place; only these are fetched. None: all.
        """
        if self.store is None:
            raise RuntimeError("tokens that were evicted cannot be selected")
        width = numbers.shape[1]
        if width != self.width:
            rest = tuple(buffer[:, :, self.width : self.used] for buffer in self.buffer)
            chosen = tuple(part.new_empty(*part.shape[:2], width, part.shape[3]) for part in rest)
            self._make_room(
                width + rest[0].shape[2],
                tuple(torch.cat(pair, 2) for pair in zip(chosen, rest, strict=True)),  # type: ignore[arg-type]
            )
            self.width = width
        for buffer, part in zip(self.buffer, self.store, strict=True):
            if changed is None:
                buffer[:, :, :width] = _rows(part, numbers.to(part.device))
                continue
            for sample, new in enumerate(changed):
                where = new.nonzero()[:, 0]
                if len(where):
                    fetched = part[sample].index_select(1, numbers[sample, where].to(part.device))
                    buffer[sample].index_copy_(1, where.to(buffer.device), fetched.to(buffer.device, non_blocking=True))
        if evict:
            self.store = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        count = key_states.shape[2]
        if self.used + count > self.room:
            room = max(count, self.used)  # twice as much each time: a step's share of the copying stays small
            more = (torch.cat([b[:, :, : self.used], b.new_empty(*b.shape[:2], room, b.shape[3])], 2) for b in self.buffer)
            self.buffer, self.room = tuple(more), self.used + room
        for buffer, new in zip(self.buffer, (key_states, value_states), strict=True):
            buffer[:, :, self.used : self.used + count] = new
        self.used, self.later = self.used + count, self.later + count
        self._look()
        return self.keys, self.values  # type: ignore[return-value]

    def get_seq_length(self) -> int:
        return self.prompt + self.later

    def held(self) -> int:
        """Bytes of keys and values on the device, without room for more."""
        tensors = [self.keys, self.values]
        if self.store is not None:
            tensors += [part for part in self.store if part.device == self.keys.device]  # type: ignore[union-attr]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)  # type: ignore[union-attr]

    def batch_select_indices(self, indices: Tensor) -> None:
        def of(part: Tensor) -> Tensor:
            return part[indices.to(part.device)]

        self.buffer = tuple(of(part) for part in self.buffer)
        self.store = self.store and (of(self.store[0]), of(self.store[1]))
        self._look()
        told = self.on_rearranged and self.on_rearranged()
        if told:
            told(indices.to(self.buffer[0].device))

    def reorder_cache(self, beam_idx: Tensor) -> None:  # type: ignore[override]
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.batch_select_indices(torch.arange(len(self.buffer[0])).repeat_interleave(repeats))

    def crop(self, *_: Any) -> None:
        raise NotImplementedError(
            "a pruned cache cannot go back some tokens: generate without an assistant model or prompt lookup, or set prune_ratio=0"
        )

    def stock(self, visual: Tensor, others: Tensor, attended: Tensor | None) -> DynamicLayer:
        """A layer that knows nothing of this library: all that is still there, waiting tokens too, in the prompt's order.

        attended: (batch, columns), the prompt columns that stand in `keys`; needed only if others were evicted.
        """
        layer = DynamicLayer()
        layer.dtype, layer.device, layer.is_initialized = self.dtype, self.device, self.is_initialized
        whole = []
        for number, part in enumerate((self.keys, self.values)):
            prompt = part[:, :, : self.used - self.later]  # type: ignore[index]
            if self.store is not None:
                states = part.new_zeros(*part.shape[:2], self.prompt, part.shape[3])  # type: ignore[union-attr]
                _spread(states, others, prompt[:, :, self.width :])
                _spread(states, visual, self.store[number].to(states.device))
            else:
                states = _rows(prompt, attended.argsort(1))  # type: ignore[union-attr]
            whole.append(torch.cat([states, part[:, :, self.used - self.later :]], 2))  # type: ignore[index]
        layer.keys, layer.values = whole
        return layer


def _rows(states: Any, index: Tensor) -> Tensor:
    """(batch, heads, columns, dim) at the columns of `index`, (batch, chosen)."""
    if len(index) == 1:
        return states.index_select(2, index[0])
    return states.gather(2, index[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3]))


def _spread(states: Tensor, index: Tensor, values: Tensor) -> None:
    states.scatter_(2, index[:, None, :, None].expand_as(values), values)


def _to_host(states: Tensor) -> Tensor:
    if states.device.type == "cpu":
        return states
    pinned = torch.empty(states.shape, dtype=states.dtype, pin_memory=True)
    return pinned.copy_(states)


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
