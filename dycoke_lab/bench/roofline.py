"""The least a setting can cost by its shape: bytes, operations, and on a device of known speed, seconds.

A stage takes as long as its arithmetic or its memory traffic, whichever is slower on this device (the
roofline). Where dynamic pruning pays, and where it cannot, follows from the bytes that one decoding step
moves: the weights, once for the whole batch, and keys and values, for each batch element.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from dycoke_lab.bench import flops
from dycoke_lab.bench.configs import WARM_UP, BenchmarkConfig
from dycoke_lab.bench.model_shapes import SHAPES, other_tokens
from dycoke_lab.methods.scores import retained_budget
from dycoke_lab.methods.temporal_merging import references, retained_count
from dycoke_lab.results.provenance import cpu_name


@dataclass(frozen=True)
class Columns:
    """How many tokens one batch element has.

    visual: retained by merging. other: the rest of the prompt. attended: visual tokens that pruned layers
    attend to. pruned: how many layers these are. compared: tokens that merging compares with a reference.
    keeps_inactive: whether inactive tokens stay on the device.
    """

    visual: int
    other: int
    attended: int
    pruned: int
    compared: int
    keeps_inactive: bool

    @property
    def prompt(self) -> int:
        return self.visual + self.other


def columns(config: BenchmarkConfig) -> Columns:
    """Count the tokens of a setting, layer by layer."""
    shape = SHAPES[config.shape]
    per_frame = shape.grid[0] * shape.grid[1]
    compared = sum(reference is not None for reference in references(config.frames, 4))
    visual = config.frames * per_frame - compared * (
        per_frame - retained_count(per_frame, config.merge_ratio)
    )
    attended = int(retained_budget(torch.ones(1, visual, dtype=torch.bool), config.prune_ratio))
    pruned = shape.layers - config.from_layer if config.prune_ratio and config.method != "merge" else 0
    return Columns(
        visual=visual,
        other=other_tokens(config.shape),
        attended=0 if config.method == "keep_none" else attended,
        pruned=pruned,
        compared=compared * per_frame if config.merge_ratio else 0,
        keeps_inactive=config.can_return and config.inactive == "device",
    )


@dataclass(frozen=True)
class Work:
    """Bytes and FLOPs of the whole batch.

    weights: bytes that a step reads. held, read: bytes of keys and values, on the device after the last
    token, and read by its attention. step_bytes: moved by an average step; select_bytes: the part of it that
    selecting moves. logits_bytes, prompt_bytes: logits, and keys and values, at the end of the prefill.
    select_flops are part of step_flops.
    """

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


def work(config: BenchmarkConfig, element: int = 2, changed: float = 0.0) -> Work:
    """Return the work of a setting.

    element: bytes of a number. changed: the share of selected tokens that a step replaces, on average.
    """
    shape, tokens = SHAPES[config.shape], columns(config)
    whole = shape.layers - tokens.pruned
    token = config.batch * shape.kv_bytes(element)
    short = tokens.attended + tokens.other

    def kv(new: float) -> float:
        return token * (whole * (tokens.prompt + new) + tokens.pruned * (short + new))

    first = WARM_UP if config.graph else 0  # tokens before the measured steps
    last, mean = first + config.new_tokens, first + (config.new_tokens + 1) / 2
    copies = (
        config.method in ("full", "truncated-stock") and not config.graph
    )  # stock copies all keys and values to add one
    moved = kv(mean) * (
        3 if copies else 1.5 if config.method == "capture" else 1
    )  # capture reads all keys again
    select_bytes = 0.0
    if config.can_return:
        select_bytes = token * (tokens.prompt / 2 + 4 * changed * tokens.attended * tokens.pruned)
    early = [tokens.prompt] * whole + [short if config.method == "fastv" else tokens.prompt] * tokens.pruned
    late = [int(tokens.prompt + mean)] * whole + [int(short + mean)] * tokens.pruned
    logits = tokens.prompt if config.whole_logits else 1
    select = config.batch * flops.selection(shape, tokens.prompt, tokens.visual) if config.can_return else 0.0
    inactive = tokens.visual - tokens.attended if tokens.keeps_inactive else 0
    return Work(
        weights=shape.weights * element,
        held=int(kv(last) + token * tokens.pruned * inactive),
        read=int(kv(last)),
        step_bytes=shape.weights * element + moved + select_bytes,
        select_bytes=select_bytes,
        vision_flops=config.batch * flops.vision(shape.tower, config.frames),
        merge_flops=config.batch * flops.merging(shape, tokens.compared),
        prefill_flops=config.batch * flops.prefill(shape, early, logits),
        step_flops=config.batch * flops.step(shape, late) + select,
        select_flops=select,
        logits_bytes=config.batch * logits * shape.vocab * element,
        prompt_bytes=token * sum(early),
    )


@dataclass(frozen=True)
class Device:
    """Peak rates, measured or a data sheet's: bytes read a second, FLOPs of matrix products a second."""

    name: str
    bandwidth: float
    flops: float


H100 = Device("H100 SXM, data sheet", 3.35e12, 989e12)  # bfloat16, without sparsity


def seconds(work: Work, device: Device, new_tokens: int) -> dict[str, float]:
    """Return the least time of each stage there. total: from the frames to the last token."""
    found = {
        "vision": work.vision_flops / device.flops,
        "prefill": max(work.prefill_flops / device.flops, work.weights / device.bandwidth),
        "step": max(work.step_flops / device.flops, work.step_bytes / device.bandwidth),
    }
    return {**found, "total": found["vision"] + found["prefill"] + new_tokens * found["step"]}


def prediction(
    config: BenchmarkConfig, device: Device, element: int, changed: float = 0.0
) -> dict[str, float]:
    """Return the least time of each stage of a config."""
    return seconds(work(config, element, changed), device, config.new_tokens)


def hardware_name(device: str) -> str:
    return torch.cuda.get_device_name() if device.startswith("cuda") else cpu_name()


def measured_device(device: str, dtype: torch.dtype, size: int | None = None, repeats: int = 5) -> Device:
    """Measure this device's own peaks.

    Bytes: the best of a few products of a large matrix with a vector, or of copies, which read and write.
    FLOPs: the best of a few products of two large matrices.
    """
    cuda = device.startswith("cuda")
    size = size or (16_384 if cuda else 4096)
    made: dict[str, Any] = dict(device=device, dtype=dtype)
    matrix, out = torch.randn(size, size, **made), torch.empty(size, size, **made)
    many = [torch.randn(size, size, **made) for _ in range(1 if cuda else 4)]  # more than a CPU's caches hold
    vector = torch.randn(size, 1, **made)

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
    return Device(hardware_name(device), max(read, copied), multiplied)
