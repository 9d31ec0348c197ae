"""What methods are given, and what they return."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Assignment(NamedTuple):
    """What becomes of each visual token.

    into: a token's own number: it is retained; another's: it is merged into that one; -1: it is dropped.
    average: each retained token becomes the mean of itself and all that was merged into it.
    features: new features of the retained tokens (rows of the others are ignored); None: their own.
    """

    into: Int[Tensor, "rows tokens"]
    average: bool = False
    features: Float[Tensor, "rows tokens dim"] | None = None

    @classmethod
    def keep(cls, mask: Bool[Tensor, "rows tokens"]) -> Assignment:
        """Retain the tokens of the mask, and drop the others."""
        numbers = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
        return cls(torch.where(mask, numbers, -1))


class Place(NamedTuple):
    """Where each visual token lies. Frames are counted over all videos of a prompt, in order."""

    frame: Int[Tensor, "batch visual"]
    row: Int[Tensor, "batch visual"]
    col: Int[Tensor, "batch visual"]


@dataclass(frozen=True, eq=False)
class VideoTokens:
    """Videos of one size, as a Merger gets them.

    The last four are None unless the method `needs` them: embeddings of the prompt's text tokens ("text"),
    and which of them are no padding; the attention that each token's patches receive in a layer of the vision
    tower, mean over heads and queries ("vision_attention:-2"), and their keys, all heads side by side
    ("vision_keys:-2"); both are pooled to the token grid by their mean.
    """

    features: Float[Tensor, "videos frames rows cols dim"]
    text: Float[Tensor, "videos text dim"] | None = None
    text_real: Bool[Tensor, "videos text"] | None = None
    vision_attention: Float[Tensor, "videos frames rows cols"] | None = None
    vision_keys: Float[Tensor, "videos frames rows cols keys"] | None = None


@dataclass(frozen=True, eq=False)
class LayerState:
    """What a PrefillReducer may use before a decoder layer.

    depth: how many decoder layers the model has. hidden: the hidden states of the visual tokens. scores: the
    attention that the prompt's last token pays them in the layer below, mean over heads; None before layer 0.
    candidates: the tokens that are still there. budget: how many to keep by the method's ratio. video: which
    of its prompt's videos each token belongs to, from 0. memory: a dict that lasts for this prefill.
    """

    layer: int
    hidden: Float[Tensor, "batch visual dim"]
    scores: Float[Tensor, "batch visual"] | None
    candidates: Bool[Tensor, "batch visual"]
    budget: Int[Tensor, " batch"]
    place: Place
    video: Int[Tensor, "batch visual"]
    depth: int
    memory: dict[str, Any]
    _window: Callable[[], Tensor] | None = None

    @property
    def window_attention(self) -> Float[Tensor, "batch heads window visual"]:
        """The attention of the prompt's last queries in the layer below, as many as the method's class
        attribute `window` says; rows that a batch element does not have are 0."""
        assert self._window is not None, "there is no layer below layer 0; or this state was made by hand"
        return self._window()


@dataclass(frozen=True, eq=False)
class Step:
    """What a Selector may use at a step.

    `rows` is (batch,), or (batch, key heads) with scope "head".
    number: 0 at the prompt's last token, then 1, 2, ... for the decoding steps.
    layer: the one whose attention this is: from_layer - 1 with scope "shared", else the pruned layer itself.
    scores: this step's attention over the visual tokens, mean over (the key head's) query heads; 0 for tokens
        that are not there. previous: the scores of the step before; None at step 0.
    candidates: the tokens that can be chosen: neither merged away nor evicted. budget: how many to choose.
    selected: what was chosen last; None while nothing has been.
    memory: a dict that lasts for this generation; its tensors begin with the batch, and follow it when batch
        elements are exchanged (beams).
    above: what the layers that will be pruned attended to at the prompt's last token, mean over layers and
        heads. None at step 0, and unless the method `needs` "attention above".
    by_layer: the attention of each scoring layer, mean over heads; None if one scores (then `scores` is it).
    """

    number: int
    layer: int
    scores: Float[Tensor, "*rows visual"]
    previous: Float[Tensor, "*rows visual"] | None
    candidates: Bool[Tensor, "*rows visual"]
    budget: Int[Tensor, "*rows"]
    selected: Bool[Tensor, "*rows visual"] | None
    place: Place
    memory: dict[str, Any] = field(default_factory=dict)
    above: Float[Tensor, "batch visual"] | None = None
    by_layer: Float[Tensor, "batch layers visual"] | None = None
    _window: Callable[[], Tensor] | None = None
    _keys: Callable[[], Tensor] | None = None
    _query: Callable[[], Tensor] | None = None

    @property
    def window_attention(self) -> Float[Tensor, "batch heads window visual"]:
        """The attention of the last `window` queries of this call (the method's class attribute)."""
        assert self._window is not None, "this step was made by hand, without a window"
        return self._window()

    @property
    def keys(self) -> Float[Tensor, "batch kv_heads visual dim"]:
        """This layer's keys of the visual tokens, with their positions; 0 for tokens that are not there."""
        assert self._keys is not None, "this step was made by hand, without keys"
        return self._keys()

    @property
    def query(self) -> Float[Tensor, "batch heads dim"]:
        """This layer's last query, with its position; not scaled."""
        assert self._query is not None, "this step was made by hand, without a query"
        return self._query()
