"""A Selector at work, for the layers that share its choice: scores in, moved or evicted columns of the KV
cache out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from dycoke_lab.methods.base import Selector
from dycoke_lab.methods.interface import Place, Step
from dycoke_lab.methods.scores import last_query_attention
from dycoke_lab.runtime.attention_hooks import Call
from dycoke_lab.runtime.cache_layers import PrunedLayer
from dycoke_lab.runtime.choices import check_choice
from dycoke_lab.runtime.decoder_inputs import PromptColumns, columns_of
from dycoke_lab.runtime.kv_swap import (
    Moves,
    exchange,
    exchange_on_cpu,
    reads_are_free,
    rows_to_fetch,
    rows_to_swap,
)
from dycoke_lab.runtime.looked_up import attention_over_visual, keys_of_visual
from dycoke_lab.runtime.reduction import rearranged


class Selection:
    """One choice of active tokens, and the cache layers that follow it.

    layers: their numbers. pruned: those of all pruned layers. Rows are batch elements, or with scope "head"
    their key heads, batch element by batch element.
    selected: (rows, visual), what was chosen last. order: (rows, columns), which of the prompt's columns lie
    where in the layers' buffers, the active ones last. active: (rows, width), those; and False where one only
    fills up, None: none does.
    """

    def __init__(self, selector: Selector, layers: list[int], place: Place, pruned: list[int]) -> None:
        self.selector, self.layers, self.place, self.pruned = selector, layers, place, pruned
        self.number = -1
        self.scores: Tensor | None = None
        self.selected: Tensor | None = None
        self.order: Tensor | None = None
        self.active: tuple[Tensor, Tensor | None] | None = None
        self.moves: Moves | None = None  # of the last choice, if tokens can return
        self.places: Tensor | None = None  # of the buffer, to keep, if not
        self.next: Tensor | None = None  # a choice for the next step
        self.pending = False  # whether the last choice is yet to be applied
        self.memory: dict[str, Any] = {}
        self.below: list[Tensor] = []  # the scores of the lower layers that score, of this step
        self.above: list[Tensor] = []  # what each pruned layer attended to in the prefill, if it is needed
        self.cache_layers: list[PrunedLayer] = []
        self.columns: PromptColumns | None = None

    @property
    def finished(self) -> bool:
        """Whether all has been chosen that there is to choose."""
        if self.selected is None:
            return False
        if self.selector.answer_counts and self.number + 1 < max(self.counts):
            return False
        return not self.selector.every_step or (self.selector.evicts and self.selector.fixed_budget)

    def _begin(self, columns: PromptColumns, key_heads: int) -> None:
        """Note what a selection must know of the prompt, once, so that no step has to read a number on the
        device."""
        self.columns, self.heads = columns, key_heads if self.selector.scope == "head" else 1
        rows, tokens = columns.retained.nonzero(as_tuple=True)
        # the visual token in each column, if there is one
        token = columns.column.new_zeros(len(columns.column), columns.length)
        token[rows, columns.column[rows, tokens]] = tokens
        always = torch.ones_like(token, dtype=torch.bool)  # columns that are active in any case
        always[rows, columns.column[rows, tokens]] = False
        if columns.real is not None:
            always &= columns.real
        self.token, self.always = (part.repeat_interleave(self.heads, 0) for part in (token, always))
        self.candidates = columns.retained
        if self.selector.scope == "head":
            self.candidates = columns.retained[:, None].expand(-1, self.heads, -1)
        self.budget = self.selector.budget_in(self.candidates, self.layers[0], self.pruned)
        # an element may have no video at all
        self.counts, self.others = torch.stack([self.budget.reshape(-1), self.always.sum(1)]).tolist()

    def _budget(self) -> Tensor:
        """How many to choose at this step."""
        if not self.selector.answer_counts:
            return self.budget
        return torch.minimum(self.budget, (self.budget - self.number).clamp(min=1))

    def _width(self) -> tuple[int, bool]:
        """How many columns are active at this step, at most; and whether in all rows as many."""
        less = self.number if self.selector.answer_counts else 0
        sizes = [min(n, max(1, n - less)) + m for n, m in zip(self.counts, self.others, strict=True)]
        return max(sizes), len(set(sizes)) == 1

    def observe(self, call: Call, columns: PromptColumns, decoding: bool, cache: Cache | None) -> None:
        """Have the method choose, at the scoring layer, by this step's scores. A choice that is shared is
        applied before the layers above attend, others before the next step."""
        if self.finished:
            return
        if self.columns is None:
            self._begin(columns, call.key.shape[1])
        column, there = self.where()
        attention = last_query_attention(call.query, call.key, call.mask, call.scaling)
        attention = attention.unflatten(1, (self.heads, -1)).mean(2)  # over the query heads of each
        scores = attention.gather(2, column) * there
        scores = scores if self.selector.scope == "head" else scores[:, 0]
        if self.selector.scope == "shared" and call.layer < self.selector.from_layer - 1:
            self.below.append(scores)
            return
        by_layer = None
        if self.below:
            by_layer, self.below = torch.stack([*self.below, scores], 1), []
            scores = by_layer.mean(1)
        self.number += 1
        previous, self.scores = self.scores, scores
        selected = None if self.selected is None else self.selected.view_as(self.candidates)
        above = torch.stack(self.above).mean(0) if self.above else None
        step = Step(
            self.number, call.layer, scores, previous, self.candidates, self._budget(), selected,
            self.place, self.memory, above, by_layer,
            lambda: attention_over_visual(call, self.selector.window, column, there),
            lambda: keys_of_visual(call, column, there),
            lambda: call.query[:, :, -1],
        )  # fmt: skip
        chosen = self.selector.select(step)
        if chosen is None:
            return
        if not self.selector.shipped:
            check_choice(chosen, step, self.selector)
        if self.selector.scope != "shared":
            self.next = chosen  # others may still read this call's layout
            return
        self._activate(chosen)
        if decoding and cache is not None:
            self.apply(cache)

    def look_above(self, call: Call) -> None:
        """Note what a layer that will be pruned attends to in the prefill."""
        attention = last_query_attention(call.query, call.key, call.mask, call.scaling).mean(1)
        column, there = self.where()
        self.above.append(attention.gather(1, column[:, 0]) * there[:, 0])

    def _activate(self, chosen: Tensor) -> None:
        """Work out which columns are active from now on, and what has to be moved or kept for it."""
        assert self.columns is not None
        self.selected = chosen.reshape(-1, chosen.shape[-1])
        if self.selector.evicts:
            self.candidates = chosen
        keep = self.always | self.selected.gather(1, self.token)
        real = self.columns.real
        if real is not None:
            keep = keep & real.repeat_interleave(self.heads, 0)
        if self.selector.fixed_budget:
            width, even = self._width()
        else:
            sizes = keep.sum(1).tolist()
            width, even = max(sizes), len(set(sizes)) == 1
        self.pending = True
        if self.selector.evicts:
            order = self._natural_order(keep) if self.order is None else self.order
            here = keep.gather(1, order)
            places = here.int().argsort(dim=1, descending=True, stable=True)[:, :width]
            fillers_first = here.gather(1, places) * here.shape[1] + places
            self.places = places.gather(1, fillers_first.argsort(1))
            self.order = order.gather(1, self.places)
            self.active = self.order, None if even else here.gather(1, self.places)
            return
        filled = keep if even else torch.zeros_like(keep).scatter(1, keep.int().topk(width, 1).indices, True)
        on_cpu = self.selector.inactive == "offload" or reads_are_free(keep.device)
        filled = filled.cpu() if on_cpu else filled
        order = self._natural_order(filled) if self.order is None else self.order
        self.order, self.moves = (exchange_on_cpu if on_cpu else exchange)(order, filled, width)
        numbers = self.moves.numbers.to(keep.device)
        self.active = numbers, None if even else keep.gather(1, numbers)

    def _natural_order(self, like: Tensor) -> Tensor:
        return torch.arange(like.shape[1], device=like.device).repeat(len(like), 1)

    def apply(self, cache: Cache) -> None:
        """Have the cache layers follow the last choice."""
        if self.next is not None:
            self._activate(self.next)
            self.next = None
        if not self.pending:
            return
        self.pending = False
        if not self.cache_layers:
            assert self.columns is not None
            for number in self.layers:
                old: Any = cache.layers[number]
                cache.layers[number] = PrunedLayer(old, self.columns.length, self.selector.inactive)
            self.cache_layers = [cache.layers[number] for number in self.layers]  # type: ignore[misc]
        if self.selector.evicts:
            assert self.places is not None
            for layer in self.cache_layers:
                layer.evict(self.places)  # <-- where tokens leave for good
            return
        moves = self.moves
        assert moves is not None
        offload = self.selector.inactive == "offload"
        if moves.pairs is not None:
            _, heads, columns, _ = self.cache_layers[0].buffer.shape
            if offload:
                assert self.columns is not None
                moves = rows_to_fetch(moves, heads, columns, self.columns.length)
            else:
                moves = rows_to_swap(moves, heads, columns)
        for layer in self.cache_layers:
            layer.fetch(moves) if offload else layer.swap(moves)  # <-- where tokens leave and return

    def where(self) -> tuple[Tensor, Tensor]:
        """Return for each visual token its column in the scoring layer's keys, and whether it is there:
        (batch, heads, visual)."""
        assert self.columns is not None
        if self.selector.scope == "shared" or not self.cache_layers:
            shape = (len(self.columns.column), self.heads, -1)
            return self.columns.column[:, None].expand(shape), self.columns.retained[:, None].expand(shape)
        return self.present()

    def present(self) -> tuple[Tensor, Tensor]:
        """Return the same for the pruned layers' keys."""
        assert self.columns is not None and self.active is not None and self.selected is not None
        index, real = self.active
        # fillers may stand there twice
        at = index if real is None else index.masked_fill(~real, self.columns.length)
        place = index.new_zeros(len(index), self.columns.length + 1)
        place.scatter_(1, at, torch.arange(index.shape[1], device=index.device).expand_as(index))
        column = place.gather(1, self.columns.column.repeat_interleave(self.heads, 0))
        shape = (-1, self.heads, column.shape[1])
        return column.view(shape), self.selected.view(shape)

    def crop(self, call: Call, length: int, flash: bool) -> Tensor | None:
        """Return a pruned layer's mask at a decoding step: the columns that its keys have. length: of the
        merged prompt."""
        if self.active is None or not self.cache_layers:
            return call.mask
        assert self.columns is not None
        index, real = self.active
        if real is None and call.mask is None:
            return None
        groups = call.query.shape[1] // self.heads
        later = call.key.shape[2] - index.shape[1]
        if flash:  # heads of one batch element keep as many tokens, and have their fillers first
            first = index.new_ones(len(index), index.shape[1], dtype=torch.bool) if real is None else real
            first = torch.nn.functional.pad(first[:: self.heads], (0, later), value=True)
            if call.mask is not None:
                first[:, -later:] &= call.mask[:, length : length + later].bool()
            return first
        if call.mask is None:  # rows differ in what they keep, where so far none needed a mask
            assert real is not None
            seen = torch.nn.functional.pad(real, (0, later), value=True)
            return self._by_head(seen[:, None, None], groups)
        if self.columns.index is not None:
            index = self.columns.index.repeat_interleave(self.heads, 0).gather(1, index)
        mask = call.mask.expand(len(self.columns.retained), *call.mask.shape[1:]).repeat_interleave(
            self.heads, 0
        )
        prompt = columns_of(mask[..., :length], index, real)
        rest = mask[..., length : length + later].expand(*prompt.shape[:-1], -1)
        return self._by_head(torch.cat([prompt, rest], -1), groups)

    def _by_head(self, mask: Tensor, groups: int) -> Tensor:
        """(rows, 1, queries, keys) as (batch, 1 or query heads, queries, keys)."""
        if self.heads == 1:
            return mask
        return mask[:, 0].unflatten(0, (-1, self.heads)).repeat_interleave(groups, 1)

    def rearrange(self, index: Tensor) -> None:
        """Follow an exchange of batch elements."""
        if self.columns is None:
            return
        self.columns = rearranged(self.columns, index)
        self.place = Place(*(part[index.to(part.device)] for part in self.place))
        rows = (index[:, None] * self.heads + torch.arange(self.heads, device=index.device)).flatten()
        for name in ("selected", "order", "token", "always", "places"):
            if (value := getattr(self, name)) is not None:
                setattr(self, name, value[rows.to(value.device)])
        for name in ("scores", "candidates", "budget", "next"):
            if (value := getattr(self, name)) is not None:
                setattr(self, name, value[index.to(value.device)])
        self.above = [part[index.to(part.device)] for part in self.above]
        if self.active:
            kept, real = self.active
            rows = rows.to(kept.device)
            self.active = kept[rows], None if real is None else real[rows]
        for name, value in self.memory.items():
            if isinstance(value, Tensor):
                self.memory[name] = value[index.to(value.device)]

    def release(self, cache: Cache) -> None:
        """Put stock layers back, with the inactive tokens in them."""
        for number, layer in zip(self.layers, self.cache_layers, strict=False):  # there may be none yet
            cache.layers[number] = layer.whole(None if self.selector.evicts else self.order)
