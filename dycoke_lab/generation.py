"""One generation under DyCoke: what was merged, what waits, what this step attends to. Its state is all here."""

from __future__ import annotations

from typing import Any
from weakref import ref

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from dycoke_lab import prune, whole_cache
from dycoke_lab.attention import Call
from dycoke_lab.cache import WaitingLayer
from dycoke_lab.compat import cache_in
from dycoke_lab.config import DyCokeConfig
from dycoke_lab.fetch import Moves, exchange, exchange_at_hand, rows_to_fetch, rows_to_swap
from dycoke_lab.layout import VisualLayout, left_packed, take
from dycoke_lab.methods import BUILT_IN, Method, Step, check_choice, method_of
from dycoke_lab.prompt import causal, columns_of, moved_by, without_merged
from dycoke_lab.prune import keep_counts, last_query_attention


class Generation:
    """State of one prefill and the steps after it.

    pruned: the numbers of the layers that attend to a selection. window: columns that layers with a sliding window see.
    extras: an adapter's `shorten`, if it has one. flash: whether the attention kernel's masks are (batch, keys).
    available: (batch, visual), the tokens that merging left. columns: (batch, visual), the prompt column of
    each of them after merging. selected: (batch, visual), what pruned layers attend to; None: all available.
    """

    def __init__(self, config: DyCokeConfig, layout: VisualLayout, pruned: list[int], window: int = 0, extras: Any = None,
                 flash: bool = False) -> None:  # fmt: skip
        self.config, self.layout, self.pruned, self.window = config, layout, pruned, window
        self.extras, self.flash = extras, flash
        self.method: Method = method_of(config.method)
        self.merged, self.compresses = config.merges, config.compresses
        self.available = layout.real
        self.columns = layout.columns
        self.length = layout.length  # columns of the prompt after merging
        self.real: Tensor | None = None  # (batch, length), False where a column is padding; None: none is
        self.last: Tensor | None = None  # (..., batch, 1), the position of the prompt's last token, or of a later picture's
        self.shift: Tensor | None = None  # the same size: by how much later positions differ from the whole prompt's
        self.seen = layout.length  # columns so far, of the whole prompt and what came after
        self.known = layout.length  # the column after that of `last`
        self.number = -1
        self.scores: Tensor | None = None
        self.selected: Tensor | None = None
        self.active: tuple[Tensor, Tensor | None] | None = None  # prompt columns that pruned layers attend to
        self.layers: list[WaitingLayer] = []
        self.moves: Moves | None = None  # the last ones
        self.order: Tensor | None = None  # in which the prompt's columns lie in those layers' buffers, those attended to last
        self.decoding = False
        self.gaps = False  # whether a later turn brought padding
        self.static = False  # whether steps have static shapes, and positions are given
        self.cache: ref[Cache] | None = None

    def prefill(self, inputs: dict[str, Any], padding: Tensor | None) -> dict[str, Any]:
        """The language model's inputs without the merged tokens. padding: the call's (batch, length) mask."""
        if not self.compresses:
            return inputs
        if isinstance(padding, dict) or (padding is not None and padding.ndim != 2):
            raise ValueError(
                "attention_mask is not the usual (batch, length): masks of one's own, and static caches, are not supported"
            )
        self.real = None if padding is None or bool(padding.all()) else padding.bool()
        self.cache = None if (cache := cache_in(inputs)) is None else ref(cache)
        if self.merged:
            short = without_merged(self.config, self.layout, inputs, self.real, self.window, self.extras)
            self.available, self.columns, self.real, self.length = short.available, short.columns, short.real, short.length
            inputs, self.last = short.inputs, short.inputs["position_ids"][..., -1:]
            self.shift = self.last - short.last if self.config.positions == "repacked" else None
        if self.config.prune_ratio:
            self._prepare_to_prune()
        return inputs

    def decode(self, inputs: dict[str, Any], padding: Tensor | None, brings: bool = False) -> dict[str, Any]:
        """The language model's inputs at a later step, on the cache that the prefill left. brings: whether with a picture."""
        self.decoding = True
        embeds = inputs["inputs_embeds"]
        count = embeds.shape[1]
        cache: Any = cache_in(inputs)
        start = cache.get_seq_length()  # merged tokens count; an assistant's rejected ones are gone
        self.seen = start + count
        if self.static or not self.compresses:
            return inputs
        if padding is not None and padding.shape[1] != self.seen:
            raise ValueError(
                f"attention_mask is {padding.shape[1]} long, but {self.seen} tokens have been read with this cache (merged ones "
                "count): give a mask for all of them, or none"
            )
        new = slice(self.layout.length, None)
        if padding is not None and (count > 1 or prune.free_to_look(padding.device)):
            self.gaps = not bool(padding[:, new].all())
        if self.gaps and padding is None:
            raise ValueError("an earlier attention_mask had padding after the prompt: go on giving it")
        mask = None  # as long as nothing is padding; stock would look for padding at each step, and have a GPU wait for it
        if self.real is not None or self.gaps:
            shape = len(embeds), self.seen - self.layout.length
            later = torch.ones(shape, device=embeds.device, dtype=torch.long) if padding is None else padding[:, new].long()
            prompt = later.new_ones(len(later), self.length) if self.real is None else self.real.long()
            mask = torch.cat([prompt, later], 1)
        changes: dict[str, Any] = {"attention_mask": mask}
        given = inputs.get("position_ids")  # in the whole prompt's count
        # several for each token are made from what the model remembers of the prompt before, unless there is a picture
        if given is not None and (given.ndim == 2 or brings):
            changes["position_ids"] = given if self.shift is None else moved_by(given, self.shift)
            if self.merged and brings:  # whose columns are more than their positions
                self.last, self.known = changes["position_ids"][..., -1:], self.seen
        elif self.merged:
            after = torch.arange(1 + start - self.known, 1 + self.seen - self.known, device=embeds.device)
            if self.gaps:  # padding takes no position
                after = padding[:, self.known :].cumsum(1)[:, -count:].clamp(min=1)  # type: ignore[index]
            changes["position_ids"] = self.last + after  # type: ignore[operator]
        return {**inputs, **changes}

    def _prepare_to_prune(self) -> None:
        """What a selection needs to know of the prompt, once, so that no step has to look at a number on the device."""
        rows, tokens = self.available.nonzero(as_tuple=True)
        self.token = self.columns.new_zeros(len(self.columns), self.length)  # in each of the prompt's columns, if there is one
        self.token[rows, self.columns[rows, tokens]] = tokens
        self.always = torch.ones_like(self.token, dtype=torch.bool)  # columns to attend to in any case
        self.always[rows, self.columns[rows, tokens]] = False
        if self.real is not None:
            self.always &= self.real
        self.counts = keep_counts(self.available, self.config.prune_ratio)
        sizes = (self.counts + self.always.sum(1)).tolist()  # a sample may have no video at all
        self.width, self.even = max(sizes), len(set(sizes)) == 1
        self.looks = prune.free_to_look(self.columns.device)

    def see(self, call: Call) -> None:
        """At layer L - 1: take this step's scores and let the method select."""
        if self.finished:
            return
        attention = last_query_attention(call.query, call.key, call.mask, call.scaling).mean(1)
        scores = attention.gather(1, self.columns) * self.available
        self.number += 1
        before, self.scores = self.scores, scores
        step = Step(self.number, scores, before, self.available, self.counts, self.selected, self.config.gate)
        chosen = self.method.select(step)
        if chosen is None:
            return
        if type(self.method) not in BUILT_IN:
            check_choice(chosen, step, self.method)
        self.selected = chosen
        if self.method.in_prefill:
            whole = chosen.new_ones(len(chosen), self.length)
            keep = whole if self.real is None else self.real.clone()
            rows, gone = (self.available & ~chosen).nonzero(as_tuple=True)
            keep[rows, self.columns[rows, gone]] = False
            self.active = left_packed(keep)  # in the prompt's order, since it is yet to be read
            return
        keep = self.always | chosen.gather(1, self.token)
        if self.real is not None:
            keep = keep & self.real
        width, even = self.width, self.even
        if not self.method.exact:
            sizes = keep.sum(1).tolist()
            width, even = max(sizes), len(set(sizes)) == 1
        filled = keep if even else torch.zeros_like(keep).scatter(1, keep.int().topk(width, 1).indices, True)
        at_hand = self.config.waiting == "host" or self.looks
        filled = filled.cpu() if at_hand else filled
        if self.order is None:
            self.order = torch.arange(self.length, device=filled.device).repeat(len(keep), 1)
        self.order, self.moves = (exchange_at_hand if at_hand else exchange)(self.order, filled, width)
        index = self.moves.numbers.to(keep.device)
        self.active = index, None if even else keep.gather(1, index)
        cache = None if self.cache is None else self.cache()
        if self.decoding and not self.layers and cache is not None:
            self._hold(cache)
        self._select()

    @property
    def evicts(self) -> bool:
        return not self.method.returns or self.config.waiting == "nowhere"

    @property
    def finished(self) -> bool:
        """Whether all has been chosen that there is to choose."""
        return self.evicts and self.selected is not None

    def _select(self) -> None:
        """Have pruned layers attend to what was chosen last."""
        if not self.layers:
            return
        moves: Any = self.moves
        if moves.pairs is not None:
            _, heads, columns, _ = self.layers[0].buffer.shape
            on_host = self.config.waiting == "host"
            moves = rows_to_fetch(moves, heads, columns, self.length) if on_host else rows_to_swap(moves, heads, columns)
        evict = self.evicts
        for layer in self.layers:
            layer.select(moves, evict)

    def _hold(self, cache: Cache) -> None:
        """Give pruned layers the power to hold tokens back."""
        for number in self.pruned:
            old: Any = cache.layers[number]
            cache.layers[number] = WaitingLayer(old, self.length, self.config.waiting)
        self.layers = [cache.layers[number] for number in self.pruned]  # type: ignore[misc]
        whole_cache.refuse_going_back(cache, self.layers[0])

    def finish_step(self, cache: Cache) -> None:
        """After the prefill: have the cache tell the whole prompt's length, pruned layers hold tokens back, and the others write in
        place."""
        if self.decoding or self.layers or not self.compresses:
            return
        whole_cache.refuse_copies(cache)
        whole_cache.tell_of_rearranging(cache, self.rearrange, len(self.available))
        if self.length != self.layout.length:
            whole_cache.report_whole_length(cache, self.layout.length - self.length)
        hold = [] if self.method.in_prefill else self.pruned
        whole_cache.give_room(cache, (number for number in range(len(cache.layers)) if number not in hold))
        if self.active and not self.method.in_prefill:
            self._hold(cache)
            self._select()

    def rearrange(self, index: Tensor) -> None:
        """The batch's samples from now on, as numbers of those so far (beams)."""
        for name in (
            "available", "columns", "real", "scores", "selected", "order", "token", "always", "counts"
        ):  # fmt: skip
            if (value := getattr(self, name, None)) is not None:
                setattr(self, name, value[index.to(value.device)])
        index = index.to(self.columns.device)
        for name in ("last", "shift"):
            if (value := getattr(self, name)) is not None:
                setattr(self, name, value.index_select(-2, index))
        if self.active:
            kept, real = self.active
            self.active = kept[index], None if real is None else real[index]

    def release(self, cache: Cache) -> None:
        """Leave a stock cache behind, with the waiting tokens back in it; closed, if there are tokens it has lost."""
        for number, layer in enumerate(cache.layers):
            if isinstance(layer, WaitingLayer):
                cache.layers[number] = layer.whole(self.active[0] if layer.evicted else self.order)  # type: ignore[index,arg-type]
        whole_cache.take_room(cache)
        whole_cache.allow_going_back(cache)
        whole_cache.tell_of_rearranging_no_more(cache)
        evicted = self.config.prune_ratio and self.active and self.evicts
        if evicted or self.length != self.layout.length:
            whole_cache.close(cache)
        else:
            whole_cache.allow_copies(cache)

    def shorten(self, args: tuple[Any, ...], inputs: dict[str, Any], first: bool) -> tuple[Any, dict[str, Any]] | None:
        """A decoder layer's inputs in the prefill, without the tokens a method drops there already (FastV). first: whether it is
        the first layer that gets fewer."""
        if not (self.method.in_prefill and not self.decoding and self.active):
            return None
        index, real = self.active
        hidden = args[0] if args else inputs["hidden_states"]
        if first:
            hidden = take(hidden, index)
        changes: dict[str, Any] = {}
        changes["position_embeddings"] = tuple(take(part, index) for part in inputs["position_embeddings"])
        if inputs.get("position_ids") is not None:
            changes["position_ids"] = take(inputs["position_ids"][..., None], index)[..., 0]
        mask = inputs.get("attention_mask")
        if mask is not None:
            changes["attention_mask"] = columns_of(mask, index, real, index)
        elif real is not None:  # samples differ in what they keep, where so far none needed a mask
            changes["attention_mask"] = real if self.flash else causal(real)
        return (hidden, *args[1:]), {**inputs, **changes}

    def crop(self, call: Call) -> Tensor | None:
        """The columns of a layer's mask that its shortened cache still has."""
        if self.active is None or not self.decoding:
            return call.mask
        index, real = self.active
        if real is None and call.mask is None:
            return None
        later = call.key.shape[2] - index.shape[1]
        if call.mask is None:  # samples differ in what they keep, where so far none needed a mask
            assert real is not None
            seen = torch.nn.functional.pad(real, (0, later), value=True)
            return seen if self.flash else seen[:, None, None]
        prompt = columns_of(call.mask[..., : self.length], index, real)
        rest = call.mask[..., self.length : self.length + later].expand(*prompt.shape[:-1], -1)
        return torch.cat([prompt, rest], -1)

    def shortened(self, call: Call) -> bool:
        """Whether this call's keys are those of `active` and what came after the prompt, not of the whole prompt."""
        return self.active is not None and call.layer in self.pruned and (self.decoding or self.method.in_prefill)

    def where(self, call: Call) -> tuple[Tensor, Tensor, int]:
        """For each visual token its column among the columns of this call, and whether it is there: (batch, visual); how many
        columns there are."""
        later = self.seen - self.layout.length
        if not self.shortened(call):
            return self.columns, self.available, self.length + later
        index, real = self.active  # type: ignore[misc]
        at = index if real is None else index.masked_fill(~real, self.length)  # what only fills up may stand there twice
        place = index.new_zeros(len(index), self.length + 1)
        place.scatter_(1, at, torch.arange(index.shape[1], device=index.device).expand_as(index))
        return place.gather(1, self.columns), self.selected, index.shape[1] + later  # type: ignore[return-value]
