"""Decoding steps of static shapes, which a GPU can replay as one CUDA graph: no kernel waits for Python.

Stock transformers wants a static cache for that; layers that are written in place can do it, too. Each step
writes its keys and values at a column that a tensor names, and a mask hides the room that is not in use yet.
With a mask SDPA takes another kernel than without: compare static steps with static ones.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from dycoke_lab.models import decoder_of
from dycoke_lab.runtime.attention_hooks import Call, count_hooked, hooked, self_attentions
from dycoke_lab.runtime.cache_layers import InPlaceLayer
from dycoke_lab.runtime.compat import CACHE
from dycoke_lab.runtime.compressed_cache import write_in_place
from dycoke_lab.runtime.generation import Generation
from dycoke_lab.runtime.selection import Selection
from dycoke_lab.runtime.session import active_session, generation_of

RECORDED_AFTER = 3  # steps before a graph is recorded, in which libraries allocate what they need


class StaticSteps:
    """`with StaticSteps(model, cache, position, count) as step: logits = step(token)`, a cache's next
    decoding steps.

    On a stock cache, or inside a compression's context on a cache of it, after one decoding step at least.
    position: (batch, 1), position ids of the next token, as without compression. count: how many steps there
    will be at most. On a CPU the same steps run without a graph.

    Raises ValueError for what has no static shape: padded batches, selectors that keep different numbers or
    choose for each layer or head, offloaded tokens; and for kernels other than SDPA.
    """

    def __init__(self, model: Any, cache: Cache, position: Int[Tensor, "batch 1"], count: int) -> None:
        self.model, self.cache, self.count, self.done = model, cache, count, 0
        self.decoder, self.generation = decoder_of(model), generation_of(model, cache)
        _check(model, self.decoder, cache, self.generation)
        self.position = position.clone()
        if self.generation and self.generation.positions and self.generation.positions.shift is not None:
            self.position = self.position + self.generation.positions.shift
        self.token = torch.zeros(len(position), 1, dtype=torch.long, device=position.device)
        self.selections = [_Carried(s) for s in _selections(self.generation) if not s.finished]
        self.stock = write_in_place(cache)
        layers: list[Any] = cache.layers  # type: ignore[assignment]
        self.ends = {
            used: torch.tensor([used], device=position.device) for used in {layer.used for layer in layers}
        }
        self.layers = [_StaticLayer(layer, self.ends[layer.used], count) for layer in layers]
        kinds = [(layer.first, layer.used) for layer in layers]
        self.masks = {kind: self._visible(*kind) for kind in kinds}
        self.mask_of = [self.masks[kind] for kind in kinds]
        self.graph: torch.cuda.CUDAGraph | None = None

    def _visible(self, first: int, used: int) -> Tensor:
        end = self.ends[used]
        return (torch.arange(first, used + self.count, device=end.device) <= end)[None, None, None]

    def __enter__(self) -> StaticSteps:
        with ExitStack() as stack:
            for layer in self.layers:
                layer.begin()
                stack.callback(layer.end)
            for selection in self.selections:
                selection.begin()
            masks = dict.fromkeys(range(len(self.layers)), self._mask)
            stack.enter_context(hooked(self.decoder, self_attentions(self.decoder), masks=masks))
            self.hooks = count_hooked(self.decoder)
            if self.generation:
                self.generation.decoding = True
                self.generation.decode = _unchanged  # type: ignore[method-assign,assignment]
                stack.callback(vars(self.generation).pop, "decode")
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *_: Any) -> None:
        for layer in self.layers:
            layer.done = self.done
        self.stack.close()
        self.graph, self.count = None, self.done  # its memory is no longer the cache's
        for number in self.stock:
            self.cache.layers[number] = self.layers[number].layer.stock()

    def _mask(self, call: Call) -> Tensor:
        return self.mask_of[call.layer]

    def __call__(self, token: Int[Tensor, "batch 1"]) -> Float[Tensor, "batch 1 vocabulary"]:
        """Return the logits of the next token, in memory that the next step overwrites."""
        if self.done == self.count:
            raise ValueError(f"count={self.count} steps are done: make another StaticSteps for more")
        if count_hooked(self.decoder) > self.hooks:
            raise ValueError(
                "capture_attention cannot observe StaticSteps: leave those first, or capture ordinary steps"
            )
        self.token.copy_(token)
        if not self.token.is_cuda or self.done < RECORDED_AFTER:
            self.logits = self._step()
        else:
            with torch.cuda.device(self.token.device):
                if self.graph is None:
                    self.graph = torch.cuda.CUDAGraph()
                    with torch.cuda.graph(self.graph):  # records, and runs nothing
                        self.logits = self._step()
                self.graph.replay()
        self.done += 1
        return self.logits

    def _step(self) -> Tensor:
        before = [selection.tensors() for selection in self.selections]
        embeds = self.model.get_input_embeddings()(self.token)
        inputs = {
            "inputs_embeds": embeds,
            "position_ids": self.position,
            "use_cache": True,
            CACHE: self.cache,
        }
        logits: Tensor = self.model.get_output_embeddings()(self.decoder(**inputs).last_hidden_state)
        for selection, tensors in zip(self.selections, before, strict=True):
            selection.write_into(tensors)
        self.position += 1
        for end in self.ends.values():
            end += 1
        for kind, mask in self.masks.items():
            mask.copy_(self._visible(*kind))
        return logits


class _StaticLayer:
    """A cache layer whose `keys` and `values` keep their place and size for `count` steps.

    They present the room for these steps, too, and each step writes into the column that `column` names.
    """

    def __init__(self, layer: InPlaceLayer, column: Int[Tensor, " one"], count: int) -> None:
        self.layer, self.column, self.count, self.done = layer, column, count, 0

    def begin(self) -> None:
        layer = self.layer
        layer._check()
        if layer.used + self.count > layer.buffer.shape[2]:
            layer._make_room(layer.buffer[:, :, : layer.used], self.count)
        layer.buffer[:, :, layer.used :] = 0  # what a mask hides must still be a number
        layer.keys, layer.values = layer.buffer[:, :, layer.first : layer.used + self.count].chunk(2)
        layer.shown = layer.keys
        layer.update = self.update  # type: ignore[method-assign]

    def end(self) -> None:
        """Go on as an ordinary layer, after `done` steps."""
        del self.layer.update
        self.layer.used += self.done
        self.layer._show()

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.layer.buffer.index_copy_(2, self.column, torch.cat([key_states, value_states]))
        return self.layer.keys, self.layer.values  # type: ignore[return-value]


class _Carried:
    """What a selection leaves for the next step, kept in the same memory: a replay reads and writes there
    each time.
    """

    NAMES = ("scores", "selected", "order")

    def __init__(self, selection: Selection) -> None:
        self.selection = selection

    def begin(self) -> None:
        """Take memory of its own: parts of the state may share some."""
        self._set({name: value.clone() for name, value in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        selection, found = self.selection, {}
        for name in self.NAMES:
            found[name] = getattr(selection, name)
        assert selection.active is not None
        found["active"] = selection.active[0]
        memory = {f"memory {name}": value for name, value in selection.memory.items()}
        return found | {name: value for name, value in memory.items() if isinstance(value, Tensor)}

    def write_into(self, tensors: dict[str, Tensor]) -> None:
        """Copy the state into these tensors, and go on with them."""
        self._set({name: tensors[name].copy_(value) for name, value in self.tensors().items()})

    def _set(self, tensors: dict[str, Tensor]) -> None:
        for name, value in tensors.items():
            if name == "active":
                self.selection.active = value, None
            elif name in self.NAMES:
                setattr(self.selection, name, value)
            else:
                self.selection.memory[name.removeprefix("memory ")] = value


def _unchanged(inputs: dict[str, Any], *_: Any) -> dict[str, Any]:
    """Stand for `Generation.decode`: static steps give position ids and masks themselves."""
    return inputs


def _selections(generation: Generation | None) -> list[Selection]:
    return generation.selections if generation else []


def _check(model: Any, decoder: Any, cache: Cache, generation: Generation | None) -> None:
    if (kernel := decoder.config._attn_implementation) != "sdpa":
        raise ValueError(
            f"attention kernel {kernel!r}: static steps hide unused room by a mask, and support only 'sdpa'"
        )
    session = active_session(model)
    if count_hooked(decoder) > bool(session and session.hooks_attention):
        raise ValueError(
            "capture_attention observes this model, which cannot tell static steps' room from tokens"
        )
    for number, layer in enumerate(cache.layers):
        if type(layer) is not DynamicLayer and not isinstance(layer, InPlaceLayer):
            raise ValueError(
                f"layer {number} of the cache is a {type(layer).__name__}, which cannot keep its size"
            )
    if generation is None:
        return
    stages = [generation.columns_at(number) for number in range(len(cache.layers))]
    if generation.gaps or any(columns.real is not None for columns in stages):
        raise ValueError(
            "the batch has padding, so that steps have no static shape: group prompts of one length"
        )
    for selection in generation.selections:
        selector = selection.selector
        if selector.scope != "shared":
            raise ValueError(
                f"{selector!r} chooses for each {selector.scope}: static steps need one shared choice"
            )
        if selection.active is None:
            raise ValueError("nothing has been selected yet: run a decoding step first")
        steady = selection.finished or (selector.fixed_budget and not selector.answer_counts)
        if selection.active[1] is not None or not steady:
            raise ValueError(
                f"{selector!r} keeps different numbers of tokens, so that steps have no static shape"
            )
        if selector.inactive == "offload":
            raise ValueError("inactive='offload' has the CPU read each selection: use 'device' or 'evict'")
