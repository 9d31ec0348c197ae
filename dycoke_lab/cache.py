"""A KV cache layer whose pruned tokens wait, and come back when a later step wants them."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import DynamicLayer


class WaitingLayer(DynamicLayer):
    """A stock dynamic layer that stores every token and hands attention only those selected.

    keys, values: (batch, kv_heads, columns, head_dim), all of them, as in the stock layer.
    """

    def __init__(self, layer: DynamicLayer, prompt: int) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, layer.is_initialized
        self.keys, self.values = layer.keys, layer.values
        self.prompt = prompt  # columns that a selection chooses from; later ones are always attended to
        self.attended: tuple[Tensor, Tensor] | None = None  # keys and values, where not all are

    def select(self, index: Int[Tensor, "batch kept"], evict: bool = False) -> None:
        """Attend to these prompt columns and all later ones.

        evict: forget the other columns for good, which frees their memory.
        """
        chosen = (_choose(self.keys, index, self.prompt), _choose(self.values, index, self.prompt))
        if evict:
            self.keys, self.values, self.prompt = *chosen, index.shape[1]
            self.attended = None
        else:
            self.attended = chosen

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        everything = super().update(key_states, value_states, *args, **kwargs)
        if self.attended is None:
            return everything
        keys, values = self.attended
        self.attended = torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)
        return self.attended

    def _rearranged(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError(
            "the samples of a pruned cache cannot be reordered, repeated or cut yet: generate without beams or assistants, "
            "or set prune_ratio=0"
        )

    reorder_cache = crop = batch_repeat_interleave = batch_select_indices = _rearranged

    def stock(self) -> DynamicLayer:
        """The same tokens, waiting ones included, as a layer that knows nothing of this library."""
        layer = DynamicLayer()
        layer.dtype, layer.device, layer.is_initialized = self.dtype, self.device, self.is_initialized
        layer.keys, layer.values = self.keys, self.values
        return layer


def _choose(states: Any, index: Tensor, prompt: int) -> Tensor:
    picked = states.gather(2, index[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3]))
    return torch.cat([picked, states[:, :, prompt:]], dim=2)
