"""One generation under DyCoke: what was merged, what waits, what this step attends to. Its state is all here."""

from __future__ import annotations

from typing import Any
from weakref import WeakMethod

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
        self.decoding = False

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
        if not self.merged:
            return inputs
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
        if not self.merged:
            return inputs
        device = embeds.device
        after = torch.arange(1, count + 1, device=device) + start - self.layout.length
        new = self.seen - self.layout.length
        if padding is None:
            later = torch.ones(len(embeds), new, device=device, dtype=torch.long)
        elif padding.shape[1] == self.seen:
            later = padding[:, self.layout.length :].long()
        else:
            raise ValueError(
                f"attention_mask is {padding.shape[1]} long, but {self.seen} tokens have been read with this cache (merged ones "
                "count): give a mask for all of them, or none"
            )
        prompt = later.new_ones(len(later), self.length) if self.real is None else self.real.long()
        return {**inputs, "attention_mask": torch.cat([prompt, later], 1), "position_ids": self.last + after}

    def see(self, call: Call) -> None:
        """At layer L - 1: take this step's scores and let the method select."""
        if call.layer != self.config.score_layer - 1:
            return
        attention = last_query_attention(call.query, call.key, call.mask, call.scaling).mean(1)
        scores = attention.gather(1, self.columns) * self.available
        self.number += 1
        before, self.scores = self.scores, scores
        counts = keep_counts(self.available, self.config.prune_ratio)
        step = Step(self.number, scores, before, self.available, counts, self.selected, self.config.gate)
        chosen = self.method.select(step)
        if chosen is None:
            return
        self.selected = chosen
        at = torch.full((len(chosen), self.length), -1, device=chosen.device)
        numbers = torch.arange(chosen.shape[1], device=chosen.device).expand_as(chosen)
        at.scatter_reduce_(1, self.columns, numbers.masked_fill(~self.available, -1), "amax")
        keep = torch.where(at >= 0, chosen.gather(1, at.clamp(min=0)), True)
        if self.real is not None:
            keep &= self.real
        self.active = left_packed(keep)
        for layer in self.layers:
            layer.select(self.active[0], evict=not self.method.returns)

    def finish_step(self, cache: Cache) -> None:
        """After the prefill: have the cache tell the whole prompt's length, and pruned layers hold tokens back."""
        if self.decoding or self.layers:
            return
        if self.length != self.layout.length:
            report_whole_length(cache, self.layout.length - self.length)
        if self.method.in_prefill or not self.config.prune_ratio:
            return
        for number in self.pruned:
            cache.layers[number] = WaitingLayer(cache.layers[number], self.length)  # type: ignore[arg-type]
        self.layers = [cache.layers[number] for number in self.pruned]  # type: ignore[misc]
        self.layers[0].on_rearranged = WeakMethod(self.rearrange)
        if self.active:
            for layer in self.layers:
                layer.select(self.active[0], evict=not self.method.returns)

    def rearrange(self, index: Tensor) -> None:
        """The batch's samples from now on, as numbers of those so far (beams)."""
        for name in ("available", "columns", "real", "scores", "selected"):
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
                cache.layers[number] = layer.stock()
        evicted = self.config.prune_ratio and self.active and not self.method.returns
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
        index, _ = self.active  # type: ignore[misc]
        place = index.new_zeros(len(index), self.length)
        place.scatter_(1, index, torch.arange(index.shape[1], device=index.device).expand_as(index))
        return place.gather(1, self.columns), self.selected, index.shape[1] + later  # type: ignore[return-value]


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
