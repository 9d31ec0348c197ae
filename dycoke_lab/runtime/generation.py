"""One generation under a compression: one prefill, and the steps after it. Its three parts keep their own
state: position ids (positions.py), a reducer's stages (reduction.py), selections (selection.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from dycoke_lab.methods.base import ABOVE, Compression
from dycoke_lab.models.token_layout import TokenLayout
from dycoke_lab.runtime import compressed_cache
from dycoke_lab.runtime.attention_hooks import Call
from dycoke_lab.runtime.compat import cache_in
from dycoke_lab.runtime.decoder_inputs import PromptColumns, columns_of, merge_prompt
from dycoke_lab.runtime.kv_swap import reads_are_free
from dycoke_lab.runtime.positions import Positions
from dycoke_lab.runtime.reduction import Reduction, rearranged
from dycoke_lab.runtime.selection import Selection


@dataclass(frozen=True)
class ModelFacts:
    """What a generation must know of its model. depth: decoder layers. pruned: those that a selector prunes;
    reduced: those before which a reducer is asked. window: columns that layers with a sliding window attend
    to. extras: an adapter's `shorten`, if it has one. flash: whether the attention kernel's masks are (batch,
    keys). scoring: the layers whose attention scores, for a choice that is shared."""

    depth: int
    pruned: list[int]
    reduced: list[int]
    window: int
    extras: Any
    flash: bool
    scoring: list[int]


class Generation:
    """columns: the prompt's, after merging. seen: tokens read so far, merged ones
    counted."""

    def __init__(self, compression: Compression, layout: TokenLayout, model: ModelFacts) -> None:
        self.compression, self.layout, self.model = compression, layout, model
        self.columns = PromptColumns(layout.real, layout.columns, None, layout.length)
        self.positions: Positions | None = None
        self.place = layout.place()
        self.reduction = None
        if reducer := compression.reducer:
            self.reduction = Reduction(reducer, model.reduced, model.flash, layout.video(), model.depth)
        self.selections: list[Selection] = []
        if selector := compression.selector:
            shared = selector.scope == "shared"
            groups = [model.pruned] if shared else [[number] for number in model.pruned]
            self.selections = [Selection(selector, layers, self.place, model.pruned) for layers in groups]
        self.seen = layout.length
        self.decoding = False
        self.gaps = False  # whether a later turn brought padding
        self.lacks_tokens = False  # whether merging took some away
        self.cache: ref[Cache] | None = None

    @property
    def off(self) -> bool:
        return self.compression.off

    @property
    def retained(self) -> Tensor:
        """(batch, visual): the visual tokens that merging retained."""
        return self.columns.retained

    @property
    def merged_away(self) -> int:
        """How many columns fewer the prompt has."""
        return self.layout.length - self.columns.length

    @property
    def missing_at_0(self) -> int:
        """How many columns fewer layer 0 has than the merged prompt: a reducer may act before it."""
        return self.columns.length - self.columns_at(0).length

    @property
    def batch(self) -> int:
        return len(self.columns.retained)

    def selection_for(self, layer: int) -> Selection | None:
        """Return the selection that a layer's cache follows now."""
        found = (s for s in self.selections if layer in s.layers)
        selection = next(found, None) if self.decoding else None
        return selection if selection and selection.cache_layers else None

    def columns_at(self, layer: int) -> PromptColumns:
        """Return the prompt's columns that a layer read."""
        return (self.reduction and self.reduction.at(layer)) or self.columns

    def attended(self, layer: int) -> Tensor:
        """Return the visual tokens that a layer can attend to: (batch, visual); with scope "head", in any of
        its heads."""
        selection = self.selection_for(layer)
        if selection is None:
            return self.columns_at(layer).retained
        return selection.present()[1].any(1)

    def prefill(
        self, inputs: dict[str, Any], padding: Tensor | None, vision: dict[str, list[Tensor]]
    ) -> dict[str, Any]:
        """Return the language model's inputs without the tokens that merging takes away. padding: the call's
        (batch, length) mask. vision: what the merger needs of the vision tower."""
        if self.off:
            return inputs
        if padding is not None:
            self._check_mask(padding)
        real = None if padding is None or bool(padding.all()) else padding.bool()
        self.columns = PromptColumns(self.layout.real, self.layout.columns, real, self.layout.length)
        self.cache = None if (cache := cache_in(inputs)) is None else ref(cache)
        if merger := self.compression.merger:
            short = merge_prompt(
                merger, self.layout, inputs, real, self.model.window, self.model.extras, vision
            )
            self.columns, inputs = short.columns, short.inputs
            self.lacks_tokens = bool((self.layout.real & ~self.retained).any())
            last = inputs["position_ids"][..., -1:]
            self.positions = Positions(last, short.last, merger.positions == "repacked", self.layout.length)
        return inputs

    def _check_mask(self, padding: Any) -> None:
        if isinstance(padding, dict) or padding.ndim != 2:
            raise ValueError(
                "attention_mask is not the usual (batch, length): masks of one's own, and static caches, "
                "are not supported"
            )
        if tuple(padding.shape) != (self.batch, self.layout.length):
            raise ValueError(
                f"attention_mask has shape {tuple(padding.shape)}, but the prompt is (batch, length) = "
                f"{(self.batch, self.layout.length)}"
            )

    def decode(self, inputs: dict[str, Any], padding: Tensor | None, brings: bool = False) -> dict[str, Any]:
        """Return the language model's inputs at a later step, on the cache that the prefill left. brings:
        whether with a picture."""
        self.decoding = True
        embeds = inputs["inputs_embeds"]
        cache: Any = cache_in(inputs)
        start = cache.get_seq_length()  # merged tokens count; an assistant's rejected ones are gone
        self.seen = start + embeds.shape[1]
        if self.off:
            return inputs
        for selection in self.selections:
            selection.apply(cache)
        changes: dict[str, Any] = {"attention_mask": self._mask(embeds, padding)}
        given = inputs.get("position_ids")  # in the whole prompt's count
        # several for each token come from what the model remembers of the last prompt, but for pictures
        if self.positions and given is not None and (given.ndim == 2 or brings):
            changes["position_ids"] = self.positions.given(given, self.seen if brings else None)
        elif self.positions:
            changes["position_ids"] = self.positions.following(
                start, self.seen, padding if self.gaps else None
            )
        return {**inputs, **changes}

    def _mask(self, embeds: Tensor, padding: Tensor | None) -> Tensor | None:
        """The step's (batch, columns) mask; None as long as nothing is padding, which stock would have to
        find out at each step, and have a GPU wait for it."""
        if padding is not None and padding.shape[1] != self.seen:
            raise ValueError(
                f"attention_mask is {padding.shape[1]} long, but {self.seen} tokens have been read with "
                "this cache (merged ones count): give a mask for all of them, or none"
            )
        new = slice(self.layout.length, None)
        if padding is not None and (embeds.shape[1] > 1 or reads_are_free(padding.device)):
            self.gaps = not bool(padding[:, new].all())
        if self.gaps and padding is None:
            raise ValueError("an earlier attention_mask had padding after the prompt: go on giving it")
        real = self.columns.real
        if real is None and not self.gaps:
            return None
        shape = len(embeds), self.seen - self.layout.length
        later = (
            torch.ones(shape, device=embeds.device, dtype=torch.long)
            if padding is None
            else padding[:, new].long()
        )
        prompt = later.new_ones(len(later), self.columns.length) if real is None else real.long()
        return torch.cat([prompt, later], 1)

    def before_layer(
        self, layer: int, args: tuple[Any, ...], inputs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]] | None:
        """Return a decoder layer's inputs, where a reducer has dropped some in this prefill."""
        if self.decoding or self.reduction is None:
            return None
        return self.reduction.before(layer, self.columns, self.place, args, inputs)

    def observe(self, call: Call) -> None:
        """Let those score by this layer's attention who do."""
        if self.reduction and not self.decoding and call.layer + 1 in self.reduction.layers:
            self.reduction.observe(call, self.columns_at(call.layer))
        for selection in self.selections:
            shared = selection.selector.scope == "shared"
            if call.layer in (self.model.scoring if shared else selection.layers):
                cache = self.cache() if self.cache else None
                selection.observe(call, self.columns_at(call.layer), self.decoding, cache)
            elif not self.decoding and ABOVE in selection.selector.needs and call.layer in selection.layers:
                selection.look_above(call)

    def finish_prefill(self, cache: Cache) -> None:
        """Adopt the cache, apply selections, and have the other layers written in place."""
        if self.decoding or self.off or isinstance(cache, compressed_cache.CompressedCache):
            return
        compressed_cache.adopt(cache, self)
        for selection in self.selections:
            selection.apply(cache)
        later = {number for selection in self.selections for number in selection.layers}
        compressed_cache.write_in_place(cache, (n for n in range(len(cache.layers)) if n not in later))

    def crop(self, call: Call) -> Tensor | None:
        """Return the columns of a layer's mask that its shortened cache has."""
        if not self.decoding:
            return call.mask
        if selection := self.selection_for(call.layer):
            return selection.crop(call, self.columns.length, self.model.flash)
        columns = self.columns_at(call.layer)
        if columns.index is None:
            return call.mask
        later = call.key.shape[2] - columns.length
        if call.mask is None:
            if columns.real is None:
                return None
            seen = torch.nn.functional.pad(columns.real, (0, later), value=True)
            return seen if self.model.flash else seen[:, None, None]
        length = self.columns.length
        prompt = columns_of(call.mask[..., :length], columns.index, columns.real)
        rest = call.mask[..., length : length + later].expand(*prompt.shape[:-1], -1)
        return torch.cat([prompt, rest], -1)

    def where(self, call: Call) -> tuple[Tensor, Tensor, int]:
        """Return for each visual token its column among this call's keys, and whether it is there, (batch, 1
        or key heads, visual); and how many columns there are."""
        later = self.seen - self.layout.length
        if selection := self.selection_for(call.layer):
            assert selection.active is not None
            return *selection.present(), selection.active[0].shape[1] + later
        columns = self.columns_at(call.layer)
        return columns.column[:, None], columns.retained[:, None], columns.length + later

    def rearrange(self, index: Tensor) -> None:
        """Follow an exchange of batch elements: index says which of those so far each is from now on
        (beams)."""
        self.columns = rearranged(self.columns, index)
        self.place = type(self.place)(*(part[index.to(part.device)] for part in self.place))
        if self.positions:
            self.positions.rearrange(index.to(self.columns.column.device))
        if self.reduction:
            self.reduction.rearrange(index)
        for selection in self.selections:
            selection.rearrange(index)

    def release(self, cache: Cache) -> None:
        """Leave a stock cache behind, with inactive tokens back in it; closed, if it lacks tokens."""
        for selection in self.selections:
            selection.release(cache)
        evicted = any(s.selector.evicts and s.cache_layers for s in self.selections)
        reduced = self.reduction is not None and bool(self.reduction.stages)
        compressed_cache.release(cache, bool(evicted or reduced or self.lacks_tokens))
