"""The Triton kernel of `kv_swap.swap`: each program exchanges one token of one head, if it has to move."""

from __future__ import annotations

from typing import Any

try:
    import triton
    import triton.language as tl
except ImportError:  # comes with torch's builds for CUDA; a CPU has no need of it
    triton = None  # type: ignore[assignment]

if triton is None:
    swap_kernel: Any = None
else:

    @triton.jit  # type: ignore[untyped-decorator,unused-ignore]
    def swap_kernel(buffer, source, changed, inactive, width, room, batch, heads, dim, block: tl.constexpr):  # type: ignore[no-untyped-def]
        place, part = tl.program_id(0), tl.program_id(1).to(tl.int64)
        slot = part // heads % batch * width + place
        if tl.load(changed + slot):
            numbers = tl.arange(0, block)
            used = numbers < dim
            leaves = buffer + (part * room + tl.load(source + slot)) * dim + numbers
            chosen = buffer + (part * room + inactive + place) * dim + numbers
            incoming, outgoing = tl.load(leaves, mask=used), tl.load(chosen, mask=used)
            tl.store(chosen, incoming, mask=used)
            tl.store(leaves, outgoing, mask=used)
