"""FastV (arXiv 2403.06764): the same one-shot choice, made inside the prefill, so that the prompt's later
layers never see the dropped tokens either."""

from __future__ import annotations

from dataclasses import dataclass

from dycoke_lab.methods.last_query import LastQuery


@dataclass(frozen=True)
class FastV(LastQuery):
    in_prefill: bool = True
