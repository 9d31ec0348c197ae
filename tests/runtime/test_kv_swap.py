"""Active columns are moved into place: a plain gather is the definition, and every fast way equals it."""

from __future__ import annotations

import pytest
import torch

from dycoke_lab.runtime import kv_swap
from dycoke_lab.runtime.kv_swap import (
    exchange,
    exchange_on_cpu,
    fetch,
    gather_swap,
    rows_to_fetch,
    rows_to_swap,
    swap,
)

BATCH, HEADS, COLUMNS, ROOM, DIM = 3, 2, 20, 27, 24
WIDTHS = [8, 8, 5, 0, 20, 8]  # methods may keep another number at each step


def chosen(seed, kept):
    random = torch.Generator().manual_seed(seed)
    numbers = torch.stack([torch.randperm(COLUMNS, generator=random)[:kept] for _ in range(BATCH)])
    return torch.zeros(BATCH, COLUMNS, dtype=torch.bool).scatter(1, numbers, True)


def one_by_one(order, active, incoming):
    """Exchange a batch element's columns one by one. incoming: what the places of columns that are no longer
    active get, in turn."""
    order, incoming = [*order], [*incoming]
    for place in range(len(order) - int(active.sum()), len(order)):
        if not active[order[place]]:
            at = order.index(incoming.pop(0))
            order[at], order[place] = order[place], order[at]
    assert not incoming
    return order


@pytest.mark.parametrize("way", [exchange, exchange_on_cpu])
def test_active_columns_keep_their_place_and_others_are_exchanged(way):
    order = torch.arange(COLUMNS).repeat(BATCH, 1)
    for step, kept in enumerate(WIDTHS):
        active = chosen(step, kept)
        after, moves = way(order, active, kept)
        changed = moves.numbers != order[:, COLUMNS - kept :]
        for b in range(BATCH):
            incoming = moves.numbers[b][changed[b]].tolist()
            assert after[b].tolist() == one_by_one(order[b].tolist(), active[b], incoming)
            assert set(moves.numbers[b].tolist()) == set(active[b].nonzero()[:, 0].tolist())
        assert moves.inactive == COLUMNS - kept and torch.equal(moves.numbers, after[:, COLUMNS - kept :])
        assert moves.share() == pytest.approx(int(changed.sum()) / max(BATCH * kept, 1))
        assert way(after, active, kept)[1].share() == 0
        order = after


# "kernel": the one for GPUs, in Triton's interpreter, which CPU builds lack: make test-kernel
@pytest.mark.parametrize("way", ["definition", "definition by pairs", "rows", "kernel"])
def test_a_buffer_holds_its_columns_in_their_new_order(way, monkeypatch):
    if way == "kernel" and (kv_swap.triton is None or not kv_swap.triton.knobs.runtime.interpret):
        pytest.skip("needs triton and its interpreter: make test-kernel")
    states = torch.randn(2 * BATCH, HEADS, ROOM, DIM)  # keys, and values
    buffer, plain, rows = states.clone(), states.clone(), None
    order = torch.arange(COLUMNS).repeat(BATCH, 1)
    with torch.no_grad():
        for step, kept in enumerate(WIDTHS):
            on_cpu = way in ("definition by pairs", "rows")
            order, moves = (exchange_on_cpu if on_cpu else exchange)(order, chosen(step, kept), kept)
            gather_swap(plain, moves)
            if way == "rows":
                rows = swap(buffer, rows_to_swap(moves, HEADS, ROOM), rows)
            elif way == "kernel":
                swap(buffer, moves)
            else:
                gather_swap(buffer, moves)
            for part in range(2 * BATCH):
                for head in range(HEADS):
                    assert torch.equal(buffer[part, head, :COLUMNS], states[part, head, order[part % BATCH]])
            assert torch.equal(buffer[:, :, COLUMNS:], states[:, :, COLUMNS:])
            assert torch.equal(buffer, plain)


def test_without_a_kernel_a_gpus_moves_are_gathered(monkeypatch):
    monkeypatch.setattr(kv_swap, "triton", None)
    buffer = torch.randn(2 * BATCH, HEADS, ROOM, DIM)
    plain = buffer.clone()
    _, moves = exchange(torch.arange(COLUMNS).repeat(BATCH, 1), chosen(1, 8), 8)
    swap(buffer, moves), gather_swap(plain, moves)
    assert torch.equal(buffer, plain)


def test_only_what_changed_is_fetched_from_the_host():
    store = torch.randn(2 * BATCH, HEADS, COLUMNS, DIM)
    buffer = torch.full((2 * BATCH, HEADS, ROOM, DIM), 7.0)
    order = torch.arange(COLUMNS).repeat(BATCH, 1)
    buffer[:, :, :8] = store[:, :, -8:]
    for step in range(4):
        before, (order, moves) = order, exchange_on_cpu(order, chosen(step, 8), 8)
        stays = (before == order)[:, -8:].repeat(2, 1)
        sign = torch.where(stays, -1.0, 1.0)[:, None, :, None]
        buffer[:, :, :8] *= sign  # what is there already is not written again
        fetch(store, buffer, rows_to_fetch(moves, HEADS, ROOM, COLUMNS))
        buffer[:, :, :8] *= sign
        for part in range(2 * BATCH):
            assert torch.equal(buffer[part, :, :8], store[part][:, order[part % BATCH, -8:]])
        assert (buffer[:, :, 8:] == 7).all()


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("capability", [80, 90])  # A100, H100
def test_the_swap_kernel_compiles_for_gpus(capability, dtype):
    if kv_swap.triton is None or kv_swap.triton.knobs.runtime.interpret:
        pytest.skip("needs triton without its interpreter: make test-kernel")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kinds = {"buffer": f"*{dtype}", "source": "*i64", "changed": "*i1", "block": "constexpr"}
    signature = {name: kinds.get(name, "i32") for name in kv_swap.swap_kernel.arg_names}
    source = ASTSource(kv_swap.swap_kernel, signature, {"block": 128})
    made = kv_swap.triton.compile(source, target=GPUTarget("cuda", capability, 32))
    assert f"sm_{capability}" in made.asm["ptx"] and len(made.asm["cubin"]) > 1000
