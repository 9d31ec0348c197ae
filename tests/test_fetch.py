"""Selected tokens are moved into place: every way of doing it equals copying them all."""

from __future__ import annotations

import pytest
import torch

from dycoke_lab import fetch as module
from dycoke_lab.fetch import fetch, in_slots, plan

BATCH, HEADS, VISUAL, KEPT, ROOM, DIM = 3, 2, 20, 8, 12, 24


def chosen(seed):
    random = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(VISUAL, generator=random)[:KEPT] for _ in range(BATCH)])


def mask(numbers):
    return torch.zeros(BATCH, VISUAL, dtype=torch.bool).scatter(1, numbers, True)


def test_tokens_selected_again_keep_their_place():
    before = chosen(0)
    after, changed = in_slots(before, mask(chosen(1)), KEPT)
    assert torch.equal(after.sort(1).values, chosen(1).sort(1).values)
    for sample in range(BATCH):
        again = set(before[sample].tolist()) & set(chosen(1)[sample].tolist())
        for place in range(KEPT):
            stays = int(before[sample, place]) in again
            assert bool(changed[sample, place]) != stays and (not stays or after[sample, place] == before[sample, place])
    assert in_slots(None, mask(before), KEPT)[1].all() and in_slots(before[:, 1:], mask(before), KEPT)[1].all()
    assert not in_slots(before, mask(before), KEPT)[1].any()


# "kernel" is the one for GPUs, by Triton's interpreter; triton is not installed with CPU builds: make test-kernel
@pytest.mark.parametrize("way", ["rows", "gather", "kernel"])
def test_only_what_changed_is_moved(way, monkeypatch):
    if way == "kernel" and (module.triton is None or not module.triton.knobs.runtime.interpret):
        pytest.skip("needs triton and its interpreter: make test-kernel")
    if way == "gather":
        monkeypatch.setattr(module, "triton", None)
    store = torch.randn(BATCH, HEADS, VISUAL, DIM)
    buffer = torch.full((BATCH, HEADS, ROOM, DIM), 7.0)
    slots = None
    with torch.no_grad():
        for step in range(4):
            slots, changed = in_slots(slots, mask(chosen(step)), KEPT)
            if step and way != "gather":  # what is there already is not written again
                stale = buffer[:, :, :KEPT].mul_(torch.where(changed, 1.0, -1.0)[:, None, :, None])
                fetch(store, buffer, plan(slots, changed, HEADS, VISUAL, way == "rows"))
                stale.mul_(torch.where(changed, 1.0, -1.0)[:, None, :, None])
            else:
                fetch(store, buffer, plan(slots, changed, HEADS, VISUAL, way == "rows"))
            for sample in range(BATCH):
                for head in range(HEADS):
                    assert torch.equal(buffer[sample, head, :KEPT], store[sample, head, slots[sample]])
            assert (buffer[:, :, KEPT:] == 7).all()


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("capability", [80, 90])  # A100, H100
def test_the_kernel_compiles_for_gpus(capability, dtype):
    if module.triton is None or module.triton.knobs.runtime.interpret:
        pytest.skip("needs triton without its interpreter: make test-kernel")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kinds = {"store": f"*{dtype}", "buffer": f"*{dtype}", "columns": "*i64", "changed": "*i1", "block": "constexpr"}
    signature = {name: kinds.get(name, "i32") for name in module._move.arg_names}
    made = module.triton.compile(ASTSource(module._move, signature, {"block": 128}), target=GPUTarget("cuda", capability, 32))
    assert f"sm_{capability}" in made.asm["ptx"] and len(made.asm["cubin"]) > 1000
