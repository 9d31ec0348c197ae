"""Selected tokens are moved into place: every way of doing it equals a loop that exchanges them one by one."""

from __future__ import annotations

import pytest
import torch

from dycoke_lab import fetch as module
from dycoke_lab.fetch import exchange, exchange_at_hand, fetch, rows_of, rows_to_fetch, rows_to_swap, swap

BATCH, HEADS, VISUAL, ROOM, DIM = 3, 2, 20, 27, 24
WIDTHS = [8, 8, 5, 0, 20, 8]  # methods may keep another number at each step


def chosen(seed, kept):
    random = torch.Generator().manual_seed(seed)
    numbers = torch.stack([torch.randperm(VISUAL, generator=random)[:kept] for _ in range(BATCH)])
    return torch.zeros(BATCH, VISUAL, dtype=torch.bool).scatter(1, numbers, True)


def one_by_one(order, selected, incoming):
    """A sample's tokens in their next order. incoming: what the places of tokens that are no longer selected get, in turn."""
    order, incoming = [*order], [*incoming]
    for place in range(len(order) - int(selected.sum()), len(order)):
        if not selected[order[place]]:
            at = order.index(incoming.pop(0))
            order[at], order[place] = order[place], order[at]
    assert not incoming
    return order


@pytest.mark.parametrize("way", [exchange, exchange_at_hand])
def test_tokens_selected_again_keep_their_place_and_others_are_exchanged(way):
    order = torch.arange(VISUAL).repeat(BATCH, 1)
    for step, kept in enumerate(WIDTHS):
        selected = chosen(step, kept)
        after, moves = way(order, selected, kept)
        changed = moves.numbers != order[:, VISUAL - kept :]
        for sample in range(BATCH):
            incoming = moves.numbers[sample][changed[sample]].tolist()
            assert after[sample].tolist() == one_by_one(order[sample].tolist(), selected[sample], incoming)
            assert set(moves.numbers[sample].tolist()) == set(selected[sample].nonzero()[:, 0].tolist())
        assert moves.waiting == VISUAL - kept and torch.equal(moves.numbers, after[:, VISUAL - kept :])
        assert moves.share() == pytest.approx(int(changed.sum()) / max(BATCH * kept, 1))
        assert way(after, selected, kept)[1].share() == 0
        if way is exchange:
            assert torch.equal(order.gather(1, moves.source), moves.numbers) and torch.equal(moves.changed, changed)
        else:
            sample, waits, place = moves.pairs
            assert torch.equal(order[sample, waits], after[sample, place])
            assert torch.equal(order[sample, place], after[sample, waits])
        order = after


# "kernel" is the one for GPUs, by Triton's interpreter; triton is not installed with CPU builds: make test-kernel
@pytest.mark.parametrize("way", ["rows", "gather", "kernel"])
def test_a_buffer_holds_its_tokens_in_that_order(way, monkeypatch):
    if way == "kernel" and (module.triton is None or not module.triton.knobs.runtime.interpret):
        pytest.skip("needs triton and its interpreter: make test-kernel")
    if way == "gather":
        monkeypatch.setattr(module, "triton", None)
    tokens = torch.randn(2 * BATCH, HEADS, ROOM, DIM)  # keys, and values
    buffer = tokens.clone()
    order = torch.arange(VISUAL).repeat(BATCH, 1)
    with torch.no_grad():
        for step, kept in enumerate(WIDTHS):
            order, moves = (exchange_at_hand if way == "rows" else exchange)(order, chosen(step, kept), kept)
            if way == "rows":
                swap(buffer, rows_to_swap(moves, HEADS, ROOM), rows_of(buffer))
            else:
                swap(buffer, moves)
            for part in range(2 * BATCH):
                for head in range(HEADS):
                    assert torch.equal(buffer[part, head, :VISUAL], tokens[part, head, order[part % BATCH]])
            assert torch.equal(buffer[:, :, VISUAL:], tokens[:, :, VISUAL:])


def test_only_what_changed_is_fetched_from_the_host():
    store = torch.randn(2 * BATCH, HEADS, VISUAL, DIM)
    buffer = torch.full((2 * BATCH, HEADS, ROOM, DIM), 7.0)
    order = torch.arange(VISUAL).repeat(BATCH, 1)
    buffer[:, :, :8] = store[:, :, -8:]
    for step in range(4):
        before, (order, moves) = order, exchange_at_hand(order, chosen(step, 8), 8)
        stays = (before == order)[:, -8:].repeat(2, 1)
        sign = torch.where(stays, -1.0, 1.0)[:, None, :, None]
        buffer[:, :, :8] *= sign  # what is there already is not written again
        fetch(store, buffer, rows_to_fetch(moves, HEADS, ROOM, VISUAL))
        buffer[:, :, :8] *= sign
        for part in range(2 * BATCH):
            assert torch.equal(buffer[part, :, :8], store[part][:, order[part % BATCH, -8:]])
        assert (buffer[:, :, 8:] == 7).all()


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("capability", [80, 90])  # A100, H100
def test_the_kernel_compiles_for_gpus(capability, dtype):
    if module.triton is None or module.triton.knobs.runtime.interpret:
        pytest.skip("needs triton without its interpreter: make test-kernel")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kinds = {"buffer": f"*{dtype}", "source": "*i64", "changed": "*i1", "block": "constexpr"}
    signature = {name: kinds.get(name, "i32") for name in module._swap.arg_names}
    made = module.triton.compile(ASTSource(module._swap, signature, {"block": 128}), target=GPUTarget("cuda", capability, 32))
    assert f"sm_{capability}" in made.asm["ptx"] and len(made.asm["cubin"]) > 1000
