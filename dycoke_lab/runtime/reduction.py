"""A PrefillReducer at work: before its layers, hidden states, position ids and masks lose the columns it
drops."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from dycoke_lab.methods.base import PrefillReducer
from dycoke_lab.methods.interface import LayerState, Place
from dycoke_lab.methods.scores import last_query_attention, window_attention
from dycoke_lab.methods.temporal_merging import average_into
from dycoke_lab.models.token_layout import take
from dycoke_lab.runtime.attention_hooks import Call
from dycoke_lab.runtime.decoder_inputs import (
    PromptColumns,
    causal,
    check_assignment,
    columns_of,
    kept,
    narrowed,
)


class Reduction:
    """video: (batch, visual), which of its prompt's videos each token belongs to. depth: decoder layers.
    stages: the layers from which on fewer columns are there, and which, in order."""

    def __init__(
        self, reducer: PrefillReducer, layers: list[int], flash: bool, video: Tensor, depth: int
    ) -> None:
        self.reducer, self.layers, self.flash = reducer, layers, flash
        self.video, self.depth = video, depth
        self.stages: list[tuple[int, PromptColumns]] = []
        self.scores: Tensor | None = None  # of the layer below the next stage
        self.below: Call | None = None  # that layer's attention
        self.memory: dict[str, Any] = {}

    def at(self, layer: int) -> PromptColumns | None:
        """Return the columns that this layer has; None: the merged prompt's."""
        found = [columns for first, columns in self.stages if first <= layer]
        return found[-1] if found else None

    def observe(self, call: Call, columns: PromptColumns) -> None:
        """Note the scores, in the layer below a stage."""
        attention = last_query_attention(call.query, call.key, call.mask, call.scaling).mean(1)
        self.scores = attention.gather(1, columns.column) * columns.retained
        self.below = call

    def before(
        self, layer: int, prompt: PromptColumns, place: Place, args: tuple[Any, ...], inputs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]] | None:
        """Return a decoder layer's inputs in the prefill without the dropped columns; None if nothing is
        dropped yet."""
        hidden = args[0] if args else inputs["hidden_states"]
        if layer in self.layers:
            hidden = self._reduce(layer, prompt, place, hidden)
        columns = self.at(layer)
        if columns is None:
            return None
        index, real = columns.index, columns.real
        assert index is not None
        changes = dict(inputs)
        changes["position_embeddings"] = tuple(take(part, index) for part in inputs["position_embeddings"])
        if inputs.get("position_ids") is not None:
            changes["position_ids"] = take(inputs["position_ids"][..., None], index)[..., 0]
        mask = inputs.get("attention_mask")
        if mask is not None:
            changes["attention_mask"] = columns_of(mask, index, real, index)
        elif real is not None:  # batch elements differ in what they keep, where so far none needed a mask
            changes["attention_mask"] = real if self.flash else causal(real)
        if args:
            return (hidden, *args[1:]), changes
        return args, {**changes, "hidden_states": hidden}

    def _reduce(self, layer: int, prompt: PromptColumns, place: Place, hidden: Tensor) -> Tensor:
        columns = self.at(layer) or prompt
        visual = take(hidden, columns.column)
        budget = self.reducer.budget(prompt.retained)
        below, self.below = self.below, None
        window = None if below is None else partial(self._window, below, columns)
        state = LayerState(
            layer, visual, self.scores, columns.retained, budget, place, self.video, self.depth, self.memory,
            window,
        )  # fmt: skip
        assignment = self.reducer.reduce(state)
        if assignment is None:
            return hidden
        check_assignment(assignment, self.reducer, columns.retained)
        retained = kept(assignment) & columns.retained
        if assignment.average or assignment.features is not None:
            into = assignment.into.masked_fill(~columns.retained, -1)
            new = average_into(visual, into) if assignment.average else assignment.features
            rows, tokens = retained.nonzero(as_tuple=True)
            hidden = hidden.clone()
            hidden[rows, columns.column[rows, tokens]] = new[rows, tokens].to(hidden.dtype)  # type: ignore[index]
        left, index = narrowed(columns, retained)
        self.stages.append((layer, left))
        return take(hidden, index)

    def _window(self, call: Call, columns: PromptColumns) -> Tensor:
        """(batch, heads, window, visual): what the prompt's last queries attend to."""
        window, own = self.reducer.window, None
        if window == "text":
            last = columns.column.masked_fill(~columns.retained, -1).amax(1)  # -1: no video
            count = (columns.length - 1 - last).clamp(min=1)
            window = int(count.max())
            own = torch.arange(window, device=count.device) >= window - count[:, None]
        attention = window_attention(*call[1:], window)
        index = columns.column[:, None, None].expand(-1, *attention.shape[1:3], -1)
        attention = attention.gather(3, index) * columns.retained[:, None, None]
        return attention if own is None else attention * own[:, None, :, None]

    def rearrange(self, index: Tensor) -> None:
        """Follow an exchange of batch elements."""
        self.stages = [(layer, rearranged(columns, index)) for layer, columns in self.stages]


def rearranged(columns: PromptColumns, index: Tensor) -> PromptColumns:
    """Return the columns of these batch elements."""
    parts = (columns.retained, columns.column, columns.real, columns.index)
    retained, column, real, among = (None if part is None else part[index.to(part.device)] for part in parts)
    assert retained is not None and column is not None
    return PromptColumns(retained, column, real, columns.length, among)
