"""One small model for what does not depend on the family, its prompts, and compressions for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from dycoke_lab import TTM
from dycoke_lab.methods import Dynamic
from helpers.families import FAMILIES, frames
from helpers.matrix import PLACEHOLDERS, WORDS, generate
from helpers.vocabulary import ID

FAMILY = FAMILIES["llava_onevision"]
VISUAL = 128  # tokens of 8 frames
PRUNING = Dynamic(0.7, from_layer=2, reselect_below=2.0)
MERGING = TTM(0.5)


def cache_of(model: Any) -> DynamicCache:
    return DynamicCache(config=model.config.get_text_config())


def inputs_of(count: int = 8, seed: int = 0, batch: int = 1) -> dict[str, Tensor]:
    """Prompts of one length, each with a video of so many frames."""
    return FAMILY.inputs(*prompts_of(batch, count, seed))


def prompts_of(batch: int, count: int = 8, seed: int = 0) -> list[list[Any]]:
    """The same, as parts."""
    return [["user\n", ("video", frames(count, seed + b)), WORDS] for b in range(batch)]


def text_of(*sizes: int) -> Tensor:
    """Token ids of text."""
    return torch.randint(20, 60, sizes)


def write(model: Any, inputs: dict[str, Any], count: int = 6, **settings: Any) -> tuple[Tensor, Any]:
    """Generate, and return the logits of each step and the cache."""
    return generate(model, inputs, count, **settings)[1:]


@contextmanager
def writing_words(model: Any) -> Iterator[Any]:
    """Meanwhile the model writes no token that ends its answer, or stands for a picture."""
    never = torch.tensor([ID[token] for token in (*PLACEHOLDERS, "<|end|>", "<pad>")])
    hook = model.lm_head.register_forward_hook(lambda module, args, out: out.index_fill(-1, never, -1e9))
    try:
        yield model
    finally:
        hook.remove()
