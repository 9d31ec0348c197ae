"""See what a model attends to while it writes: `with capture_attention(model) as trace: model.generate(...)`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal
from weakref import WeakSet, ref

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache

from dycoke_lab.apply import current_generation, generation_of
from dycoke_lab.attention import Call, check_watched, watching
from dycoke_lab.compat import cache_in
from dycoke_lab.layout import VisualLayout
from dycoke_lab.models import decoder_of
from dycoke_lab.models.finding import VideoFinder
from dycoke_lab.prune import last_query_attention, visible
from dycoke_lab.trace import Trace
from dycoke_lab.whole_cache import give_room, take_room


@contextmanager
def capture_attention(model: Any, heads: Literal["mean", "all"] = "mean") -> Iterator[Trace]:
    """Record each decoding step's attention over the visual tokens, in every layer, pruned or not.

    Works beside SDPA, eager, FlashAttention and kernels registered with transformers, since one query row is computed
    beside them; the model's own output is bit-identical. Step 0 is the prompt's last token, which writes the first word.
    Memory grows with steps x layers (x heads, with heads="all") x visual tokens. A new prompt with a video starts the trace
    afresh, so it holds the last such generation, with its later turns on the same cache; calls on other caches, or without a
    video, are not recorded. One thread at a time. Raises ValueError for another `heads` or for flex attention, TypeError for
    an unsupported model.
    """
    if heads not in ("mean", "all"):
        raise ValueError(f"heads={heads!r} must be 'mean' or 'all'")
    decoder = decoder_of(model)
    finder = VideoFinder(model)
    recorder = _Recorder(model, finder, Trace(), heads, len(decoder.layers))
    hook = decoder.register_forward_pre_hook(recorder.start, with_kwargs=True)
    try:
        with finder.looking(model), watching(decoder, sees=dict.fromkeys(range(recorder.depth), recorder.see)):
            yield recorder.trace
    finally:
        hook.remove()
        for cache in recorder.caches:
            if generation_of(model, cache) is None:
                take_room(cache)


class _Recorder:
    def __init__(self, model: Any, finder: VideoFinder, trace: Trace, heads: str, depth: int) -> None:
        self.model, self.finder, self.trace, self.heads, self.depth = model, finder, trace, heads, depth
        self.layout: VisualLayout | None = None
        self.columns = torch.empty(0)  # of the layout, after those that the cache held before
        self.cache: ref[Cache] | None = None  # of the generation in the trace
        self.records = False  # whether this call is part of it
        self.rows: list[tuple[Tensor, Tensor]] = []
        self.caches: WeakSet[Cache] = WeakSet()
        self.seen = 0  # columns so far, of the whole prompt and what came after

    def start(self, module: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        check_watched(module)
        cache = cache_in(inputs)
        before = int(cache.get_seq_length()) if cache is not None else 0
        if self.finder.layout is not None:
            self.layout, self.columns = self.finder.layout, self.finder.layout.columns + before
            self.cache = None if cache is None else ref(cache)
            self.trace.start(self.layout.videos)
        self.records = self.finder.layout is not None or (cache is not None and self.cache is not None and self.cache() is cache)
        self.seen = inputs["inputs_embeds"].shape[1] + before
        self.rows = []
        if not isinstance(cache, DynamicCache) or cache.offloading:
            return
        if any(getattr(layer, "end", None) is not None for layer in cache.layers):
            raise ValueError("capture_attention cannot look at StaticSteps: leave those first, or capture ordinary steps")
        if not torch.is_grad_enabled():
            give_room(cache, range(len(cache.layers)))  # for stock copies the cache at each step, which costs as much
            self.caches.add(cache)
        elif generation_of(self.model, cache) is None:  # gradients need what a step would write into
            take_room(cache)

    def see(self, call: Call) -> None:
        if self.layout is None or not self.records:
            return
        attention = last_query_attention(call.query, call.key, call.mask, call.scaling)  # (batch, heads, keys)
        attention = attention.mean(1, keepdim=True) if self.heads == "mean" else attention
        generation = current_generation(self.model)
        if generation is None:
            columns, there, total = self.columns, self.layout.real, self.seen
        else:
            columns, there, total = generation.where(call)
        if (gone := total - call.key.shape[2]) > 0:  # a sliding window's first columns; a static cache has columns to come
            there, columns = there & (columns >= gone), (columns - gone).clamp(min=0)
        if call.mask is not None:
            there = there & visible(call.mask, call.key.shape[2]).expand(len(columns), -1).gather(1, columns)
        visual = attention.gather(2, columns[:, None].expand(-1, attention.shape[1], -1)) * there[:, None]
        self.rows.append((visual.transpose(0, 1), there))
        if len(self.rows) == self.depth:
            self.trace.attention.append(torch.stack([row for row, _ in self.rows]).detach())
            self.trace.attended.append(torch.stack([kept for _, kept in self.rows]))
