"""What a setting should cost by its shape alone: bytes, operations, and on a device of known speed, seconds.

A stage takes as long as its arithmetic or its memory traffic, whichever is slower on this device (the roofline). Where dynamic
pruning pays, and where it cannot, follows from the bytes that one decoding step moves: weights, once for the whole batch; keys and
values, for each sample.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from dycoke_lab import flops
from dycoke_lab.case import Case
from dycoke_lab.merge import references, retained_count
from dycoke_lab.provenance import cpu_name
from dycoke_lab.prune import keep_counts
from dycoke_lab.shapes import SHAPES, words_around


@dataclass(frozen=True)
class Columns:
    """Of one sample. visual: tokens that merging left. other: the rest of the prompt. kept: visual tokens that pruned layers attend
    to; pruned: how many layers those are. compared: tokens that merging looked at. held: whether tokens wait on the device."""

    visual: int
    other: int
    kept: int
    pruned: int
    compared: int
    held: bool

    @property
    def prompt(self) -> int:
        return self.visual + self.other


def columns(case: Case) -> Columns:
    shape = SHAPES[case.shape]
    per_frame = shape.grid[0] * shape.grid[1]
    compared = sum(reference is not None for reference in references(case.frames, 4))
    visual = case.frames * per_frame - compared * (per_frame - retained_count(per_frame, case.merge_ratio))
    kept = 0 if case.method == "keep_none" else int(keep_counts(torch.ones(1, visual, dtype=torch.bool), case.prune_ratio))
    pruned = shape.layers - case.score_layer if case.prune_ratio and case.method != "merge" else 0
    waits = case.returns and case.waiting == "device"
    return Columns(visual, words_around(case.shape), kept, pruned, compared * per_frame if case.merge_ratio else 0, waits)


@dataclass(frozen=True)
class Work:
    """Of the whole batch. Bytes: the weights that a step reads; keys and values held on the device after the last word, and read by
    its attention; what an average step moves, and of that what selecting moves; logits, and keys and values, at the end of the
    prefill. FLOPs of each stage; select is part of a step."""

    weights: int
    held: int
    read: int
    step_bytes: float
    select_bytes: float
    vision_flops: float
    merge_flops: float
    prefill_flops: float
    step_flops: float
    select_flops: float
    logits_bytes: int
    prompt_bytes: int


def work(case: Case, element: int = 2, changed: float = 0.0) -> Work:
    """element: bytes of a number. changed: the share of selected tokens that a step replaces, on average."""
    shape, at = SHAPES[case.shape], columns(case)
    whole = shape.layers - at.pruned
    token = case.batch * shape.kv_bytes(element)
    short = at.kept + at.other

    def kv(new: float) -> float:
        return token * (whole * (at.prompt + new) + at.pruned * (short + new))

    looks = case.method == "capture"  # reads all keys again
    ours = (config := case.config()) is not None and config.compresses and case.method != "cut"
    mean = (case.new_tokens + 1) / 2
    copies = not (case.graph or looks or ours)  # stock does: all keys and values at each step, to add one
    append_bytes = 2 * kv(mean) if copies else 0.0
    select_bytes = (token * at.prompt / 2 + 4 * changed * token * at.kept * at.pruned) if case.returns else 0.0
    step_bytes = shape.weights * element + kv(mean) * (1.5 if looks else 1) + append_bytes + select_bytes
    early = [at.prompt] * whole + [short if case.method == "fastv" else at.prompt] * at.pruned
    late = [int(at.prompt + mean)] * whole + [int(short + mean)] * at.pruned
    logits = at.prompt if case.whole_logits else 1
    select = case.batch * flops.selection(shape, at.prompt, at.visual) if case.returns else 0.0
    return Work(
        weights=shape.weights * element,
        held=int(kv(case.new_tokens) + (token * at.pruned * (at.visual - at.kept) if at.held else 0)),
        read=int(kv(case.new_tokens)),
        step_bytes=step_bytes,
        select_bytes=select_bytes,
        vision_flops=case.batch * flops.vision(shape.tower, case.frames),
        merge_flops=case.batch * flops.merging(shape, at.compared),
        prefill_flops=case.batch * flops.prefill(shape, early, logits),
        step_flops=case.batch * flops.step(shape, late) + select,
        select_flops=select,
        logits_bytes=case.batch * logits * shape.vocab * element,
        prompt_bytes=token * sum(early),
    )


@dataclass(frozen=True)
class Device:
    """bandwidth: bytes a second that it reads; flops: of matrix products, a second; both measured, or a data sheet's."""

    name: str
    bandwidth: float
    flops: float


H100 = Device("H100 SXM, data sheet", 3.35e12, 989e12)  # bfloat16, without sparsity


def seconds(work: Work, device: Device, new_tokens: int) -> dict[str, float]:
    """The least that each stage can take there. total: from the frames to the last word."""
    found = {
        "vision": work.vision_flops / device.flops,
        "prefill": max(work.prefill_flops / device.flops, work.weights / device.bandwidth),
        "step": max(work.step_flops / device.flops, work.step_bytes / device.bandwidth),
    }
    return {**found, "total": found["vision"] + found["prefill"] + new_tokens * found["step"]}


def measured(device: str, dtype: torch.dtype, size: int | None = None, repeats: int = 5) -> Device:
    """This device's own peak. Bytes: the best of a few products of a large matrix with a vector, or of copies, which read and
    write. FLOPs: the best of a few products of two large matrices."""
    cuda = device.startswith("cuda")
    size = size or (16_384 if cuda else 4096)
    matrix, out = torch.randn(size, size, device=device, dtype=dtype), torch.empty(size, size, device=device, dtype=dtype)
    many = [torch.randn(size, size, device=device, dtype=dtype) for _ in range(1 if cuda else 4)]  # more than caches hold
    vector = torch.randn(size, 1, device=device, dtype=dtype)

    def best(call: Callable[[], Any]) -> float:
        times = []
        for _ in range(repeats + 1):
            began = time.perf_counter()
            call()
            if cuda:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        return min(times[1:])

    with torch.inference_mode():
        size_in_bytes = sum(part.numel() * part.element_size() for part in many)
        read = size_in_bytes / best(lambda: [part @ vector for part in many])
        copied = 2 * size_in_bytes / best(lambda: [part.clone() for part in many])
        multiplied = 2 * size**3 / best(lambda: torch.matmul(matrix, many[0], out=out))
    return Device(torch.cuda.get_device_name() if cuda else cpu_name(), max(read, copied), multiplied)


def prediction(case: Case, device: Device, element: int, changed: float = 0.0) -> dict[str, float]:
    """`seconds` of a case."""
    return seconds(work(case, element, changed), device, case.new_tokens)
