"""Decoding steps of static shapes, which a GPU can replay as one CUDA graph: no kernel waits for Python.

Stock transformers wants a static cache for that; DyCoke's layers, whose buffers have room, do as well. Each step writes its keys
and values at a column that a tensor names, and a mask hides the room that is not in use yet. With a mask SDPA takes another kernel
than without: compare static steps with static ones.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from dycoke_lab.apply import generation_of, watches
from dycoke_lab.attention import Call, watched, watching
from dycoke_lab.cache import RoomLayer
from dycoke_lab.compat import CACHE
from dycoke_lab.generation import Generation
from dycoke_lab.models import decoder_of
from dycoke_lab.whole_cache import give_room

WARM = 3  # steps before the capture, in which libraries allocate what they need
CARRIED = ("scores", "selected", "order")  # what a step of dynamic pruning leaves for the next


class StaticSteps:
    """`with StaticSteps(model, cache, position, count) as step: logits = step(word)`, a cache's next decoding steps.

    On a stock cache, or on a cache of a DyCoke context, in it, after one decoding step at least. position: (batch, 1), of the next
    word, as without DyCoke. count: how many steps there will be at most. On a CPU the same steps run without a graph. Raises
    ValueError for what has no static shape: padded batches, methods that keep different numbers, tokens that wait on the host; and
    for kernels other than SDPA.
    """

    def __init__(self, model: Any, cache: Cache, position: Int[Tensor, "batch 1"], count: int) -> None:
        self.model, self.cache, self.count, self.done = model, cache, count, 0
        self.decoder = decoder_of(model)
        self.generation = generation_of(model, cache)
        _check(model, self.decoder, self.generation)
        self.position = position.clone()
        if self.generation and self.generation.shift is not None:
            self.position = self.position + self.generation.shift
        self.word = torch.zeros(len(position), 1, dtype=torch.long, device=position.device)
        for number, layer in enumerate(cache.layers):
            if type(layer) is not DynamicLayer and not isinstance(layer, RoomLayer):
                raise ValueError(f"layer {number} of the cache is a {type(layer).__name__}, which cannot hold still")
        self.stock = give_room(cache, range(len(cache.layers)))
        self.layers: list[RoomLayer] = list(cache.layers)  # type: ignore[arg-type]
        self.ends = {used: torch.tensor([used], device=position.device) for used in {layer.used for layer in self.layers}}
        kinds = [(layer.first, layer.used) for layer in self.layers]
        self.masks = {kind: self._visible(*kind) for kind in kinds}
        self.of_layer = [self.masks[kind] for kind in kinds]
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stack = ExitStack()

    def _visible(self, first: int, used: int) -> Tensor:
        end = self.ends[used]
        return (torch.arange(first, used + self.count, device=end.device) <= end)[None, None, None]

    def __enter__(self) -> StaticSteps:
        self.stack.enter_context(watching(self.decoder, masks=dict.fromkeys(range(len(self.layers)), self.mask)))
        for layer in self.layers:
            layer.hold_still(self.ends[layer.used], self.count)
        if self.generation:
            self.generation.static = True
            for name in CARRIED:  # what was made under torch.inference_mode cannot be written to outside it
                value = getattr(self.generation, name)
                if value is not None and value.is_inference():
                    setattr(self.generation, name, value.clone())
            if self.generation.active:
                self.generation.active = self.generation.active[0].clone(), None
        return self

    def __exit__(self, *_: Any) -> None:
        self.stack.close()
        self.graph, self.count = None, self.done  # its memory is no longer the cache's
        for layer in self.layers:
            layer.go_on(self.done)
        for number in self.stock:
            self.cache.layers[number] = self.layers[number].stock()
        if self.generation:
            self.generation.static = False

    def mask(self, call: Call) -> Tensor:
        return self.of_layer[call.layer]

    def __call__(self, word: Int[Tensor, "batch 1"]) -> Float[Tensor, "batch 1 vocabulary"]:
        """The logits of the next word, in memory that the next step overwrites."""
        if self.done == self.count:
            raise ValueError(f"count={self.count} steps are done: make another StaticSteps for more")
        self.word.copy_(word)
        if not self.word.is_cuda or self.done < WARM:
            self.logits = self._step()
        else:
            with torch.cuda.device(self.word.device):
                if self.graph is None:
                    self.graph = torch.cuda.CUDAGraph()
                    with torch.cuda.graph(self.graph):  # records, and runs nothing
                        self.logits = self._step()
                self.graph.replay()
        self.done += 1
        return self.logits

    def _step(self) -> Tensor:
        generation = self.generation
        carried = generation if generation and generation.config.prune_ratio and not generation.finished else None
        before = [(name, getattr(carried, name)) for name in CARRIED] if carried else []
        index = carried.active[0] if carried else None  # type: ignore[index]
        embeds = self.model.get_input_embeddings()(self.word)
        out = self.decoder(inputs_embeds=embeds, position_ids=self.position, use_cache=True, **{CACHE: self.cache})
        logits: Tensor = self.model.get_output_embeddings()(out.last_hidden_state)
        for name, old in before:  # a replay reads and writes the same memory each time
            setattr(carried, name, old.copy_(getattr(carried, name)))
        if carried:
            carried.active = index.copy_(carried.active[0]), None  # type: ignore[index,union-attr]
        self.position += 1
        for end in self.ends.values():
            end += 1
        for kind, mask in self.masks.items():
            mask.copy_(self._visible(*kind))
        return logits


def _check(model: Any, decoder: Any, generation: Generation | None) -> None:
    if (kernel := decoder.config._attn_implementation.removeprefix("dycoke_lab_")) != "sdpa":
        raise ValueError(
            f"attention kernel {kernel!r}: static steps hide unused room by a mask, for which only 'sdpa' is supported"
        )
    if watched(decoder) > watches(model):
        raise ValueError("someone looks on at the attention (capture_attention), which static steps cannot tell what is in use")
    if generation is None:
        return
    if generation.real is not None or generation.gaps:
        raise ValueError("the batch has padding, so that steps have no static shape: group prompts of one length")
    if not generation.config.prune_ratio:
        return
    if not (generation.method.exact and generation.even) or (generation.active and generation.active[1] is not None):
        raise ValueError("samples keep different numbers of visual tokens, so that steps have no static shape")
    if generation.config.waiting == "host":
        raise ValueError("waiting='host' has the CPU look at each selection: use 'device' or 'nowhere'")
    if generation.selected is None:
        raise ValueError("nothing has been selected yet: run a decoding step first")
