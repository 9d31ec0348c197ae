"""One generation under DyCoke: what was merged, what waits, what this step attends to. Its state is all here."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from dycoke_lab.attention import Call
from dycoke_lab.cache import WaitingLayer
from dycoke_lab.config import DyCokeConfig
from dycoke_lab.layout import VisualLayout, left_packed
from dycoke_lab.merge import average_into, keep_mask, merged_into
from dycoke_lab.methods import METHODS, Method, Step
from dycoke_lab.prune import keep_counts, last_query_attention


class Generation:
    """State of one prefill and the decoding steps after it.

    available: (batch, visual), the tokens that merging left. columns: (batch, visual), the prompt column of
    each of them after merging. selected: (batch, visual), what layers from L on attend to; None: all available.
    """

    def __init__(self, config: DyCokeConfig, layout: VisualLayout) -> None:
        self.config, self.layout = config, layout
        self.method: Method = METHODS[config.method]() if isinstance(config.method, str) else config.method
        self.available = torch.ones_like(layout.columns, dtype=torch.bool)
        self.columns = layout.columns
        self.length = layout.length  # columns of the prompt after merging
        self.real: Tensor | None = None  # (batch, length), False where a column is padding; None: none is
        self.removed: Tensor | int = 0  # how far positions have moved, with re-packed positions
        self.number = -1
        self.scores: Tensor | None = None
        self.selected: Tensor | None = None
        self.active: tuple[Tensor, Tensor | None] | None = None  # prompt columns that layers >= L attend to
        self.merged = False
        self.layers: list[WaitingLayer] = []

    def prefill(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The language model's inputs without the merged tokens."""
        mask = inputs.get("attention_mask")
        if mask is not None and mask.ndim != 2:
            raise ValueError(f"attention_mask has {mask.ndim} dimensions: only the usual (batch, length) is supported")
        self.real = None if mask is None or bool(mask.all()) else mask.bool()
        if self.config.merge_ratio == 0 and self.config.merge_threshold is None:
            return inputs
        self.merged = True
        embeds, layout = inputs["inputs_embeds"], self.layout
        batch, length, dim = embeds.shape
        where = layout.columns[..., None].expand(-1, -1, dim)
        features = embeds.gather(1, where)
        grid = features.view(batch, layout.frames, layout.per_frame, dim)
        keep, _ = keep_mask(grid, self.config.merge_ratio, self.config.window, self.config.merge_threshold)
        if self.config.merge == "average":
            averaged = average_into(features, merged_into(keep, self.config.window))
            embeds = embeds.scatter(1, where, averaged)
        self.available = keep.flatten(1)
        columns = torch.ones(batch, length, dtype=torch.bool, device=embeds.device)
        columns.scatter_(1, layout.columns, self.available)
        if self.real is not None:
            columns &= self.real  # padding goes too; left_packed adds what it needs
        index, self.real = left_packed(columns)
        self.length = index.shape[1]
        place = columns.cumsum(1) - 1 + self.length - columns.sum(1, keepdim=True)
        self.columns = place.gather(1, layout.columns).clamp(min=0)

        positions = inputs.get("position_ids")
        if positions is None:
            positions = torch.arange(length, device=embeds.device)[None]
        positions = positions.expand(batch, -1)
        kept = positions.gather(1, index)
        if self.config.positions == "repacked":
            last = kept[:, -1:]
            rank = torch.arange(self.length, device=embeds.device) if self.real is None else self.real.cumsum(1) - 1
            kept = rank.clamp(min=0).expand(batch, -1)
            self.removed = last - kept[:, -1:]
        ones = torch.ones_like(index) if self.real is None else self.real.long()
        return {
            **inputs,
            "inputs_embeds": embeds.gather(1, index[..., None].expand(-1, -1, dim)),
            "position_ids": kept,
            "attention_mask": ones,  # even if all ones: without a mask, gaps in positions read as packed sequences
        }

    def decode(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The language model's inputs at a decoding step, on the cache that the prefill left."""
        if self.config.prune_ratio and inputs["inputs_embeds"].shape[1] != 1:
            raise ValueError(
                f"{inputs['inputs_embeds'].shape[1]} tokens at once on a pruned cache: only steps of one token are "
                "supported. Start again from the whole prompt"
            )
        changes: dict[str, Any] = {}
        if self.merged:
            mask, device = inputs.get("attention_mask"), self.columns.device
            if mask is None:
                count = inputs["past_key_values"].get_seq_length() - self.length + 1
                generated = torch.ones(len(self.columns), count, device=device, dtype=torch.long)
            else:
                generated = mask[:, self.layout.length :].long()
            prompt = generated.new_ones(len(generated), self.length) if self.real is None else self.real.long()
            changes["attention_mask"] = torch.cat([prompt, generated], 1)
        if self.config.positions == "repacked" and inputs.get("position_ids") is not None:
            changes["position_ids"] = inputs["position_ids"] - self.removed
        return {**inputs, **changes}

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
        """After the prefill: give the cache layers from L on the power to hold tokens back."""
        if self.layers or self.method.in_prefill or not self.config.prune_ratio:
            return
        for number in range(self.config.score_layer, len(cache.layers)):
            cache.layers[number] = WaitingLayer(cache.layers[number], self.length)  # type: ignore[arg-type]
        self.layers = cache.layers[self.config.score_layer :]  # type: ignore[assignment]
        if self.active:
            for layer in self.layers:
                layer.select(self.active[0], evict=not self.method.returns)

    def release(self, cache: Cache) -> None:
        """Leave a stock cache behind, with the waiting tokens back in it."""
        for number, layer in enumerate(cache.layers):
            if isinstance(layer, WaitingLayer):
                cache.layers[number] = layer.stock()

    def shorten(self, args: tuple[Any, ...], inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        """A decoder layer's inputs in the prefill, without the tokens a method drops there already (FastV)."""
        if not (self.method.in_prefill and self.number == 0 and self.active):
            return None
        index, real = self.active
        hidden = args[0] if args else inputs["hidden_states"]
        if hidden.shape[1] == self.length:
            hidden = hidden.gather(1, index[..., None].expand(-1, -1, hidden.shape[2]))
        changes: dict[str, Any] = {}
        changes["position_embeddings"] = tuple(
            x.expand(len(index), -1, -1).gather(1, index[..., None].expand(-1, -1, x.shape[2]))
            for x in inputs["position_embeddings"]
        )
        mask = inputs.get("attention_mask")
        if mask is not None:
            rows = mask.expand(len(index), -1, -1, -1).gather(2, index[:, None, :, None].expand(-1, 1, -1, mask.shape[3]))
            mask = rows.gather(3, index[:, None, None].expand(-1, 1, rows.shape[2], -1))
            if real is not None:
                fill = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
                mask = mask.masked_fill(~real[:, None, None], fill)
            changes["attention_mask"] = mask
        return (hidden, *args[1:]), {**inputs, **changes}

    def mask(self, call: Call) -> Tensor | None:
        """The columns of a layer's mask that its shortened cache still has."""
        if call.query.shape[2] != 1 or not self.shortened(call):
            return call.mask
        index, real = self.active  # type: ignore[misc]
        if call.mask is None and real is None:
            return None
        later = call.key.shape[2] - index.shape[1]
        if call.mask is None:  # samples differ in what they keep, where so far none needed a mask
            return torch.nn.functional.pad(real, (0, later), value=True)[:, None, None]  # type: ignore[arg-type]
        prompt = call.mask[..., : self.length].expand(len(index), -1, -1, -1).gather(3, index[:, None, None])
        if real is not None:
            hidden = False if prompt.dtype == torch.bool else torch.finfo(prompt.dtype).min
            prompt = prompt.masked_fill(~real[:, None, None], hidden)
        return torch.cat([prompt, call.mask[..., self.length : self.length + later]], 3)

    def shortened(self, call: Call) -> bool:
        """Whether this call's keys are those of `active` and what came after the prompt, not of the whole prompt."""
        if self.active is None or call.layer < self.config.score_layer:
            return False
        return call.query.shape[2] == 1 or self.method.in_prefill

    def where(self, call: Call) -> tuple[Tensor, Tensor]:
        """For each visual token its column among this call's keys, and whether it is there at all: (batch, visual)."""
        if not self.shortened(call):
            return self.columns, self.available
        index, _ = self.active  # type: ignore[misc]
        place = index.new_zeros(len(index), self.length)
        place.scatter_(1, index, torch.arange(index.shape[1], device=index.device).expand_as(index))
        return place.gather(1, self.columns), self.selected  # type: ignore[return-value]
