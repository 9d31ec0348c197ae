"""An answer forced, token for token, through a run of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def forced_logits(model: Any, inputs: dict[str, Tensor], written: Tensor) -> Tensor:
    """Return the logits, (tokens, vocabulary), of a greedy run that writes these tokens after the prompt."""
    prompt = inputs["input_ids"].shape[1]
    again = model.generate(
        **inputs,
        max_new_tokens=len(written),
        min_new_tokens=len(written),
        return_dict_in_generate=True,
        do_sample=False,
        output_logits=True,
        prefix_allowed_tokens_fn=lambda _, ids: [int(written[len(ids) - prompt])],
    )
    return torch.stack(again.logits)[:, 0].double()
