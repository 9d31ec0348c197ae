"""What a vision tower attends to, for methods that ask for it: scores and keys of patches, pooled to the
token grid."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isqrt
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from dycoke_lab.methods.base import Method
from dycoke_lab.models import adapter_for, vision_attentions, vision_of
from dycoke_lab.models.token_layout import TokenGrid
from dycoke_lab.runtime.attention_hooks import Call, has_flat_masks, hooked

KINDS = ("vision_attention", "vision_keys")


class _Collected(threading.local):
    """Frame by frame, by kind, of the call that runs in this thread."""

    def __init__(self) -> None:
        self.frames: dict[str, list[Tensor]] = {}


class VisionAttention:
    """Collects what a method needs, frame by frame, until the prompt's prefill takes it."""

    def __init__(self, model: Any, method: Method) -> None:
        """Raise ValueError if this model's tower cannot give what the method needs."""
        self.model, self.wanted = model, dict[str, int]()
        self.attentions = vision_attentions(model)
        name = type(method).__name__
        for need in sorted(method.needs - {"text"}):
            kind, _, layer = need.partition(":")
            if kind not in KINDS or not layer.lstrip("-").isdigit():
                raise ValueError(
                    f"{name} needs {need!r}: known are 'text', 'vision_attention:LAYER', 'vision_keys:LAYER'"
                )
            if kind in self.wanted:
                raise ValueError(f"{name} needs {kind} of two layers: one is supported")
            if not -len(self.attentions) <= int(layer) < len(self.attentions):
                raise ValueError(
                    f"{name} needs {need!r}, but the vision tower has {len(self.attentions)} layers"
                )
            self.wanted[kind] = int(layer) % len(self.attentions)
        self.collected = _Collected()
        self.patches = getattr(adapter_for(model), "VISION_PATCHES", None)
        if self.wanted and (
            self.patches is None or (self.patches == "packed" and has_flat_masks(vision_of(model)))
        ):
            why = (
                "reorders patches in windows"
                if self.patches is None
                else "packs frames for FlashAttention: use 'sdpa'"
            )
            raise ValueError(
                f"{type(method).__name__} needs {', '.join(self.wanted)}, which this family "
                f"({model.config.model_type}) does not give: its vision tower {why}"
            )

    @contextmanager
    def observed(self) -> Iterator[None]:
        """Collect from every encoding of frames, until the context ends."""
        if not self.wanted:
            yield
            return
        modules = {number: self.attentions[number] for number in set(self.wanted.values())}
        with hooked(vision_of(self.model), modules, observers=dict.fromkeys(modules, self.observe)):
            yield

    def observe(self, call: Call) -> None:
        for kind, layer in self.wanted.items():
            if call.layer == layer:
                rows = received(call) if kind == "vision_attention" else keys_of(call)
                self.collected.frames.setdefault(kind, []).extend(rows.unbind(0))

    def clear(self) -> None:
        """Forget what was collected in this thread."""
        self.collected.frames = {}

    def take(self, videos: Sequence[Sequence[TokenGrid]]) -> dict[str, list[Tensor]]:
        """Return for each kind and video (frames, rows, cols[, keys]), and forget what was collected.

        videos: for each batch element, its videos' grids. Raises ValueError if other frames were encoded than
        theirs.
        """
        found, self.collected.frames = self.collected.frames, {}
        frames = sum(grid.frames for sample in videos for grid in sample)
        result: dict[str, list[Tensor]] = {}
        for kind in self.wanted:
            rows = found.get(kind, [])
            times = frames // len(rows) if rows and frames % len(rows) == 0 else 1  # beams, several answers
            samples = videos[::times]  # each was encoded once, and then repeated
            if len(rows) * times != frames or sum(grid.frames for s in samples for grid in s) != len(rows):
                raise ValueError(
                    f"the method needs {kind} of {frames} frames, but the vision tower encoded {len(rows)} "
                    "in this call: give pixels of videos alone, inside the context, not mm_encoder_outputs "
                    "or images beside them"
                )
            result[kind], start = [], 0
            for sample in samples:
                pooled = []
                for grid in sample:
                    here = rows[start : start + grid.frames]
                    pooled.append(torch.stack([self._pool(row, grid) for row in here]))
                    start += grid.frames
                result[kind] += pooled * times
        return result

    def _pool(self, patches: Tensor, grid: TokenGrid) -> Tensor:
        """(patches,) or (patches, keys) of one frame to (rows, cols[, keys])."""
        values = patches if patches.ndim == 2 else patches[:, None]
        if self.patches == "packed":
            pooled = values.view(grid.rows, grid.cols, -1, values.shape[-1]).mean(2)
        else:
            side = isqrt(len(values))
            square = values[-(side**2) :].T.reshape(
                1, -1, side, side
            )  # without a class token, which comes first
            pooled = adaptive_avg_pool2d(square, (grid.rows, grid.cols))[0].permute(1, 2, 0)
        return pooled if patches.ndim == 2 else pooled[..., 0]


def received(call: Call) -> Tensor:
    """Return the attention that each patch receives, mean over heads and queries: (frames, patches)."""
    rows = []
    for query, key in zip(call.query, call.key, strict=True):  # one by one: the square of patches is large
        rows.append((query @ key.transpose(1, 2) * call.scaling).float().softmax(-1).mean((0, 1)))
    return torch.stack(rows).detach()


def keys_of(call: Call) -> Tensor:
    """Return the patches' keys, all heads side by side: (frames, patches, keys)."""
    return call.key.transpose(1, 2).flatten(2).detach()
