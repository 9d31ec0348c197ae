"""DyCoke on a stock model: `with DyCoke(config)(model): model.generate(...)`.

The wiring is thin. A hook at the language model's boundary drops merged tokens from the prompt; a watcher
on the attention of layer L - 1 asks the method what to keep; the cache layers from L on hand out only that.
All of it hangs on the model's modules for the length of the context, and on the cache of each generation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from transformers.cache_utils import Cache, DynamicCache

from dycoke_lab.attention import Call, watching
from dycoke_lab.config import DyCokeConfig
from dycoke_lab.generation import Generation
from dycoke_lab.layout import VisualLayout
from dycoke_lab.models import adapter_for

_ACTIVE: WeakKeyDictionary[nn.Module, _Session] = WeakKeyDictionary()


class DyCoke:
    """Token compression to switch on for a while. `DyCoke(DyCokeConfig(...))` or `DyCoke(merge_ratio=0.5, ...)`."""

    def __init__(self, config: DyCokeConfig | None = None, **settings: Any) -> None:
        if config is not None and settings:
            raise ValueError(f"give either config={config} or settings {sorted(settings)}, not both")
        self.config = config or DyCokeConfig(**settings)

    @contextmanager
    def __call__(self, model: Any) -> Iterator[Any]:
        """Compress every generation of `model` inside this context; afterwards the model is as before.

        Raises TypeError for a model of an unsupported family, ValueError for settings the model cannot have.
        Caches made inside keep what merging and eviction left; waiting tokens are put back when it ends.
        """
        decoder = adapter_for(model).language_model(model)
        if model in _ACTIVE:
            raise RuntimeError("this model is inside a DyCoke context already: leave that one first")
        depth = len(decoder.layers)
        if self.config.prune_ratio and self.config.score_layer >= depth:
            raise ValueError(f"score_layer={self.config.score_layer} must be below the model's {depth} decoder layers")
        session = _Session(self.config, model)
        with ExitStack() as stack:
            _ACTIVE[model] = session
            stack.callback(_ACTIVE.pop, model)
            stack.callback(session.restore)
            hooks = [
                model.model.register_forward_pre_hook(session.find_video, with_kwargs=True),
                decoder.register_forward_pre_hook(session.before, with_kwargs=True),
                decoder.register_forward_hook(session.after, with_kwargs=True),
            ]
            if self.config.prune_ratio:
                hooks += [
                    layer.register_forward_pre_hook(session.inside, with_kwargs=True)
                    for layer in decoder.layers[self.config.score_layer :]
                ]
                stack.enter_context(watching(decoder, session))
            for hook in hooks:
                stack.callback(hook.remove)
            yield model


def current_generation(model: nn.Module) -> Generation | None:
    """The compressed generation whose forward pass runs now, for those who look on; None without DyCoke."""
    session = _ACTIVE.get(model)
    return session.now if session else None


def generation_of(model: nn.Module, cache: Cache) -> Generation | None:
    """The compressed generation that this cache belongs to, inside the DyCoke context that made it; None if there is none."""
    session = _ACTIVE.get(model)
    return session.generations.get(cache) if session else None


class _Session:
    """Routes hook calls to the generation they belong to, which is known by its cache."""

    def __init__(self, config: DyCokeConfig, model: Any) -> None:
        self.config, self.model = config, model
        self.found: VisualLayout | None = None
        self.now: Generation | None = None
        self.generations: WeakKeyDictionary[Cache, Generation] = WeakKeyDictionary()

    def find_video(self, module: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        self.found = adapter_for(self.model).find_visual_tokens(self.model, inputs)

    def before(self, module: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        cache: Cache | None = inputs.get("past_key_values")
        layout, self.found = self.found, None
        if layout is None:
            self.now = self.generations.get(cache) if cache is not None else None
            return args, self.now.decode(inputs) if self.now else inputs
        if self.config.prune_ratio:
            cache = _check_cache(cache, inputs)
        self.now = Generation(self.config, layout)
        if cache is not None:
            self.generations[cache] = self.now
        return args, self.now.prefill(inputs)

    def inside(self, module: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        return self.now.shorten(args, inputs) if self.now else None

    def after(self, module: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any], output: Any) -> None:
        if self.now and inputs.get("past_key_values") is not None:
            self.now.finish_step(inputs["past_key_values"])
        self.now = None

    def mask(self, call: Call) -> Any:
        return self.now.mask(call) if self.now else call.mask

    def see(self, call: Call) -> None:
        if self.now:
            self.now.see(call)

    def restore(self) -> None:
        for cache, generation in self.generations.items():
            generation.release(cache)


def _check_cache(cache: Cache | None, inputs: dict[str, Any]) -> Cache:
    if cache is None:
        raise ValueError("prune_ratio > 0 prunes a KV cache: call with use_cache=True (or generate), or set prune_ratio=0")
    if not isinstance(cache, DynamicCache):
        raise ValueError(f"past_key_values is a {type(cache).__name__}: prune_ratio > 0 needs a DynamicCache, the default")
    if cache.get_seq_length():
        raise ValueError("past_key_values already holds tokens: a new video must start on an empty cache")
    return cache
