"""Hide visual tokens from layers and heads: which words change? `with Block(frames=[3])(model):`.

Attention says what a step looks at; hiding it says whether it is used (attention knockout, arXiv 2304.14767).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from dycoke_lab.models import decoder_of
from dycoke_lab.models.find_video import VideoFinder
from dycoke_lab.models.token_layout import TokenLayout
from dycoke_lab.runtime.attention_hooks import Call, check_hooked, has_flat_masks, hooked, self_attentions
from dycoke_lab.runtime.compat import cache_in
from dycoke_lab.runtime.session import active_session


@dataclass(frozen=True)
class Block:
    """Visual tokens that nothing but themselves attends to, from layer `from_layer` on, in prompt and answer.

    frames: numbers of frames, counted over all videos of a prompt; of all their tokens. tokens: numbers of
    visual tokens, (frame * rows + row) * cols + col. With neither, all visual tokens are hidden. heads: the
    query heads that don't see them; None for all. layers: how many layers from `from_layer` on; None for all.

    >>> Block(frames=[3], from_layer=8)  # with Block(frames=[3], from_layer=8)(model): model.generate(...)
    Block(frames=(3,), tokens=(), heads=None, from_layer=8, layers=None)
    """

    frames: Sequence[int] = ()
    tokens: Sequence[int] = ()
    heads: Sequence[int] | None = None
    from_layer: int = 0
    layers: int | None = None

    def __post_init__(self) -> None:
        for name in ("frames", "tokens", "heads"):
            numbers = getattr(self, name)
            if numbers is None and name == "heads":
                continue
            if isinstance(numbers, str | bytes) or not isinstance(numbers, Sequence):
                raise TypeError(f"{name}={numbers!r} must be a list of whole numbers")
            if not all(isinstance(number, Integral) and int(number) >= 0 for number in numbers):
                raise ValueError(f"{name}={list(numbers)!r} must hold whole numbers from 0")
            object.__setattr__(self, name, tuple(map(int, numbers)))  # so that equal ones are one key
        if type(self.from_layer) is not int or self.from_layer < 0:
            raise ValueError(f"from_layer={self.from_layer!r} must be a whole number from 0")
        if self.layers is not None and (type(self.layers) is not int or self.layers < 1):
            raise ValueError(f"layers={self.layers!r} must be a whole number from 1, or None for all")

    def __call__(self, model: Any) -> Any:
        """Return a context in which this model's generations lack these tokens.

        Works with SDPA and eager attention. Raises TypeError for a model of an unsupported family, ValueError
        for numbers the model or the prompt does not have, or another kernel, and RuntimeError inside a
        compression's context.
        """
        return _blocking(self, model)


@contextmanager
def _blocking(block: Block, model: Any) -> Iterator[None]:
    decoder = decoder_of(model)
    if active_session(model):
        raise RuntimeError("this model is inside a compression's context: block its tokens outside of one")
    if has_flat_masks(decoder):
        raise ValueError(
            f"attention kernel {decoder.config._attn_implementation!r} cannot hide single tokens: load the "
            "model with attn_implementation='sdpa'"
        )
    modules = {n: module for n, module in self_attentions(decoder).items() if n >= block.from_layer}
    if block.layers is not None:
        modules = {n: module for n, module in modules.items() if n < block.from_layer + block.layers}
    if not modules:
        raise ValueError(
            f"from_layer={block.from_layer} must be below the number of layers, {len(decoder.layers)}"
        )
    count = decoder.config.num_attention_heads
    if beyond := [head for head in block.heads or () if head >= count]:
        raise ValueError(f"heads={beyond} must be below the number of query heads, {count}")
    finder = VideoFinder(model)
    hider = _Hider(block, finder, count)
    hook = decoder.register_forward_pre_hook(hider.start, with_kwargs=True)
    try:
        with finder.finding(model), hooked(decoder, modules, masks=dict.fromkeys(modules, hider.hide)):
            yield
    finally:
        hook.remove()


class _Hider:
    def __init__(self, block: Block, finder: VideoFinder, heads: int) -> None:
        self.block, self.finder, self.heads = block, finder, heads
        self.columns: Tensor | None = None  # (batch, columns of the prompt and before it): the hidden ones
        self.cache: ref[Cache] | None = None
        self.seen, self.hides = 0, False

    def start(self, module: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        """Before each call of the language model: note where the hidden columns are."""
        check_hooked(module)
        cache = cache_in(inputs)
        before = int(cache.get_seq_length()) if cache is not None else 0
        self.seen = inputs["inputs_embeds"].shape[1] + before
        if self.finder.layout is not None:
            self.columns = self._hidden(self.finder.layout, before)
            self.cache = None if cache is None else ref(cache)
        self.hides = self.finder.layout is not None or (
            cache is not None and self.cache is not None and self.cache() is cache
        )

    def _hidden(self, layout: TokenLayout, before: int) -> Tensor:
        frame, chosen = layout.place().frame, torch.zeros_like(layout.real)
        for name, numbers in (("frames", frame), ("tokens", torch.arange(frame.shape[1]).expand_as(frame))):
            for number in getattr(self.block, name):
                found = numbers.to(layout.real.device).eq(number) & layout.real
                if not found.any(1).all():
                    most = int(numbers.to(layout.real.device).masked_fill(~layout.real, -1).amax(1).min())
                    raise ValueError(f"{name}: {number} is not in this prompt, whose last is {most}")
                chosen |= found
        if not self.block.frames and not self.block.tokens:
            chosen = layout.real
        hidden = torch.zeros(len(chosen), before + layout.length, dtype=torch.bool, device=chosen.device)
        rows, places = chosen.nonzero(as_tuple=True)
        hidden[rows, layout.columns[rows, places] + before] = True
        return hidden

    def hide(self, call: Call) -> Tensor | None:
        """Return the call's mask, in which the hidden columns are hidden."""
        if not self.hides or self.columns is None:
            return call.mask
        queries, keys = call.query.shape[2], call.key.shape[2]
        gone = max(0, self.seen - keys)  # the first columns, which a sliding window has left behind
        hidden = torch.nn.functional.pad(self.columns, (0, max(0, keys + gone - self.columns.shape[1])))
        hidden = hidden[:, gone : gone + keys]
        at = torch.arange(self.seen - queries, self.seen, device=hidden.device)[:, None]
        column = torch.arange(gone, gone + keys, device=hidden.device)
        blocked = hidden[:, None, None] & (column != at)  # but a token attends to itself
        if self.block.heads is not None:
            blocked = blocked.expand(-1, self.heads, -1, -1).clone()
            others = [head for head in range(self.heads) if head not in self.block.heads]
            blocked[:, others] = False
        if call.mask is None:
            return ~blocked & (column <= at)
        mask = call.mask[..., :keys]
        if mask.dtype == torch.bool:
            return mask & ~blocked
        return mask.masked_fill(blocked, torch.finfo(mask.dtype).min)
