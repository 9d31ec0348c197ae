"""One generation under DyCoke: what was merged, what waits, what this step attends to. Its state is all here."""

from __future__ import annotations

from typing import Any
from weakref import WeakMethod, ref

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from dycoke_lab.attention import Call
from dycoke_lab.cache import WaitingLayer, close, report_whole_length
from dycoke_lab.config import DyCokeConfig
from dycoke_lab.layout import VisualLayout, left_packed, take
from dycoke_lab.merge import average_into, keep_mask, merged_into
from dycoke_lab.methods import METHODS, Method, Step
from dycoke_lab.prune import keep_counts, last_query_attention


class Generation:
    """State of one prefill and the steps after it.

    pruned: the numbers of the layers that attend to a selection. window: columns that layers with a sliding window see.
    extras: an adapter's `shorten`, if it has one.
    available: (batch, visual), the tokens that merging left. columns: (batch, visual), the prompt column of
    each of them after merging. selected: (batch, visual), what pruned layers attend to; None: all available.
    """

    def __init__(self, config: DyCokeConfig, layout: VisualLayout, pruned: list[int], window: int = 0, extras: Any = None) -> None:
        self.config, self.layout, self.pruned, self.window, self.extras = config, layout, pruned, window, extras
        self.method: Method = METHODS[config.method]() if isinstance(config.method, str) else config.method
        self.available = layout.real
        self.columns = layout.columns
        self.length = layout.length  # columns of the prompt after merging
        self.real: Tensor | None = None  # (batch, length), False where a column is padding; None: none is
        self.last: Tensor | None = None  # (..., batch, 1), the position of the prompt's last token, after merging
        self.seen = layout.length  # columns so far, of the whole prompt and what came after
        self.number = -1
        self.scores: Tensor | None = None
        self.selected: Tensor | None = None
        self.active: tuple[Tensor, Tensor | None] | None = None  # prompt columns that pruned layers attend to
        self.layers: list[WaitingLayer] = []
        self.slots: Tensor | None = None  # the selection in the order in which it lies in those layers' buffers
        self.decoding = False
        self.gaps = False  # whether a later turn brought padding
        self.cache: ref[Cache] | None = None

    @property
    def merged(self) -> bool:
        return self.config.merge_ratio != 0 or self.config.merge_threshold is not None

    def prefill(self, inputs: dict[str, Any], padding: Tensor | None) -> dict[str, Any]:
        """The language model's inputs without the merged tokens. padding: the call's (batch, length) mask."""
        if isinstance(padding, dict) or (padding is not None and padding.ndim != 2):
            raise ValueError(
                "attention_mask is not the usual (batch, length): masks of one's own, and static caches, are not supported"
            )
        self.real = None if padding is None or bool(padding.all()) else padding.bool()
        self.cache = None if inputs.get("past_key_values") is None else ref(inputs["past_key_values"])
        if self.merged:
            inputs = self._without_merged(inputs)
        if self.config.prune_ratio:
            self._prepare_to_prune()
        return inputs

    def _without_merged(self, inputs: dict[str, Any]) -> dict[str, Any]:
        embeds, layout = inputs["inputs_embeds"], self.layout
        batch, length, _ = embeds.shape
        folds = self._merge(embeds)
        columns = torch.ones(batch, length, dtype=torch.bool, device=embeds.device) if self.real is None else self.real.clone()
        rows, gone = (layout.real & ~self.available).nonzero(as_tuple=True)
        columns[rows, layout.columns[rows, gone]] = False  # padding goes too; left_packed adds what it needs
        index, self.real = left_packed(columns)
        self.length = index.shape[1]
        place = columns.cumsum(1) - 1 + self.length - columns.sum(1, keepdim=True)
        self.columns = place.gather(1, layout.columns).clamp(min=0)

        def without_merged(states: Tensor) -> Tensor:
            if self.config.merge == "average" and states.is_floating_point():
                states = states.clone()
                for where, into in folds:
                    states[where] = average_into(states[where], into)
            return take(states, index)

        return {
            **inputs,
            "inputs_embeds": without_merged(embeds),
            "position_ids": self._positions(inputs.get("position_ids"), index, length),
            "attention_mask": self._mask_of_the_rest(inputs.get("attention_mask"), index),
            **(self.extras(inputs, without_merged, self.real) if self.extras else {}),
        }

    def _merge(self, embeds: Tensor) -> list[tuple[tuple[Tensor, Tensor], Tensor]]:
        """Choose what remains of each video; for each group of videos where their tokens are, and what they merge into."""
        self.available = self.layout.real.clone()
        folds = []
        for grid, samples, numbers in self.layout.alike():
            rows = samples[:, None]
            where = rows, self.layout.columns[rows, numbers]
            features = embeds[where].unflatten(1, (grid.frames, grid.per_frame))
            keep, _ = keep_mask(features, self.config.merge_ratio, self.config.window, self.config.merge_threshold)
            self.available[rows, numbers] = keep.flatten(1)
            folds.append((where, merged_into(keep, self.config.window)))
        return folds

    def _positions(self, positions: Tensor | None, index: Tensor, length: int) -> Tensor:
        """(..., batch, kept), the position of each column that remains; (..., batch, length) or none given for the prompt."""
        if positions is None:
            positions = torch.arange(length, device=index.device)[None]
        kept = take(positions[..., None], index)[..., 0]
        if self.config.positions == "repacked":
            rank = torch.arange(self.length, device=index.device)[None] if self.real is None else self.real.cumsum(1) - 1
            kept = rank.clamp(min=0).expand_as(kept)
        self.last = kept[..., -1:]
        return kept

    def _mask_of_the_rest(self, mask: Any, index: Tensor) -> Any:
        ones = torch.ones_like(index) if self.real is None else self.real.long()
        whole = mask.get("full_attention") if isinstance(mask, dict) else None
        if whole is None or whole.ndim != 4:
            return ones  # even if all ones: without a mask, gaps in positions read as packed sequences
        # masks made beforehand, where the tokens of an image see each other: those columns; a window counts what remains
        full = _columns_of(whole, index, self.real, index)
        steps = torch.arange(self.length, device=index.device)
        outside = steps[:, None] - steps >= self.window
        return {"full_attention": full, "sliding_attention": full.masked_fill(outside, _hidden(full))}

    def decode(self, inputs: dict[str, Any], padding: Tensor | None) -> dict[str, Any]:
        """The language model's inputs at a later step, on the cache that the prefill left."""
        self.decoding = True
        embeds = inputs["inputs_embeds"]
        count = embeds.shape[1]
        start = inputs["past_key_values"].get_seq_length()  # merged tokens count; an assistant's rejected ones are gone
        self.seen = start + count
        if not self.merged and not self.config.prune_ratio:
            return inputs
        if padding is not None and padding.shape[1] != self.seen:
            raise ValueError(
                f"attention_mask is {padding.shape[1]} long, but {self.seen} tokens have been read with this cache (merged ones "
                "count): give a mask for all of them, or none"
            )
        new = slice(self.layout.length, None)
        if count > 1 and padding is not None:
            self.gaps = not bool(padding[:, new].all())
        mask = None  # as long as nothing is padding; stock would look for padding at each step, and have a GPU wait for it
        if self.real is not None or self.gaps:
            later = torch.ones(len(embeds), self.seen - self.layout.length, device=embeds.device, dtype=torch.long)
            later = later if padding is None else padding[:, new].long()
            prompt = later.new_ones(len(later), self.length) if self.real is None else self.real.long()
            mask = torch.cat([prompt, later], 1)
        changes: dict[str, Any] = {"attention_mask": mask}
        if self.merged:
            after = torch.arange(1 + start - self.layout.length, 1 + self.seen - self.layout.length, device=embeds.device)
            changes["position_ids"] = self.last + after  # type: ignore[operator]
        return {**inputs, **changes}

    def _prepare_to_prune(self) -> None:
        """What a selection needs to know of the prompt, once, so that no step has to look at a number on the device."""
        is_visual = torch.zeros(len(self.columns), self.length, dtype=torch.bool, device=self.columns.device)
        rows, numbers = self.available.nonzero(as_tuple=True)
        is_visual[rows, self.columns[rows, numbers]] = True
        others = ~is_visual if self.real is None else ~is_visual & self.real
        self.visual, _ = left_packed(is_visual)  # the columns that waiting layers store
        self.others, self.others_real = left_packed(others)
        filled = self.visual.shape[1] - self.available.sum(1, keepdim=True)
        self.place = (self.available.cumsum(1) - 1 + filled).clamp(min=0)  # of each token among them
        self.counts = keep_counts(self.available, self.config.prune_ratio)
        sizes = self.counts.tolist()
        self.width, self.even = max(sizes), len(set(sizes)) == 1

    def see(self, call: Call) -> None:
        """At layer L - 1: take this step's scores and let the method select."""
        if call.layer != self.config.score_layer - 1 or self.finished:
            return
        attention = last_query_attention(call.query, call.key, call.mask, call.scaling).mean(1)
        scores = attention.gather(1, self.columns) * self.available
        self.number += 1
        before, self.scores = self.scores, scores
        step = Step(self.number, scores, before, self.available, self.counts, self.selected, self.config.gate)
        chosen = self.method.select(step)
        if chosen is None:
            return
        self.selected = chosen
        if self.method.in_prefill:
            keep = (
                torch.ones_like(self.columns[:, :1]).bool().expand(-1, self.length).clone()
                if self.real is None
                else self.real.clone()
            )
            rows, gone = (self.available & ~chosen).nonzero(as_tuple=True)
            keep[rows, self.columns[rows, gone]] = False
            self.active = left_packed(keep)  # in the prompt's order, since it is yet to be read
            return
        width, even = self.width, self.even
        if not self.method.exact:
            sizes = chosen.sum(1).tolist()
            width, even = max(sizes), len(set(sizes)) == 1
        numbers = chosen.int().topk(width, 1).indices.sort(1).values
        changed = None
        if self.config.waiting == "host":
            numbers, changed = in_slots(self.slots, numbers)
        self.slots = numbers
        index = torch.cat([self.visual.gather(1, self.place.gather(1, numbers)), self.others], 1)
        real = None
        if not even or self.others_real is not None:
            others = torch.ones_like(self.others).bool() if self.others_real is None else self.others_real
            real = torch.cat([chosen.gather(1, numbers), others], 1)
        self.active = index, real
        cache = None if self.cache is None else self.cache()
        if self.decoding and not self.layers and cache is not None:
            self._hold(cache)
        self._select(changed)

    @property
    def evicts(self) -> bool:
        return not self.method.returns or self.config.waiting == "nowhere"

    @property
    def finished(self) -> bool:
        """Whether all has been chosen that there is to choose."""
        return self.evicts and self.selected is not None

    def _select(self, changed: Tensor | None = None) -> None:
        for layer in self.layers:
            layer.select(self.place.gather(1, self.slots), self.evicts, changed)  # type: ignore[arg-type]

    def _hold(self, cache: Cache) -> None:
        """Give pruned layers the power to hold tokens back."""
        for number in self.pruned:
            old: Any = cache.layers[number]
            cache.layers[number] = WaitingLayer(old, self.length, self.visual, self.others, self.config.waiting)
        self.layers = [cache.layers[number] for number in self.pruned]  # type: ignore[misc]
        self.layers[0].on_rearranged = WeakMethod(self.rearrange)

    def finish_step(self, cache: Cache) -> None:
        """After the prefill: have the cache tell the whole prompt's length, and pruned layers hold tokens back."""
        if self.decoding or self.layers:
            return
        if self.length != self.layout.length:
            report_whole_length(cache, self.layout.length - self.length)
        if self.active and not self.method.in_prefill:
            self._hold(cache)
            self._select()

    def rearrange(self, index: Tensor) -> None:
        """The batch's samples from now on, as numbers of those so far (beams)."""
        for name in (
            "available", "columns", "real", "scores", "selected", "slots", "visual", "others", "others_real", "place", "counts"
        ):  # fmt: skip
            value = getattr(self, name)
            setattr(self, name, None if value is None else value[index])
        if self.last is not None:
            self.last = self.last.index_select(-2, index)
        if self.active:
            kept, real = self.active
            self.active = kept[index], None if real is None else real[index]

    def release(self, cache: Cache) -> None:
        """Leave a stock cache behind, with the waiting tokens back in it; closed, if there are tokens it has lost."""
        for number, layer in enumerate(cache.layers):
            if isinstance(layer, WaitingLayer):
                cache.layers[number] = layer.stock(self.visual, self.others, self.active[0])  # type: ignore[index]
        evicted = self.config.prune_ratio and self.active and self.evicts
        if evicted or self.length != self.layout.length:
            close(cache)

    def shorten(self, args: tuple[Any, ...], inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        """A decoder layer's inputs in the prefill, without the tokens a method drops there already (FastV)."""
        if not (self.method.in_prefill and not self.decoding and self.active):
            return None
        index, real = self.active
        hidden = args[0] if args else inputs["hidden_states"]
        if hidden.shape[1] == self.length:
            hidden = take(hidden, index)
        changes: dict[str, Any] = {}
        changes["position_embeddings"] = tuple(take(part, index) for part in inputs["position_embeddings"])
        if inputs.get("attention_mask") is not None:
            changes["attention_mask"] = _columns_of(inputs["attention_mask"], index, real, index)
        return (hidden, *args[1:]), {**inputs, **changes}

    def mask(self, call: Call) -> Tensor | None:
        """The columns of a layer's mask that its shortened cache still has."""
        if not self.decoding or not self.shortened(call):
            return call.mask
        index, real = self.active  # type: ignore[misc]
        later = call.key.shape[2] - index.shape[1]
        if call.mask is None:
            if real is None:
                return None  # samples differ in what they keep, where so far none needed a mask
            return torch.nn.functional.pad(real, (0, later), value=True)[:, None, None]
        prompt = _columns_of(call.mask[..., : self.length], index, real)
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


def in_slots(before: Tensor | None, numbers: Tensor) -> tuple[Tensor, Tensor | None]:
    """(batch, kept) numbers in such an order that those of the selection before keep their place; and which places change, on the
    CPU. None, all of them, if there was no selection as wide."""
    if before is None or before.shape != numbers.shape:
        return numbers, None
    old, new = before.cpu(), numbers.cpu()
    placed, changed = old.clone(), torch.ones_like(old, dtype=torch.bool)
    for sample in range(len(new)):
        changed[sample] = ~torch.isin(old[sample], new[sample])
        placed[sample, changed[sample]] = new[sample][~torch.isin(new[sample], old[sample])]
    return placed.to(numbers.device), changed


def _columns_of(mask: Tensor, index: Tensor, real: Tensor | None, rows: Tensor | None = None) -> Tensor:
    """These columns of an attention mask, (batch, columns) or (batch, 1, rows, columns), and these of its rows."""
    if mask.ndim == 2:
        kept = mask.expand(len(index), -1).gather(1, index)
        return kept if real is None else kept * real
    mask = mask.expand(len(index), -1, -1, -1)
    if rows is not None:
        mask = mask.gather(2, rows[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3]))
    mask = mask.gather(3, index[:, None, None].expand(-1, mask.shape[1], mask.shape[2], -1))
    return mask if real is None else mask.masked_fill(~real[:, None, None], _hidden(mask))


def _hidden(mask: Tensor) -> float:
    return False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
