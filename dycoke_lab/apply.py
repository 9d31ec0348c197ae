"""DyCoke on a stock model: `with DyCoke(config)(model): model.generate(...)`.

The wiring is thin. A hook at the language model's boundary drops merged tokens from the prompt; a watcher
on the attention of layer L - 1 asks the method what to keep; the cache layers from L on hand out only that.
All of it hangs on the model's modules for the length of the context, and on the cache of each generation.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicCache

from dycoke_lab import whole_cache
from dycoke_lab.attention import Call, can_group, check_watched, has_flat_masks, watching
from dycoke_lab.compat import CACHE, cache_in
from dycoke_lab.config import DyCokeConfig
from dycoke_lab.generation import Generation
from dycoke_lab.methods import method_of
from dycoke_lab.models import adapter_for, decoder_of
from dycoke_lab.models.finding import VideoFinder

_ACTIVE: WeakKeyDictionary[nn.Module, _Session] = WeakKeyDictionary()


class DyCoke:
    """Token compression to switch on for a while. `DyCoke(DyCokeConfig(...))` or `DyCoke(merge_ratio=0.5, ...)`."""

    def __init__(self, config: DyCokeConfig | None = None, **settings: Any) -> None:
        if config is not None and not isinstance(config, DyCokeConfig):
            raise TypeError(f"config is a {type(config).__name__}: write `with DyCoke(DyCokeConfig(...))(model):`")
        if config is not None and settings:
            raise ValueError(f"give either config={config} or settings {sorted(settings)}, not both")
        self.config = config or DyCokeConfig(**settings)

    def __enter__(self) -> None:
        raise TypeError("DyCoke(...) is not a context yet, since it has no model: write `with DyCoke(...)(model):`")

    def __exit__(self, *_: Any) -> None: ...

    @contextmanager
    def __call__(self, model: Any) -> Iterator[Any]:
        """Compress every generation of `model` inside this context; afterwards the model is as before.

        Raises TypeError for a model of an unsupported family, ValueError for settings the model cannot have, RuntimeError for a
        model that is inside a DyCoke context already. With SDPA or eager, threads may generate at once, each with its own caches.
        Caches made inside keep what merging and eviction left; waiting tokens are put back when it ends.
        """
        decoder = decoder_of(model)
        if model in _ACTIVE:
            raise RuntimeError("this model is inside a DyCoke context already: leave that one first")
        session = _Session(self.config, model, decoder)
        with ExitStack() as stack:
            _ACTIVE[model] = session
            stack.callback(_ACTIVE.pop, model, None)
            stack.callback(session.restore)
            stack.enter_context(session.finder.looking(model))
            stack.callback(decoder.register_forward_pre_hook(session.before, with_kwargs=True).remove)
            stack.callback(decoder.register_forward_hook(session.after, with_kwargs=True).remove)
            stack.callback(decoder.register_forward_hook(session.done, always_call=True).remove)
            crops = dict.fromkeys(session.pruned, session.crop)
            sees = {self.config.score_layer - 1: session.see} if self.config.prune_ratio else {}
            if session.watches:
                groups = dict.fromkeys(range(len(decoder.layers)), session.compressing)
                stack.enter_context(watching(decoder, crops=crops, sees=sees, groups=groups))
            if self.config.prune_ratio and method_of(self.config.method).in_prefill:
                for number in session.pruned:
                    inside = partial(session.inside, number == session.pruned[0])
                    stack.callback(decoder.layers[number].register_forward_pre_hook(inside, with_kwargs=True).remove)
            yield model


def current_generation(model: nn.Module) -> Generation | None:
    """The compressed generation whose forward pass runs now, for those who look on; None if nothing is compressed."""
    session = _ACTIVE.get(model)
    return session.now if session and session.now and session.now.compresses else None


def generation_of(model: nn.Module, cache: Cache) -> Generation | None:
    """The compressed generation that this cache belongs to, inside the DyCoke context that made it; None if there is none."""
    session = _ACTIVE.get(model)
    return session.generations.get(cache) if session else None


def watches(model: nn.Module) -> bool:
    """Whether a DyCoke context looks on at this model's attention."""
    return model in _ACTIVE and _ACTIVE[model].watches


def forget(model: nn.Module) -> None:
    """Leave the caches that were made inside this model's context as they are: nothing that waits is put back when it ends."""
    if model in _ACTIVE:
        _ACTIVE[model].generations.clear()


def score_layer_for(model: Any, wanted: int = DyCokeConfig.score_layer) -> int:
    """`wanted`, or the next layer that this model can have as score_layer (the last one it can, if there is no next)."""
    depth, whole = _attending_to_all(decoder_of(model))
    allowed = [number + 1 for number in whole if number + 1 < depth]
    if not allowed:
        raise ValueError(f"the model has {depth} decoder layers: there is none to prune above one that sees the whole prompt")
    return next((layer for layer in allowed if layer >= wanted), allowed[-1])


def _attending_to_all(decoder: Any) -> tuple[int, list[int]]:
    """How many layers there are, and which of them see more than a sliding window."""
    depth = len(decoder.layers)
    kinds = getattr(decoder.config, "layer_types", None) or ["full_attention"] * depth
    return depth, [number for number, kind in enumerate(kinds) if kind == "full_attention"]


class _Now(threading.local):
    generation: Generation | None = None  # whose forward pass runs in this thread


class _Session:
    """Routes hook calls to the generation they belong to, which is known by its cache."""

    def __init__(self, config: DyCokeConfig, model: Any, decoder: Any) -> None:
        self.config, self.finder = config, VideoFinder(model)
        self.extras = getattr(adapter_for(model), "shorten", None)
        self.window = getattr(decoder.config, "sliding_window", None) or 0
        self.pruned, self.flash = _check_model(config, model, decoder), has_flat_masks(decoder)
        self.watches = config.prune_ratio > 0 or (config.compresses and can_group(decoder))
        self.running = _Now()
        self.generations: WeakKeyDictionary[Cache, Generation] = WeakKeyDictionary()

    @property
    def now(self) -> Generation | None:
        return self.running.generation

    @now.setter
    def now(self, generation: Generation | None) -> None:
        self.running.generation = generation

    def before(self, module: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if torch.compiler.is_compiling():
            raise RuntimeError(
                "torch.compile cannot see what DyCoke changes at each step: run the model uncompiled inside the context"
            )
        if self.pruned:
            check_watched(module)
        cache = cache_in(inputs)
        layout, self.finder.layout = self.finder.layout, None
        if layout is None:
            self.now = self.generations.get(cache) if cache is not None else None
            if self.now and _wants_gradients(module, inputs):
                if self.pruned:
                    raise RuntimeError("pruning writes the cache in place, and has no gradients: decode under torch.no_grad()")
                whole_cache.take_room(cache)  # type: ignore[arg-type]  # gradients need what a step would write into
            if self.now and self.now.compresses and self.finder.brings and isinstance(inputs.get("attention_mask"), dict):
                raise ValueError(
                    "a picture in a later turn is not supported for this model, whose images see all of themselves: give it in the "
                    "first turn, or start from the whole conversation"
                )
            return args, self.now.decode(inputs, self.finder.padding, self.finder.brings) if self.now else inputs
        if self.config.prune_ratio and cache is None:
            raise ValueError(
                f"prune_ratio > 0 prunes a KV cache: call generate, or give {CACHE}=DynamicCache(config=...), or set prune_ratio=0"
            )
        self.now = generation = Generation(self.config, layout, self.pruned, self.window, self.extras, self.flash)
        if cache is not None:
            if generation.compresses:
                _check_cache(cache)
            self.generations[cache] = generation
        return args, generation.prefill(inputs, self.finder.padding)

    def inside(
        self, first: bool, module: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]] | None:
        return self.now.shorten(args, inputs, first) if self.now else None

    def after(self, module: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any], output: Any) -> None:
        if self.now and (cache := cache_in(inputs)) is not None:
            self.now.finish_step(cache)

    def done(self, *_: Any) -> None:
        """After an error, too: what it holds may fill the memory."""
        self.now = None

    def compressing(self) -> bool:
        return self.now is not None

    def crop(self, call: Call) -> Any:
        return self.now.crop(call) if self.now else call.mask

    def see(self, call: Call) -> None:
        if self.now:
            self.now.see(call)

    def restore(self) -> None:
        for cache, generation in self.generations.items():
            generation.release(cache)


def _wants_gradients(module: nn.Module, inputs: dict[str, Any]) -> bool:
    return torch.is_grad_enabled() and (inputs["inputs_embeds"].requires_grad or any(p.requires_grad for p in module.parameters()))


def _check_model(config: DyCokeConfig, model: Any, decoder: Any) -> list[int]:
    """The numbers of the layers to prune: those from L on that attend to everything. ValueError for what cannot work."""
    if hasattr(model, "_orig_mod") or model._compiled_call_impl is not None:
        raise ValueError(
            "model is compiled, and torch.compile cannot see what DyCoke changes at each step: give the model as it was"
        )
    devices = {str(device) for device in (getattr(model, "hf_device_map", None) or {}).values()}
    if len(devices) > 1:
        raise ValueError(f"model is spread over {sorted(devices)} by device_map: only a model on one device is supported")
    if getattr(model.generation_config, "prefill_chunk_size", None):
        raise ValueError("model.generation_config.prefill_chunk_size cuts the prompt: set it to None, a video must be read at once")
    first, (depth, whole) = config.score_layer, _attending_to_all(decoder)
    if not config.prune_ratio:
        return []
    if first >= depth:
        raise ValueError(f"score_layer={first} must be below the model's {depth} decoder layers")
    if first - 1 not in whole:
        allowed = ", ".join(str(number + 1) for number in whole if number + 1 < depth)
        raise ValueError(
            f"score_layer={first}: layer {first - 1}, whose attention would be the score, sees only a window of the prompt in this "
            f"model. Choose score_layer from {allowed}"
        )
    pruned = [number for number in whole if number >= first]
    method = method_of(config.method)
    fed = getattr(adapter_for(model), "layers_fed", lambda config: 0)(model.config)
    if method.in_prefill and (len(pruned) < depth - first or first < fed):
        why = (
            f"the first {fed} layers get visual tokens of their own"
            if first < fed
            else "layers with a sliding window are not pruned"
        )
        raise ValueError(
            f"method={config.method!r} drops tokens inside the prefill, which this model cannot do at score_layer={first}: {why}. "
            "method='last_query' makes the same choice after the prefill"
        )
    return pruned


def _check_cache(cache: Cache) -> None:
    if not isinstance(cache, DynamicCache) or cache.offloading:
        kind = "an offloading DynamicCache" if isinstance(cache, DynamicCache) else f"a {type(cache).__name__}"
        raise ValueError(f"{CACHE} is {kind}: DyCoke needs a DynamicCache on the model's device, which is the default")
    if cache.get_seq_length():
        raise ValueError(f"{CACHE} already holds tokens: a new video must start on an empty cache")
