"""What versions of transformers call differently."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask

# the argument of models and of `generate`, and the field of what they return
CACHE = (
    "cache" if "cache" in signature(create_causal_mask).parameters else "past_key_values"
)  # which it was up to 5.23


def cache_in(inputs: Mapping[str, Any]) -> Cache | None:
    """Return the cache that a forward pass is given, under the new name or, as may be for some versions to
    come, under the old one."""
    cache: Cache | None = inputs.get("cache")
    return inputs.get("past_key_values") if cache is None else cache
