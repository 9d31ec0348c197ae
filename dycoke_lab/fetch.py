"""Move selected tokens from where they wait to where attention reads them: only those that were not there already."""

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # comes with torch's builds for CUDA; a CPU has no need of it
    triton = None  # type: ignore[assignment]


class Moves(NamedTuple):
    """columns: of the store, for each place of the buffer. changed: which of these places hold something else so far. rows: for
    the CPU, which can look at numbers, the rows of the store to move, as (batch * heads * visual), and for each which part of the
    buffer it goes to, of batch * heads, and where there; None where a GPU would have to be waited for."""

    columns: Int[Tensor, "batch kept"]
    changed: Bool[Tensor, "batch kept"]
    rows: tuple[Tensor, Tensor, Tensor] | None


def in_slots(
    before: Int[Tensor, "batch kept"] | None, selected: Bool[Tensor, "batch visual"], kept: int
) -> tuple[Int[Tensor, "batch kept"], Bool[Tensor, "batch kept"]]:
    """The numbers of the selected tokens in such an order that those of the selection before keep their place, and which places
    change: all, if there was no selection as wide. `kept` tokens are selected in each sample."""
    if before is None or before.shape[1] != kept:
        numbers = selected.int().topk(kept, 1).indices.sort(1).values
        return numbers, torch.ones_like(numbers, dtype=torch.bool)
    changed = ~selected.gather(1, before)
    new = selected & ~torch.zeros_like(selected).scatter(1, before, True)
    incoming = new.int().topk(kept, 1).indices  # begins with as many as there are places that change
    return torch.where(changed, incoming.gather(1, (changed.cumsum(1) - 1).clamp(min=0)), before), changed


def plan(columns: Int[Tensor, "batch kept"], changed: Bool[Tensor, "batch kept"], heads: int, visual: int, at_hand: bool) -> Moves:
    """at_hand: whether the CPU may look at numbers, because they are its own or have to pass through it anyway."""
    if not at_hand:
        return Moves(columns, changed, None)
    columns, changed = columns.cpu(), changed.cpu()
    part, place = changed.repeat_interleave(heads, 0).nonzero(as_tuple=True)
    return Moves(columns, changed, (columns[part // heads, place] + part * visual, part, place))


def fetch(store: Float[Tensor, "batch heads visual dim"], buffer: Float[Tensor, "batch heads columns dim"], moves: Moves) -> None:
    """Write the tokens that `moves` names into the first columns of the buffer, in place. The buffer is contiguous."""
    batch, heads, visual, dim = store.shape
    width = moves.columns.shape[1]
    if moves.rows is not None:
        rows, part, place = moves.rows
        if len(rows):
            to, fetched = torch.add(place, part, alpha=buffer.shape[2]), store.view(-1, dim).index_select(0, rows)
            if fetched.device != buffer.device:
                to, fetched = to.to(buffer.device), fetched.to(buffer.device, non_blocking=True)
            buffer.view(-1, dim).index_copy_(0, to, fetched)
    elif triton is None or torch.is_grad_enabled() or not (buffer.is_cuda or triton.knobs.runtime.interpret):
        buffer[:, :, :width] = store.gather(2, moves.columns[:, None, :, None].expand(-1, heads, -1, dim))
    elif width:
        sizes = visual, buffer.shape[2], width, heads, dim, triton.next_power_of_2(dim)
        with torch.cuda.device(buffer.device) if buffer.is_cuda else nullcontext():
            _move[width, batch * heads](store, buffer, moves.columns, moves.changed, *sizes)


if triton is not None:

    @triton.jit  # type: ignore[untyped-decorator,unused-ignore]
    def _move(store, buffer, columns, changed, visual, room, width, heads, dim, block: tl.constexpr):  # type: ignore[no-untyped-def]
        place, part = tl.program_id(0), tl.program_id(1).to(tl.int64)
        slot = part // heads * width + place
        if tl.load(changed + slot):
            column = tl.load(columns + slot)
            numbers = tl.arange(0, block)
            row = tl.load(store + (part * visual + column) * dim + numbers, mask=numbers < dim)
            tl.store(buffer + (part * room + place) * dim + numbers, row, mask=numbers < dim)
