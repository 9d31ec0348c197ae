"""A prompt with fewer columns, as the language model gets it: embeddings, position ids, masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dycoke_lab.methods.base import Merger
from dycoke_lab.methods.interface import Assignment, VideoTokens
from dycoke_lab.methods.temporal_merging import average_into
from dycoke_lab.models.token_layout import TokenLayout, left_packed, take

Extras = Callable[[dict[str, Any], Callable[[Tensor], Tensor], Tensor | None], dict[str, Any]]


@dataclass(frozen=True, eq=False)
class PromptColumns:
    """The columns of a prompt that are left at some place of the model.

    retained: (batch, visual), the visual tokens that are there. column: (batch, visual), where each stands
    (means nothing where it is not there). real: (batch, length), False where a column only fills up; None:
    none does.
    length: how many columns. index: (batch, length), which of the merged prompt's columns these are; None:
    all of them.
    """

    retained: Tensor
    column: Tensor
    real: Tensor | None
    length: int
    index: Tensor | None = None


def narrowed(columns: PromptColumns, retained: Tensor) -> tuple[PromptColumns, Tensor]:
    """Return the columns that are left when only these visual tokens are retained, and which of the former
    columns they are, (batch, kept), in order."""
    real = columns.real
    keep = retained.new_ones(len(retained), columns.length) if real is None else real.clone()
    rows, gone = (columns.retained & ~retained).nonzero(as_tuple=True)
    keep[rows, columns.column[rows, gone]] = False  # <-- where a token is dropped; padding goes, too
    index, real = left_packed(keep)
    place = keep.cumsum(1) - 1 + index.shape[1] - keep.sum(1, keepdim=True)
    column = place.gather(1, columns.column).clamp(min=0)
    among = index if columns.index is None else columns.index.gather(1, index)
    return PromptColumns(retained, column, real, index.shape[1], among), index


@dataclass(frozen=True)
class MergedPrompt:
    """inputs: the language model's. columns: of the merged prompt. last: (..., batch, 1), the position id
    that the last token had."""

    inputs: dict[str, Any]
    columns: PromptColumns
    last: Tensor


@dataclass(frozen=True)
class _Fold:
    where: tuple[Tensor, Tensor]  # batch elements and columns of some videos' tokens
    assignment: Assignment


def merge_prompt(
    merger: Merger,
    layout: TokenLayout,
    inputs: dict[str, Any],
    real: Tensor | None,
    window: int,
    extras: Extras | None,
    vision: dict[str, list[Tensor]],
) -> MergedPrompt:
    """Return the language model's inputs without the tokens that the merger takes away.

    real: (batch, length), False where the prompt has padding. window: columns that layers with a sliding
    window see.
    extras: an adapter's `shorten`, for what else a decoder is given for each column. vision: what the merger
    needs of the vision tower, for each video.
    """
    embeds = inputs["inputs_embeds"]
    whole = PromptColumns(layout.real, layout.columns, real, layout.length)
    retained, folds = _merge(merger, layout, embeds, real, vision)
    columns, index = narrowed(whole, retained)
    columns = PromptColumns(columns.retained, columns.column, columns.real, columns.length)

    def shortened(states: Tensor) -> Tensor:
        has_features = states is embeds
        for fold in folds:
            if fold.assignment.average and states.is_floating_point():
                states = states.clone()
                states[fold.where] = average_into(states[fold.where], fold.assignment.into)
            elif fold.assignment.features is not None and has_features:
                states = states.clone()
                states[fold.where] = fold.assignment.features.to(states.dtype)
        return take(states, index)

    positions = _positions(inputs.get("position_ids"), index, layout.length)
    repacked = merger.positions == "repacked"
    short = {
        **inputs,
        "inputs_embeds": shortened(embeds),
        "position_ids": _repacked(positions, columns.real) if repacked else positions,
        "attention_mask": _mask(inputs.get("attention_mask"), index, columns.real, window),
        **(extras(inputs, shortened, columns.real) if extras else {}),
    }
    return MergedPrompt(short, columns, positions[..., -1:])


def _merge(
    merger: Merger, layout: TokenLayout, embeds: Tensor, real: Tensor | None, vision: dict[str, list[Tensor]]
) -> tuple[Tensor, list[_Fold]]:
    """Ask the merger about each group of videos of one size."""
    retained, folds = layout.real.clone(), []
    grids = [grid for sample in layout.videos for grid in sample]
    text, text_real = _text(layout, embeds, real) if "text" in merger.needs else (None, None)
    for grid, samples, numbers in layout.alike():
        rows = samples[:, None]
        where = rows, layout.columns[rows, numbers]
        mine = [number for number, other in enumerate(grids) if other == grid]
        features = embeds[where].view(len(mine), *grid, -1)
        given = {kind: torch.stack([videos[number] for number in mine]) for kind, videos in vision.items()}
        texts = (
            {}
            if text is None or text_real is None
            else {"text": text[samples], "text_real": text_real[samples]}
        )
        assignment = merger.merge(VideoTokens(features, **texts, **given))
        check_assignment(assignment, merger, retained.new_ones(len(mine), grid.tokens))
        retained[rows, numbers] = kept(assignment)
        folds.append(_Fold(where, assignment))
    return retained, folds


def kept(assignment: Assignment) -> Tensor:
    """Return the tokens that stay: (rows, tokens)."""
    return assignment.into == torch.arange(assignment.into.shape[1], device=assignment.into.device)


def check_assignment(assignment: Any, method: Any, candidates: Tensor) -> None:
    """Raise ValueError, saying what is wrong, for what a method of one's own may not return. The library's
    own are tested instead, since a GPU would have to be waited for."""
    if method.shipped:
        return
    name, shape = type(method).__name__, tuple(candidates.shape)
    if not isinstance(assignment, Assignment) or assignment.into.shape != candidates.shape:
        got = (
            tuple(assignment.into.shape) if isinstance(assignment, Assignment) else type(assignment).__name__
        )
        raise ValueError(
            f"{name} must return an Assignment whose `into` has shape {shape}; it returned {got}"
        )
    if assignment.average and assignment.features is not None:
        raise ValueError(f"{name} returned features and average=True: give one of them")
    into, stays = assignment.into, kept(assignment)
    if bool(((into < -1) | (into >= shape[1])).any()):
        raise ValueError(f"{name} returned numbers outside -1 ... {shape[1] - 1} in `into`")
    if bool((stays & ~candidates).any()):
        raise ValueError(
            f"{name} retained tokens that are gone already: it may retain among state.candidates"
        )
    if bool(((into >= 0) & candidates & ~stays.gather(1, into.clamp(min=0))).any()):
        raise ValueError(
            f"{name} merged tokens into others that are not retained: `into` must name retained tokens"
        )


def _text(layout: TokenLayout, embeds: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor]:
    """Embeddings of the columns that are no visual tokens, (batch, text, dim), and which are no padding."""
    here = (
        torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device) if real is None else real.clone()
    )
    rows, tokens = layout.real.nonzero(as_tuple=True)
    here[rows, layout.columns[rows, tokens]] = False
    index, there = left_packed(here)
    return take(embeds, index), torch.ones_like(index, dtype=torch.bool) if there is None else there


def _positions(positions: Tensor | None, index: Tensor, length: int) -> Tensor:
    """(..., batch, kept), the position of each column that remains; (..., batch, length) or none given for
    the prompt."""
    if positions is None:
        positions = torch.arange(length, device=index.device)[None]
    return take(positions[..., None], index)[..., 0]


def _repacked(positions: Tensor, real: Tensor | None) -> Tensor:
    """As many positions, numbered anew."""
    rank = (
        torch.arange(positions.shape[-1], device=positions.device)[None]
        if real is None
        else real.cumsum(1) - 1
    )
    return rank.clamp(min=0).expand_as(positions)


def _mask(mask: Any, index: Tensor, real: Tensor | None, window: int) -> Any:
    ones = torch.ones_like(index) if real is None else real.long()
    whole = mask.get("full_attention") if isinstance(mask, dict) else None
    if whole is None or whole.ndim != 4:
        return ones  # even if all ones: without a mask, gaps in positions read as packed sequences
    # masks made beforehand, where an image's tokens see each other; a window counts what is left
    full = columns_of(whole, index, real, index)
    steps = torch.arange(index.shape[1], device=index.device)
    outside = steps[:, None] - steps >= window
    return {"full_attention": full, "sliding_attention": full.masked_fill(outside, hidden_value(full))}


def columns_of(mask: Tensor, index: Tensor, real: Tensor | None, rows: Tensor | None = None) -> Tensor:
    """Return these columns of an attention mask, (batch, columns) or (batch, 1, rows, columns), and these of
    its rows."""
    if mask.ndim == 2:
        left = mask.expand(len(index), -1).gather(1, index)
        return left if real is None else left * real
    mask = mask.expand(len(index), -1, -1, -1)
    if rows is not None:
        mask = mask.gather(2, rows[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3]))
    mask = mask.gather(3, index[:, None, None].expand(-1, mask.shape[1], mask.shape[2], -1))
    return mask if real is None else mask.masked_fill(~real[:, None, None], hidden_value(mask))


def causal(real: Tensor) -> Tensor:
    """Return (batch, 1, length, length), True where a column may be attended to: real ones up to one's own,
    and each itself, since a row that saw none would be no number."""
    length = real.shape[1]
    up_to = torch.ones(length, length, dtype=torch.bool, device=real.device).tril()
    return (up_to & real[:, None, None]) | torch.eye(length, dtype=torch.bool, device=real.device)


def hidden_value(mask: Tensor) -> float:
    """Return what hides a column in such a mask."""
    return False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
