"""Move selected tokens to where attention reads them: only those that were not there already."""

from __future__ import annotations

from contextlib import nullcontext
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
    """Of visual tokens, those that wait before those selected. waiting: how many wait. numbers: the token that each place of a
    selected one gets. source: the place where that lies so far. changed: whether it is another token than so far. rows: for a CPU,
    which can look at numbers, the rows of (2 * batch * heads * columns) to read, and to write; None where a GPU would have to be
    waited for."""

    waiting: int
    numbers: Int[Tensor, "batch kept"]
    source: Int[Tensor, "batch kept"]
    changed: Bool[Tensor, "batch kept"]
    rows: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None = None


def exchange(
    order: Int[Tensor, "batch visual"], selected: Bool[Tensor, "batch visual"], kept: int
) -> tuple[Int[Tensor, "batch visual"], Moves]:
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


def for_cpu(moves: Moves, heads: int, columns: int, store: int | None = None) -> Moves:
    """With the rows that a CPU moves in a buffer with so many columns. store: columns of a store on the host, from which selected
    tokens are copied to where the buffer begins; None: tokens are exchanged within the buffer."""
    sample, place = moves.changed.cpu().nonzero(as_tuple=True)
    part = torch.arange(heads)
    part = torch.cat([part, part + len(moves.changed) * heads])[:, None] + sample * heads  # of keys, and of values
    if store is not None:
        read = (part * store + moves.numbers.cpu()[sample, place]).view(-1)
        return moves._replace(rows=(read.numpy(), (part * columns + place).view(-1).numpy()))
    part *= columns
    waits, chosen = (part + moves.source[sample, place]).view(-1), (part + (place + moves.waiting)).view(-1)
    return moves._replace(rows=(torch.cat([waits, chosen]).numpy(), torch.cat([chosen, waits]).numpy()))


def rows_of(states: Float[Tensor, "both heads columns dim"]) -> np.ndarray[Any, Any]:
    """A CPU's keys and values, a row of bytes for each: NumPy moves those in half the time that index_copy_ takes. The same memory;
    it is contiguous."""
    size = states.shape[3] * states.element_size()
    return states.detach().view(torch.uint8).numpy().reshape(-1).view(np.dtype((np.void, size)))


def fetch(store: Float[Tensor, "both heads visual dim"], buffer: Float[Tensor, "both heads columns dim"], moves: Moves) -> None:
    """Write tokens of a store on the host into the first columns of the buffer, in place. The buffer is contiguous."""
    read, write = (torch.from_numpy(rows) for rows in moves.rows)  # type: ignore[union-attr]
    if len(read):
        found, write = store.view(-1, store.shape[3]).index_select(0, read), write.to(buffer.device)
        buffer.view(-1, buffer.shape[3]).index_copy_(0, write, found.to(buffer.device, non_blocking=True))


def swap(buffer: Float[Tensor, "both heads columns dim"], moves: Moves, rows: np.ndarray[Any, Any] | None = None) -> None:
    """Exchange tokens among the first columns of the buffer, in place. The buffer is contiguous. rows: `rows_of` it, if moves have
    some."""
    both, heads, room, dim = buffer.shape
    batch, width = moves.source.shape
    if moves.rows is not None:
        read, write = moves.rows
        rows[write] = rows[read]  # type: ignore[index]
    elif triton is None or torch.is_grad_enabled() or not (buffer.is_cuda or triton.knobs.runtime.interpret):
        visual = moves.waiting + width
        places = torch.arange(visual, device=buffer.device).expand(batch, -1)
        order = places.scatter(1, moves.source, places[:, moves.waiting :])
        order = torch.cat([order[:, : moves.waiting], moves.source], 1).repeat(2, 1)  # of keys, and of values
        buffer[:, :, :visual] = buffer[:, :, :visual].gather(2, order[:, None, :, None].expand(-1, heads, -1, dim))
    elif width:
        sizes = moves.waiting, width, room, batch, heads, dim, triton.next_power_of_2(dim)
        with torch.cuda.device(buffer.device) if buffer.is_cuda else nullcontext():
            _swap[width, both * heads](buffer, moves.source, moves.changed, *sizes)


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
