"""Move selected tokens to where attention reads them: only those that were not there already."""

from __future__ import annotations

from contextlib import nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # comes with torch's builds for CUDA; a CPU has no need of it
    triton = None  # type: ignore[assignment]


class Moves(NamedTuple):
    """Of tokens, those that wait before those selected. waiting: how many wait. numbers: the token that each place of a selected
    one gets.

    What to move, for a GPU, which is not to be waited for. source: the place where each of these tokens lies so far; changed:
    whether another lies in its place. And for a CPU, pairs of places to exchange: the sample, that of a token that waited, that of
    a selected one; rows: those of (2 * batch * heads * columns) to read, and to write.
    """

    waiting: int
    numbers: Int[Tensor, "batch kept"]
    source: Int[Tensor, "batch kept"] | None = None
    changed: Bool[Tensor, "batch kept"] | None = None
    pairs: tuple[Tensor, Tensor, Tensor] | None = None
    rows: tuple[Any, Any] | None = None

    def share(self) -> float:
        """Of the selected tokens, how many are others than so far."""
        count = float(self.changed.sum()) if self.pairs is None else len(self.pairs[0])  # type: ignore[union-attr]
        return count / max(self.numbers.numel(), 1)


def exchange(
    order: Int[Tensor, "batch tokens"], selected: Bool[Tensor, "batch tokens"], kept: int
) -> tuple[Int[Tensor, "batch tokens"], Moves]:
    """The tokens in another order, the `kept` selected ones last, and what has to be moved for it: a token that was among the last
    already keeps its place; each of the others takes the place of one that is no longer selected, which takes its."""
    waiting = order.shape[1] - kept
    before = order[:, waiting:]
    changed = ~selected.gather(1, before)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    place = torch.empty_like(order).scatter_(1, order, places)
    incoming = (selected & (place < waiting)).int().topk(kept, 1).indices  # begins with as many as there are changes
    numbers = torch.where(changed, incoming.gather(1, (changed.cumsum(1) - 1).clamp(min=0)), before)
    source = place.gather(1, numbers)
    after = torch.cat([order.scatter(1, source, before)[:, :waiting], numbers], 1)
    return after, Moves(waiting, numbers, source, changed)


def exchange_at_hand(
    order: Int[Tensor, "batch tokens"], selected: Bool[Tensor, "batch tokens"], kept: int
) -> tuple[Int[Tensor, "batch tokens"], Moves]:
    """`exchange` for a CPU that can look at the numbers: in fewer operations, whose calls cost more than their work."""
    waiting = order.shape[1] - kept
    stays = selected.gather(1, order)
    sample, waits = stays[:, :waiting].nonzero(as_tuple=True)
    chosen = (~stays[:, waiting:]).nonzero()[:, 1] + waiting  # as many, sample by sample
    after = order.clone()
    after[sample, waits], after[sample, chosen] = order[sample, chosen], order[sample, waits]
    return after, Moves(waiting, after[:, waiting:], pairs=(sample, waits, chosen))


@lru_cache(maxsize=8)
def _starts(batch: int, heads: int, columns: int) -> Int[Tensor, "parts batch"]:
    """Where each sample's rows begin, for keys and values and each head."""
    parts = torch.arange(2 * batch * heads).view(2, batch, heads)
    return parts.transpose(1, 2).reshape(2 * heads, batch) * columns


def rows_to_swap(moves: Moves, heads: int, columns: int) -> Moves:
    """With the rows to exchange in a buffer with so many columns."""
    sample, waits, chosen = moves.pairs  # type: ignore[misc]
    start = _starts(len(moves.numbers), heads, columns)[:, sample]
    waits, chosen = (start + waits).view(-1), (start + chosen).view(-1)
    return moves._replace(rows=(torch.cat([waits, chosen]).numpy(), torch.cat([chosen, waits]).numpy()))


def rows_to_fetch(moves: Moves, heads: int, columns: int, store: int) -> Moves:
    """With the rows to read of a store with so many columns, and to write of a buffer that begins with those selected."""
    sample, _, chosen = moves.pairs  # type: ignore[misc]
    place, batch = chosen - moves.waiting, len(moves.numbers)
    read = _starts(batch, heads, store)[:, sample] + moves.numbers[sample, place]
    return moves._replace(rows=(read.view(-1), (_starts(batch, heads, columns)[:, sample] + place).view(-1)))


def rows_of(states: Float[Tensor, "both heads columns dim"]) -> np.ndarray[Any, Any]:
    """A CPU's keys and values, a row of bytes for each: NumPy moves those in half the time that index_copy_ takes. The same memory;
    it is contiguous."""
    size = states.shape[3] * states.element_size()
    return states.detach().view(torch.uint8).numpy().reshape(-1).view(np.dtype((np.void, size)))


def fetch(store: Float[Tensor, "both heads visual dim"], buffer: Float[Tensor, "both heads columns dim"], moves: Moves) -> None:
    """Write tokens of a store on the host into the first columns of the buffer, in place. The buffer is contiguous."""
    read, write = moves.rows  # type: ignore[misc]
    if len(read):
        found, write = store.view(-1, store.shape[3]).index_select(0, read), write.to(buffer.device)
        buffer.view(-1, buffer.shape[3]).index_copy_(0, write, found.to(buffer.device, non_blocking=True))


def swap(buffer: Float[Tensor, "both heads columns dim"], moves: Moves, rows: np.ndarray[Any, Any] | None = None) -> None:
    """Exchange tokens among the first columns of the buffer, in place. The buffer is contiguous. rows: `rows_of` it, if moves have
    some."""
    if moves.rows is not None:
        read, write = moves.rows
        rows[write] = rows.take(read, 0)  # type: ignore[index,union-attr]  # faster than rows[read]
        return
    both, heads, room, dim = buffer.shape
    batch, width = moves.numbers.shape
    source: Any = moves.source
    if triton is None or torch.is_grad_enabled() or not (buffer.is_cuda or triton.knobs.runtime.interpret):
        visual = moves.waiting + width
        places = torch.arange(visual, device=buffer.device).expand(batch, -1)
        order = places.scatter(1, source, places[:, moves.waiting :])
        order = torch.cat([order[:, : moves.waiting], source], 1).repeat(2, 1)  # of keys, and of values
        buffer[:, :, :visual] = buffer[:, :, :visual].gather(2, order[:, None, :, None].expand(-1, heads, -1, dim))
    elif width:
        sizes = moves.waiting, width, room, batch, heads, dim, triton.next_power_of_2(dim)
        with torch.cuda.device(buffer.device) if buffer.is_cuda else nullcontext():
            _swap[width, both * heads](buffer, source, moves.changed, *sizes)


if triton is not None:

    @triton.jit  # type: ignore[untyped-decorator,unused-ignore]
    def _swap(buffer, source, changed, waiting, width, room, batch, heads, dim, block: tl.constexpr):  # type: ignore[no-untyped-def]
        place, part = tl.program_id(0), tl.program_id(1).to(tl.int64)
        slot = part // heads % batch * width + place
        if tl.load(changed + slot):
            numbers = tl.arange(0, block)
            used = numbers < dim
            waits = buffer + (part * room + tl.load(source + slot)) * dim + numbers
            chosen = buffer + (part * room + waiting + place) * dim + numbers
            incoming, outgoing = tl.load(waits, mask=used), tl.load(chosen, mask=used)
            tl.store(chosen, incoming, mask=used)
            tl.store(waits, outgoing, mask=used)
