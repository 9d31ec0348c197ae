"""See what a model attends to while it writes: `with capture_attention(model) as trace:
model.generate(...)`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal
from weakref import WeakSet, ref

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache

from dycoke_lab.attention.trace import Trace
from dycoke_lab.methods.scores import last_query_attention, visible
from dycoke_lab.models import decoder_of
from dycoke_lab.models.find_video import VideoFinder
from dycoke_lab.models.token_layout import TokenLayout
from dycoke_lab.runtime.attention_hooks import Call, check_hooked, hooked, self_attentions
from dycoke_lab.runtime.compat import cache_in
from dycoke_lab.runtime.compressed_cache import stock_layers, write_in_place
from dycoke_lab.runtime.session import current_generation, generation_of


@contextmanager
def capture_attention(model: Any, heads: Literal["mean", "all"] = "mean") -> Iterator[Trace]:
    """Record each decoding step's attention over the visual tokens, in every layer, pruned or not.

    Works beside SDPA, eager, FlashAttention and kernels registered with transformers, since one query row is
    computed beside them; the model's own output is bit-identical. Step 0 is the prompt's last token, which
    writes the first word. Memory grows with steps x layers (x heads, with heads="all") x visual tokens. A new
    prompt with a video starts the trace afresh, so it holds the last such generation, with its later turns on
    the same cache; calls on other caches, or without a video, are not recorded. One thread at a time. Raises
    ValueError for another `heads` or for flex attention, TypeError for an unsupported model.
    """
    if heads not in ("mean", "all"):
        raise ValueError(f"heads={heads!r} must be 'mean' or 'all'")
    decoder = decoder_of(model)
    finder = VideoFinder(model)
    modules = self_attentions(decoder)
    recorder = _Recorder(model, finder, Trace(), heads, len(modules))
    hook = decoder.register_forward_pre_hook(recorder.start, with_kwargs=True)
    try:
        with (
            finder.finding(model),
            hooked(decoder, modules, observers=dict.fromkeys(modules, recorder.observe)),
        ):
            yield recorder.trace
    finally:
        hook.remove()
        for cache in recorder.caches:
            if not _compressed(model, cache):
                stock_layers(cache)


def _compressed(model: Any, cache: Cache) -> bool:
    """Whether a compression's context, which has not ended, will see to the cache's layers."""
    generation = generation_of(model, cache)
    return generation is not None and not generation.off


class _Recorder:
    def __init__(self, model: Any, finder: VideoFinder, trace: Trace, heads: str, depth: int) -> None:
        self.model, self.finder, self.trace, self.heads, self.depth = model, finder, trace, heads, depth
        self.layout: TokenLayout | None = None
        self.columns = torch.empty(0)  # of the layout, after those that the cache held before
        self.cache: ref[Cache] | None = None  # of the generation in the trace
        self.records = False  # whether this call is part of it
        self.all_real = False  # whether each batch element has as many visual tokens
        self.rows: list[tuple[Tensor, Tensor]] = []
        self.caches: WeakSet[Cache] = WeakSet()
        self.seen = 0  # columns so far, of the whole prompt and what came after

    def start(self, module: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        check_hooked(module)
        cache = cache_in(inputs)
        before = int(cache.get_seq_length()) if cache is not None else 0
        if self.finder.layout is not None:
            self.layout, self.columns = self.finder.layout, self.finder.layout.columns + before
            self.cache = None if cache is None else ref(cache)
            self.trace.start(self.layout.videos)
            self.all_real = bool(self.layout.real.all())
        self.records = self.finder.layout is not None or (
            cache is not None and self.cache is not None and self.cache() is cache
        )
        self.seen = inputs["inputs_embeds"].shape[1] + before
        self.rows = []
        if not isinstance(cache, DynamicCache) or cache.offloading:
            return
        if not torch.is_grad_enabled():
            write_in_place(
                cache
            )  # for stock copies the cache at each step, which costs as much as the capture
            self.caches.add(cache)
        elif not _compressed(self.model, cache):  # gradients need what a step would write over
            stock_layers(cache)

    def observe(self, call: Call) -> None:
        if self.layout is None or not self.records:
            return
        attention = last_query_attention(call.query, call.key, call.mask, call.scaling)
        generation = current_generation(self.model)
        if generation is None:
            columns, there, total = self.columns[:, None], self.layout.real[:, None], self.seen
        else:
            columns, there, total = generation.where(call)
        shared = columns.shape[1] == 1  # else each key head attends to tokens of its own
        if shared and self.heads == "mean":
            attention = attention.mean(1, keepdim=True)  # before the gather, which is then a small one
        gone = total - call.key.shape[2]
        if gone > 0:  # a sliding window's first columns; a static cache has columns to come
            there, columns = there & (columns >= gone), (columns - gone).clamp(min=0)
        if call.mask is not None and shared:
            seen = visible(call.mask, call.key.shape[2])[:, :1].expand(len(columns), -1, -1)
            there = there & seen.gather(2, columns)
        times = attention.shape[1] // columns.shape[1]
        spread = [
            part.expand(-1, times, -1) if shared else part.repeat_interleave(times, 1)
            for part in (columns, there)
        ]
        visual = attention.gather(2, spread[0])
        if not (generation is None and self.all_real and call.mask is None and gone <= 0):
            visual = visual * spread[1]
        if not shared and self.heads == "mean":
            visual = visual.mean(1, keepdim=True)
        self.rows.append((visual.transpose(0, 1), there[:, 0] if shared else there.any(1)))
        if len(self.rows) == self.depth:
            self.trace.attention.append(torch.stack([row for row, _ in self.rows]).detach())
            self.trace.attended.append(torch.stack([kept for _, kept in self.rows]))
