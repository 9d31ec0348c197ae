"""A prompt without its merged tokens, as the language model gets it: embeddings, positions, masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dycoke_lab.config import DyCokeConfig
from dycoke_lab.layout import VisualLayout, left_packed, take
from dycoke_lab.merge import average_into, keep_mask, merged_into

Extras = Callable[[dict[str, Any], Callable[[Tensor], Tensor], Tensor | None], dict[str, Any]]


@dataclass(frozen=True)
class Shortened:
    """inputs: the language model's. available: (batch, visual), the tokens that are left. columns: (batch, visual), where they
    stand now. real: (batch, length), False where a column only fills up; None: none does. length: columns of the prompt. last:
    (..., batch, 1), the position that the last token had."""

    inputs: dict[str, Any]
    available: Tensor
    columns: Tensor
    real: Tensor | None
    length: int
    last: Tensor


def without_merged(
    config: DyCokeConfig, layout: VisualLayout, inputs: dict[str, Any], real: Tensor | None, window: int, extras: Extras | None
) -> Shortened:
    """The language model's inputs without the merged tokens.

    real: (batch, length), False where the prompt has padding. window: columns that layers with a sliding window see. extras: an
    adapter's `shorten`, for what else a decoder is given for each column.
    """
    embeds = inputs["inputs_embeds"]
    batch, length, _ = embeds.shape
    available, folds = _merge(config, layout, embeds)
    columns = torch.ones(batch, length, dtype=torch.bool, device=embeds.device) if real is None else real.clone()
    rows, gone = (layout.real & ~available).nonzero(as_tuple=True)
    columns[rows, layout.columns[rows, gone]] = False  # padding goes too; left_packed adds what it needs
    index, real = left_packed(columns)
    place = columns.cumsum(1) - 1 + index.shape[1] - columns.sum(1, keepdim=True)

    def shortened(states: Tensor) -> Tensor:
        if config.merge == "average" and states.is_floating_point():
            states = states.clone()
            for where, into in folds:
                states[where] = average_into(states[where], into)
        return take(states, index)

    positions = _positions(inputs.get("position_ids"), index, length)
    short = {
        **inputs,
        "inputs_embeds": shortened(embeds),
        "position_ids": _repacked(positions, real) if config.positions == "repacked" else positions,
        "attention_mask": _mask(inputs.get("attention_mask"), index, real, window),
        **(extras(inputs, shortened, real) if extras else {}),
    }
    return Shortened(short, available, place.gather(1, layout.columns).clamp(min=0), real, index.shape[1], positions[..., -1:])


def _merge(config: DyCokeConfig, layout: VisualLayout, embeds: Tensor) -> tuple[Tensor, list[tuple[tuple[Tensor, Tensor], Tensor]]]:
    """What remains of each video, (batch, visual); for each group of videos where their tokens are, and what they merge into."""
    available, folds = layout.real.clone(), []
    for grid, samples, numbers in layout.alike():
        rows = samples[:, None]
        where = rows, layout.columns[rows, numbers]
        features = embeds[where].unflatten(1, (grid.frames, grid.per_frame))
        keep, _ = keep_mask(features, config.merge_ratio, config.window, config.merge_threshold)
        available[rows, numbers] = keep.flatten(1)
        folds.append((where, merged_into(keep, config.window)))
    return available, folds


def _positions(positions: Tensor | None, index: Tensor, length: int) -> Tensor:
    """(..., batch, kept), the position of each column that remains; (..., batch, length) or none given for the prompt."""
    if positions is None:
        positions = torch.arange(length, device=index.device)[None]
    return take(positions[..., None], index)[..., 0]


def _repacked(kept: Tensor, real: Tensor | None) -> Tensor:
    """Positions as many as these, numbered anew."""
    rank = torch.arange(kept.shape[-1], device=kept.device)[None] if real is None else real.cumsum(1) - 1
    return rank.clamp(min=0).expand_as(kept)


def moved_by(positions: Tensor, shift: Tensor) -> Tensor:
    """Later positions, (..., batch, columns), shifted by (..., batch, 1). Either may have, or lack, a row of text before its three
    of time and space."""
    if positions.ndim == 3 and len(positions) != len(shift):
        shift = shift[-len(positions) :] if len(positions) < len(shift) else torch.cat([shift[:1], shift])
    return positions + shift


def _mask(mask: Any, index: Tensor, real: Tensor | None, window: int) -> Any:
    ones = torch.ones_like(index) if real is None else real.long()
    whole = mask.get("full_attention") if isinstance(mask, dict) else None
    if whole is None or whole.ndim != 4:
        return ones  # even if all ones: without a mask, gaps in positions read as packed sequences
    # masks made beforehand, where the tokens of an image see each other: those columns; a window counts what remains
    full = columns_of(whole, index, real, index)
    steps = torch.arange(index.shape[1], device=index.device)
    return {"full_attention": full, "sliding_attention": full.masked_fill(steps[:, None] - steps >= window, _hidden(full))}


def columns_of(mask: Tensor, index: Tensor, real: Tensor | None, rows: Tensor | None = None) -> Tensor:
    """These columns of an attention mask, (batch, columns) or (batch, 1, rows, columns), and these of its rows."""
    if mask.ndim == 2:
        kept = mask.expand(len(index), -1).gather(1, index)
        return kept if real is None else kept * real
    mask = mask.expand(len(index), -1, -1, -1)
    if rows is not None:
        mask = mask.gather(2, rows[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3]))
    mask = mask.gather(3, index[:, None, None].expand(-1, mask.shape[1], mask.shape[2], -1))
    return mask if real is None else mask.masked_fill(~real[:, None, None], _hidden(mask))


def causal(real: Tensor) -> Tensor:
    """(batch, 1, length, length), True where a column may be seen: real ones up to one's own, and each itself, since a row that saw
    none would be no number."""
    length = real.shape[1]
    up_to = torch.ones(length, length, dtype=torch.bool, device=real.device).tril()
    return (up_to & real[:, None, None]) | torch.eye(length, dtype=torch.bool, device=real.device)


def _hidden(mask: Tensor) -> float:
    return False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
