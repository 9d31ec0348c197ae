"""Move newly selected tokens to where attention reads them, and the ones they replace to where those were.

`gather_swap` is the definition: the prompt's columns in another order. `swap` gives the same, faster where it
can: on a CPU only the rows that changed are moved, on a GPU a Triton kernel moves them, and the CPU does not
wait for it.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dycoke_lab.runtime.swap_kernel import swap_kernel, triton


class Moves(NamedTuple):
    """How the columns of a prompt change places: the inactive ones lie before the active ones.

    inactive: how many are inactive. numbers: the column that each active place gets.
    For a GPU, which is not to be waited for: source, the place where each of these columns lies so far;
    changed, whether another lies in its place. For a CPU: pairs of places to exchange (batch index, inactive
    place, active place); rows, those of (2 * batch * heads * columns) to read, and to write.
    """

    inactive: int
    numbers: Int[Tensor, "batch kept"]
    source: Int[Tensor, "batch kept"] | None = None
    changed: Bool[Tensor, "batch kept"] | None = None
    pairs: tuple[Tensor, Tensor, Tensor] | None = None
    rows: tuple[Any, Any] | None = None

    def share(self) -> float:
        """Return the share of the active columns that were inactive so far."""
        count = float(self.changed.sum()) if self.pairs is None else len(self.pairs[0])  # type: ignore[union-attr]
        return count / max(self.numbers.numel(), 1)


def reads_are_free(device: torch.device) -> bool:
    """Return whether the CPU can read numbers there without waiting for another device."""
    return device.type == "cpu"


def exchange(
    order: Int[Tensor, "batch columns"], active: Bool[Tensor, "batch columns"], kept: int
) -> tuple[Int[Tensor, "batch columns"], Moves]:
    """Return the columns in another order, the `kept` active ones last, and how to move them: a column that
    was among the last already keeps its place; each of the others takes the place of one that is no longer
    active, which takes its."""
    inactive = order.shape[1] - kept
    before = order[:, inactive:]
    changed = ~active.gather(1, before)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    place = torch.empty_like(order).scatter_(1, order, places)
    incoming = (
        (active & (place < inactive)).int().topk(kept, 1).indices
    )  # begins with as many as there are changes
    numbers = torch.where(changed, incoming.gather(1, (changed.cumsum(1) - 1).clamp(min=0)), before)
    source = place.gather(1, numbers)
    after = torch.cat([order.scatter(1, source, before)[:, :inactive], numbers], 1)
    return after, Moves(inactive, numbers, source, changed)


def exchange_on_cpu(
    order: Int[Tensor, "batch columns"], active: Bool[Tensor, "batch columns"], kept: int
) -> tuple[Int[Tensor, "batch columns"], Moves]:
    """Return the same as `exchange` in fewer operations, for a CPU that can read the numbers."""
    inactive = order.shape[1] - kept
    stays = active.gather(1, order)
    sample, leaves = stays[:, :inactive].nonzero(as_tuple=True)
    chosen = (~stays[:, inactive:]).nonzero()[:, 1] + inactive  # as many, batch element by batch element
    after = order.clone()
    after[sample, leaves], after[sample, chosen] = order[sample, chosen], order[sample, leaves]
    return after, Moves(inactive, after[:, inactive:], pairs=(sample, leaves, chosen))


def gather_swap(buffer: Float[Tensor, "both heads room dim"], moves: Moves) -> None:
    """Reorder the prompt's columns of the buffer, in place: what every other way must equal."""
    heads, dim = buffer.shape[1], buffer.shape[3]
    batch, width = moves.numbers.shape
    count = moves.inactive + width
    order = torch.arange(count, device=buffer.device).repeat(batch, 1)
    if moves.pairs is not None:
        sample, leaves, chosen = moves.pairs
        order[sample, leaves], order[sample, chosen] = (
            order[sample, chosen].clone(),
            order[sample, leaves].clone(),
        )
    else:
        source: Any = moves.source
        order = torch.cat(
            [order.scatter(1, source, order[:, moves.inactive :])[:, : moves.inactive], source], 1
        )
    order = order.repeat(2, 1)[:, None, :, None].expand(-1, heads, -1, dim)  # of keys, and of values
    buffer[:, :, :count] = buffer[:, :, :count].gather(2, order)


def swap(buffer: Float[Tensor, "both heads room dim"], moves: Moves, rows: Any = None) -> Any:
    """Do what `gather_swap` does, the fastest way. The buffer is contiguous. rows: what the last call for
    this buffer returned."""
    if moves.rows is not None:
        rows = rows_of(buffer) if rows is None else rows
        read, write = moves.rows
        rows[write] = rows.take(read, 0)  # faster than rows[read]
    elif triton is None or not (buffer.is_cuda or triton.knobs.runtime.interpret):
        gather_swap(buffer, moves)
    elif width := moves.numbers.shape[1]:
        (both, heads, room, dim), batch = buffer.shape, len(moves.numbers)
        sizes = moves.inactive, width, room, batch, heads, dim, triton.next_power_of_2(dim)
        with torch.cuda.device(buffer.device) if buffer.is_cuda else nullcontext():
            swap_kernel[width, both * heads](buffer, moves.source, moves.changed, *sizes)
    return rows


def fetch(
    store: Float[Tensor, "both heads columns dim"], buffer: Float[Tensor, "both heads room dim"], moves: Moves
) -> None:
    """Write columns of a store on the host into the first columns of the buffer, in place: only those that
    are not there yet. The buffer is contiguous."""
    read, write = moves.rows  # type: ignore[misc]
    if len(read):
        found, write = store.view(-1, store.shape[3]).index_select(0, read), write.to(buffer.device)
        buffer.view(-1, buffer.shape[3]).index_copy_(0, write, found.to(buffer.device, non_blocking=True))


@lru_cache(maxsize=8)
def _starts(batch: int, heads: int, columns: int) -> Int[Tensor, "parts batch"]:
    """Where each batch element's rows begin, for keys and values and each head."""
    parts = torch.arange(2 * batch * heads).view(2, batch, heads)
    return parts.transpose(1, 2).reshape(2 * heads, batch) * columns


def rows_to_swap(moves: Moves, heads: int, columns: int) -> Moves:
    """Return the moves with the rows to exchange in a CPU's buffer with so many columns."""
    sample, leaves, chosen = moves.pairs  # type: ignore[misc]
    start = _starts(len(moves.numbers), heads, columns)[:, sample]
    leaves, chosen = (start + leaves).view(-1), (start + chosen).view(-1)
    return moves._replace(rows=(torch.cat([leaves, chosen]).numpy(), torch.cat([chosen, leaves]).numpy()))


def rows_to_fetch(moves: Moves, heads: int, columns: int, store: int) -> Moves:
    """Return the moves with the rows to read of a store with so many columns, and to write of a buffer that
    begins with the active ones."""
    sample, _, chosen = moves.pairs  # type: ignore[misc]
    place, batch = chosen - moves.inactive, len(moves.numbers)
    read = _starts(batch, heads, store)[:, sample] + moves.numbers[sample, place]
    return moves._replace(rows=(read.view(-1), (_starts(batch, heads, columns)[:, sample] + place).view(-1)))


def rows_of(states: Float[Tensor, "both heads columns dim"]) -> np.ndarray[Any, Any]:
    """Return a CPU's keys and values as rows of bytes in the same memory: NumPy moves those in half the time
    that index_copy_ takes. It is contiguous."""
    size = states.shape[3] * states.element_size()
    return states.detach().view(torch.uint8).numpy().reshape(-1).view(np.dtype((np.void, size)))
