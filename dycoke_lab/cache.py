"""A KV cache layer whose pruned tokens wait, and come back when a later step wants them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal
from weakref import ref

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from dycoke_lab.layout import take

ROOM = 64  # columns added at once; a step writes its keys and values in place, where stock concatenates

Waiting = Literal["device", "host", "nowhere"]


class WaitingLayer(DynamicLayer):
    """A layer that stores a prompt's visual tokens apart, and hands attention a copy of those selected, before all others.

    keys, values: (batch, kv_heads, columns, head_dim), what attention gets: selected visual tokens, the prompt's other
    columns, what came later; views of a buffer that has room for more. store: keys and values of all visual tokens, side by
    side, (batch, kv_heads, visual, 2 * head_dim), on the device or in the host's memory; None once the others were evicted.

    prompt: columns of the prompt. visual, others: (batch, ...), those of them to store, and those always to attend to.
    """

    def __init__(
        self, layer: DynamicLayer, prompt: int, visual: Int[Tensor, "batch visual"], others: Int[Tensor, "batch others"],
        waiting: Waiting = "device",
    ) -> None:  # fmt: skip
        super().__init__()
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, layer.is_initialized
        states: Any = torch.cat([layer.keys, layer.values], 3)  # type: ignore[list-item]
        self.prompt = prompt
        self.store: Tensor | None = take(states, visual[:, None].expand(-1, states.shape[1], -1))
        if waiting == "host":
            self.store = _to_host(self.store)
        self.width = 0  # columns of selected tokens
        self.later = states.shape[2] - prompt
        rest = take(states, others[:, None].expand(-1, states.shape[1], -1))
        self._make_room(torch.cat([rest, states[:, :, prompt:]], 2), ROOM)

    def _make_room(self, states: Tensor, room: int) -> None:
        """A buffer that begins with these keys and values."""
        self.used = states.shape[2]
        self.buffer = torch.cat([states, states.new_empty(*states.shape[:2], room, states.shape[3])], 2)
        self._look()

    def _look(self) -> None:
        self.keys, self.values = self.buffer[:, :, : self.used].chunk(2, -1)

    def select(self, rows: Int[Tensor, " rows"], evict: bool = False, changed: Int[Tensor, " rows"] | None = None) -> None:
        """Attend to these of the visual tokens, and to all other columns.

        rows: of the store as (batch * kv_heads * visual) rows, as many for each sample and head. evict: forget the others for
        good, which frees their memory. changed: which of `rows` differ from those of the selection before, at the same place;
        only these are fetched. None: all.
        """
        if self.store is None:
            raise RuntimeError("tokens that were evicted cannot be selected")
        batch, heads, _, dim = self.store.shape
        width = len(rows) // (batch * heads)
        if width != self.width:
            rest = self.buffer[:, :, self.width : self.used]
            self._make_room(torch.cat([rest.new_empty(batch, heads, width, dim), rest], 2), ROOM)
            self.width = width
        self._make_writable()
        store = self.store.view(-1, dim)
        if changed is None:
            self.buffer[:, :, :width] = store.index_select(0, rows).view(batch, heads, width, dim).to(self.buffer.device)
        elif len(changed):
            fetched = store.index_select(0, rows[changed]).to(self.buffer.device, non_blocking=True)
            part, place = changed // width, changed % width
            self.buffer.view(-1, dim).index_copy_(0, (part * self.buffer.shape[2] + place).to(self.buffer.device), fetched)
        if evict:
            self.store = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        count, dim = key_states.shape[2:]
        if self.used + count > self.buffer.shape[2]:  # twice as much each time: a step's share of the copying stays small
            self._make_room(self.buffer[:, :, : self.used], max(count, self.used))
        self._make_writable()
        new = self.buffer[:, :, self.used : self.used + count]
        new[..., :dim], new[..., dim:] = key_states, value_states
        self.used, self.later = self.used + count, self.later + count
        self._look()
        return self.keys, self.values  # type: ignore[return-value]

    def _make_writable(self) -> None:
        if self.buffer.is_inference() and not torch.is_inference_mode_enabled():
            self.buffer = self.buffer.clone()  # an earlier turn ran under torch.inference_mode, this one does not

    def get_seq_length(self) -> int:
        return self.prompt + self.later

    def held(self) -> int:
        """Bytes of keys and values on the device, without room for more."""
        here = self.buffer[:, :, : self.used].numel()
        if self.store is not None and self.store.device == self.buffer.device and not self.store.is_pinned():
            here += self.store.numel()
        return here * self.buffer.element_size()

    def batch_select_indices(self, indices: Tensor) -> None:
        self.buffer = self.buffer[indices.to(self.buffer.device)]
        self.store = None if self.store is None else self.store[indices.to(self.store.device)]
        self._look()
        told = self.on_rearranged and self.on_rearranged()
        if told:
            told(indices.to(self.buffer.device))

    on_rearranged: Callable[[], Callable[[Tensor], None] | None] | None = None  # a weak reference

    def reorder_cache(self, beam_idx: Tensor) -> None:  # type: ignore[override]
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.batch_select_indices(torch.arange(len(self.buffer)).repeat_interleave(repeats))

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
        buffer = self.buffer[:, :, : self.used]
        end = self.used - self.later
        if self.store is not None:
            states = buffer.new_zeros(*buffer.shape[:2], self.prompt, buffer.shape[3])
            for columns, part in ((others, buffer[:, :, self.width : end]), (visual, self.store.to(buffer.device))):
                states.scatter_(2, columns[:, None, :, None].expand_as(part), part)
        else:
            states = take(buffer[:, :, :end], attended.argsort(1)[:, None].expand(-1, buffer.shape[1], -1))  # type: ignore[union-attr]
        layer.keys, layer.values = torch.cat([states, buffer[:, :, end:]], 2).chunk(2, -1)
        return layer


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
            "past_key_values was made inside a DyCoke context that has ended, and lacks the tokens merged or evicted there: go on "
            "inside the context, or start from the prompt again"
        )

    cache.update = refuse  # type: ignore[method-assign]
