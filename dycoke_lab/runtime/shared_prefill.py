"""One prefill from which several generations start, each with a selector of its own.

A selector acts when the prompt has been read, so that generations that differ in nothing else can share what
is most of their cost. What a selector may look at in the prefill, the last queries of each layer, is kept;
each start gets a copy of the cache.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from dycoke_lab.methods.base import Compression, Method
from dycoke_lab.models import decoder_of
from dycoke_lab.runtime.attention_hooks import Call, hooked, self_attentions
from dycoke_lab.runtime.compat import CACHE
from dycoke_lab.runtime.generation import Generation
from dycoke_lab.runtime.session import active_session

WINDOW = 64  # last queries that are kept of each layer


class SharedPrefill:
    """A prompt, read once under `merging`. logits: (batch, vocabulary), for the first token of the answer.

    inputs: what the model is given, with a video and without padding. Raises ValueError if `merging` has more
    than a merger, and what a compression raises.
    """

    def __init__(self, model: Any, inputs: dict[str, Any], merging: Compression | None = None) -> None:
        merging = merging or Compression()
        if merging.reducer or merging.selector:
            raise ValueError(f"merging={merging!r} must have a merger only: the rest is chosen at each start")
        mask = inputs.get("attention_mask")
        if mask is not None and not bool(mask.all()):
            raise ValueError("attention_mask has padding: give prompts of one length")
        self.model, self.merging = model, merging
        self.calls: dict[int, Call] = {}
        decoder = decoder_of(model)
        modules = self_attentions(decoder)
        with (
            torch.inference_mode(),
            merging(model),
            hooked(decoder, modules, observers=dict.fromkeys(modules, self._note)),
        ):
            positions = positions_of(model, inputs)
            out = model(**inputs, position_ids=positions, use_cache=True, logits_to_keep=1)
            session = active_session(model)
            assert session is not None
            cache = getattr(out, CACHE)
            self.generation: Generation | None = session.generations.get(cache)
        if self.generation is None:
            raise ValueError(
                "inputs holds no video: make it with dycoke_lab.video.prompt, of two frames or more"
            )
        self.logits, self.last = out.logits[:, -1], positions[..., -1:]
        self.layers = list(cache.layers)  # transformers' own again, since the context has ended

    @property
    def retained(self) -> Tensor:
        """(batch, visual): the visual tokens that merging retained."""
        assert self.generation is not None
        return self.generation.retained

    def _note(self, call: Call) -> None:
        mask = call.mask if call.mask is None or call.mask.ndim == 2 else call.mask[:, :, -WINDOW:]
        self.calls[call.layer] = call._replace(query=call.query[:, :, -WINDOW:].clone(), mask=mask)

    @contextmanager
    def start(self, selector: Method | None = None) -> Iterator[DynamicCache]:
        """Yield a cache to go on with, inside a context in which its generation follows this selector."""
        part = Compression() if selector is None else Compression.of(selector)
        if part.merger or part.reducer:
            raise ValueError(f"{part!r} acts before or inside the prefill: only a selector can share one")
        if part.selector and part.selector.window > WINDOW:
            raise ValueError(
                f"window={part.selector.window} of {part!r}: a shared prefill keeps the last {WINDOW} queries"
            )
        with torch.inference_mode(), (self.merging + part)(self.model):
            session, before = active_session(self.model), self.generation
            assert session is not None and before is not None
            cache = DynamicCache()
            cache.layers = [copy.copy(layer) for layer in self.layers]  # none is written to: it is replaced
            generation = Generation(session.compression, before.layout, session.facts)
            generation.columns, generation.lacks_tokens = before.columns, before.lacks_tokens
            generation.cache = ref(cache)
            generation.positions = copy.deepcopy(before.positions)
            for call in self.calls.values():
                generation.observe(call)
            generation.finish_prefill(cache)
            session.generations[cache] = generation
            yield cache

    def step(self, cache: DynamicCache, tokens: Tensor, number: int) -> Tensor:
        """Return the logits (batch, vocabulary) after the answer's tokens (batch,) of this number, from 1 on,
        which take the place after the one before, as in `generate`."""
        given = {"input_ids": tokens[:, None], "position_ids": self.last + number, CACHE: cache}
        logits: Tensor = self.model(**given, use_cache=True).logits[:, -1]
        return logits

    def greedy(self, selector: Method | None, steps: int, observers: Any = None) -> Tensor:
        """Return the tokens that greedy decoding writes, (batch, steps), as `generate` does, but without
        stopping at an end token. observers: a context to enter meanwhile."""
        return self._decode(selector, steps, None, observers)[0]

    def forced(self, selector: Method | None, answer: Tensor, observers: Any = None) -> Tensor:
        """Return the logits before each token of a given answer, (batch, tokens, vocabulary)."""
        return self._decode(selector, answer.shape[1], answer, observers)[1]

    def _decode(
        self, selector: Method | None, steps: int, answer: Tensor | None, observers: Any
    ) -> tuple[Tensor, Tensor]:
        tokens, logits = [], [self.logits]
        with self.start(selector) as cache, observers or nullcontext():
            for step in range(steps):
                tokens.append(logits[-1].argmax(-1) if answer is None else answer[:, step])
                if step + 1 < steps:
                    logits.append(self.step(cache, tokens[-1], step + 1))
        return torch.stack(tokens, 1), torch.stack(logits, 1)


def positions_of(model: Any, inputs: dict[str, Any]) -> Tensor:
    """Return the positions that `generate` gives a prompt, (batch, tokens) or with axes before them.

    A call of the model without positions may go on elsewhere: on Qwen2.5-VL in transformers 5.23 it does so
    from the greatest position of the prompt, which is not the last one if a video's time reaches beyond the
    side of its frames.
    """
    ids = inputs["input_ids"]
    given = {"attention_mask": torch.ones_like(ids)} | inputs
    positions: Tensor = model._prepare_position_ids_for_generation(ids, given)
    return positions
