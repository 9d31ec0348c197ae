"""Carries a compression through a model's forward passes: hooks call it, and it knows whose generation each
call is."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache

from dycoke_lab.methods.base import ABOVE, Compression
from dycoke_lab.models import decoder_of
from dycoke_lab.models.find_video import VideoFinder
from dycoke_lab.runtime.attention_hooks import Call, check_hooked, hooked, self_attentions
from dycoke_lab.runtime.compat import CACHE, cache_in
from dycoke_lab.runtime.compressed_cache import CompressedCache
from dycoke_lab.runtime.generation import Generation, ModelFacts
from dycoke_lab.runtime.vision_attention import VisionAttention

_ACTIVE: WeakKeyDictionary[nn.Module, Session] = WeakKeyDictionary()


def active_session(model: nn.Module) -> Session | None:
    """Return the session of this model's context, if it is inside one."""
    return _ACTIVE.get(model)


def current_generation(model: nn.Module) -> Generation | None:
    """Return the compressed generation whose forward pass runs now in this thread; None if nothing is
    compressed."""
    session = _ACTIVE.get(model)
    return session.now if session and session.now and not session.now.off else None


def generation_of(model: nn.Module, cache: Cache) -> Generation | None:
    """Return the generation that this cache belongs to, inside the context that made it; None if there is
    none."""
    session = _ACTIVE.get(model)
    return session.generations.get(cache) if session else None


def forget(model: nn.Module) -> None:
    """Leave the caches made inside this model's context as they are: nothing inactive is put back when it
    ends."""
    if model in _ACTIVE:
        _ACTIVE[model].generations.clear()


class _Now(threading.local):
    generation: Generation | None = None  # whose forward pass runs in this thread
    asked: Mapping[str, Any] = MappingProxyType({})  # what the model is called with


class Session:
    """Routes hook calls to the generation they belong to, which is known by its cache."""

    def __init__(self, compression: Compression, model: Any, facts: ModelFacts) -> None:
        self.compression, self.model, self.facts = compression, model, facts
        self.decoder = decoder_of(model)
        self.finder = VideoFinder(model, lenient=compression.off)
        self.vision = VisionAttention(model, compression.merger) if compression.merger else None
        self.hooks_attention = compression.reducer is not None or compression.selector is not None
        self.running = _Now()
        self.generations: WeakKeyDictionary[Cache, Generation] = WeakKeyDictionary()

    @property
    def now(self) -> Generation | None:
        return self.running.generation

    @now.setter
    def now(self, generation: Generation | None) -> None:
        self.running.generation = generation

    @contextmanager
    def running_on_model(self) -> Iterator[None]:
        """Hook the model until the context ends."""
        decoder, model = self.decoder, self.model
        with ExitStack() as stack:
            _ACTIVE[model] = self
            stack.callback(_ACTIVE.pop, model, None)
            stack.callback(self.restore)
            stack.callback(model.register_forward_pre_hook(self.called, with_kwargs=True).remove)
            stack.enter_context(self.finder.finding(model))
            if self.vision:
                stack.enter_context(self.vision.observed())
            stack.callback(decoder.register_forward_pre_hook(self.before, with_kwargs=True).remove)
            stack.callback(decoder.register_forward_hook(self.after, with_kwargs=True).remove)
            stack.callback(decoder.register_forward_hook(self.done, always_call=True).remove)
            if self.hooks_attention:
                stack.enter_context(self._attention_hooks())
            first = min(self.facts.reduced, default=len(decoder.layers))
            for number in range(first, len(decoder.layers)):
                before = partial(self.before_layer, number)
                stack.callback(
                    decoder.layers[number].register_forward_pre_hook(before, with_kwargs=True).remove
                )
            yield

    def _attention_hooks(self) -> Any:
        """Observers where scores are read, and crops where caches are shorter than masks."""
        selector, reduced = self.compression.selector, self.facts.reduced
        scoring = {number - 1 for number in reduced if number}
        short = set(range(min(reduced), len(self.decoder.layers))) if reduced else set()
        if selector:
            scoring |= set(self.facts.scoring if selector.scope == "shared" else self.facts.pruned)
            scoring |= set(self.facts.pruned) if ABOVE in selector.needs else set()
            short |= set(self.facts.pruned)
        # where heads differ in how many tokens they keep, even one batch element needs a mask
        uneven = selector is not None and selector.scope == "head" and not selector.fixed_budget
        crops = dict.fromkeys(sorted(short), self.crop)
        kind = {"masks" if uneven else "crops": crops}
        observers = dict.fromkeys(sorted(scoring), self.observe)
        return hooked(self.decoder, self_attentions(self.decoder), observers=observers, **kind)  # type: ignore[arg-type]

    def before(
        self, module: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]] | None:
        if torch.compiler.is_compiling():  # with nothing to compress: as stock
            return None
        if self.hooks_attention:
            check_hooked(module)
        cache = cache_in(inputs)
        layout, self.finder.layout = self.finder.layout, None
        if layout is None:
            self.now = self.generations.get(cache) if isinstance(cache, Cache) else None
            return args, self._later(module, inputs) if self.now else inputs
        pruning = self.hooks_attention
        if pruning and cache is None:
            raise ValueError(
                f"{self.compression!r} prunes a KV cache, and there is none: leave out use_cache=False, or "
                f"give {CACHE}=DynamicCache(config=...), or only merge"
            )
        if self.compression.merger or self.compression.reducer:
            self._check_places()
        if pruning and _wants_gradients(module, inputs):
            raise RuntimeError("pruning has no gradients: call the model under torch.no_grad()")
        self.now = generation = Generation(self.compression, layout, self.facts)
        if cache is not None and not generation.off:
            _check_cache(cache)
        if isinstance(cache, Cache):  # else stock says what is wrong with it
            self.generations[cache] = generation
        vision = self.vision.take(layout.videos) if self.vision else {}
        return args, generation.prefill(inputs, self.finder.padding, vision)

    def called(self, module: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling():
            if not self.compression.off:
                refuse_compiled()
            return
        self.running.asked = inputs

    def _check_places(self) -> None:
        """Raise for what has a place for each token of the prompt, where some are taken away."""
        asked, padding = self.running.asked, self.finder.padding
        if asked.get("labels") is not None:
            raise ValueError(
                "labels has a place for each token of the prompt, and some of them are taken away: call "
                "without labels, and compute the loss from the logits that are left"
            )
        if isinstance(padding, Tensor) and padding.ndim == 2 and not bool(padding[:, -1].all()):
            raise ValueError(
                "attention_mask has padding on the right: where tokens are taken away, logits would come "
                "back at other places. Pad on the left (padding_side='left')"
            )
        whole = [name for name in ("output_hidden_states", "output_attentions") if asked.get(name)]
        if whole and _in_assisted_decoding():
            raise NotImplementedError(
                f"{whole[0]}=True: generate with an assistant, or prompt lookup, cuts these by the places of "
                "the whole prompt, of which some are taken away. Leave it out, or generate without them"
            )

    def _later(self, module: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
        """The inputs of a step or a later turn."""
        generation = self.now
        assert generation is not None
        if not generation.off:
            if _wants_gradients(module, inputs):
                raise RuntimeError("a compressed cache has no gradients: decode under torch.no_grad()")
            if self.finder.brings and isinstance(inputs.get("attention_mask"), dict):
                raise ValueError(
                    "a picture in a later turn is not supported for this model, whose images see all of "
                    "themselves: give it in the first turn, or start from the whole conversation"
                )
        return generation.decode(inputs, self.finder.padding, self.finder.brings)

    def before_layer(
        self, number: int, module: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]] | None:
        return self.now.before_layer(number, args, inputs) if self.now else None

    def after(self, module: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any], output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        generation, cache = self.now, cache_in(inputs)
        if generation is None:
            return
        if cache is None:
            cache = getattr(output, CACHE, None)  # the decoder has made one
            if cache is not None:
                self.generations[cache] = generation
        if cache is not None:
            generation.finish_prefill(cache)

    def done(self, *_: Any) -> None:
        """Let go of the generation, after an error, too: what it holds may fill the memory."""
        if torch.compiler.is_compiling():
            return
        self.now, self.running.asked = None, MappingProxyType({})
        if self.vision:
            self.vision.clear()  # of a call without a video

    def crop(self, call: Call) -> Tensor | None:
        return self.now.crop(call) if self.now else call.mask

    def observe(self, call: Call) -> None:
        if self.now:
            self.now.observe(call)

    def restore(self) -> None:
        for cache, generation in self.generations.items():
            if isinstance(cache, CompressedCache):
                generation.release(cache)


@torch.compiler.disable(reason="a dycoke_lab context: run the model uncompiled inside it")
def refuse_compiled() -> None:
    raise RuntimeError(
        "torch.compile cannot see what a compression changes at each step: run the model uncompiled inside "
        "the context"
    )


def _in_assisted_decoding() -> bool:
    """Return whether transformers' assisted decoding is calling: only the stack tells."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_name != "_assisted_decoding":
        frame = frame.f_back
    return frame is not None


def _wants_gradients(module: nn.Module, inputs: dict[str, Any]) -> bool:
    return torch.is_grad_enabled() and (
        inputs["inputs_embeds"].requires_grad or any(p.requires_grad for p in module.parameters())
    )


def _check_cache(cache: Cache) -> None:
    if type(cache) is not DynamicCache or cache.offloading:
        kind = "an offloading DynamicCache" if type(cache) is DynamicCache else f"a {type(cache).__name__}"
        raise ValueError(
            f"{CACHE} is {kind}: a compression needs a DynamicCache on the model's device, which is the "
            "default"
        )
    if cache.get_seq_length():
        raise ValueError(f"{CACHE} already holds tokens: a new video must start on an empty cache")
