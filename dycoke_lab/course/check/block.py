"""Exercises of notebook 05."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from dycoke_lab.attention.blocking import Block
from dycoke_lab.course.check.small import drawn, listed
from dycoke_lab.course.check.verdict import WRITE, Case, compare, hint, right, same
from dycoke_lab.methods import Compression
from dycoke_lab.viz.clip_runs import ClipRunner
from dycoke_lab.viz.course_block import blocked_run, changed_words

__all__ = ["one_word", "renormalised"]
CLIP = "constructed-4-scenes.mp4"  # of the exercise `one_word`


def renormalised(yours: Any) -> bool:
    """`renormalised(attention, hidden)`: the attention after some tokens are hidden. attention: (tokens,) of
    sum 1. hidden: list of tokens."""

    def reference(attention: Tensor, hidden: list[int]) -> list[float]:
        left = [0.0 if token in hidden else value for token, value in enumerate(attention.tolist())]
        return [value / sum(left) for value in left]

    def hints(found: Any, expected: Any, case: Case) -> str:
        attention, hidden = case
        zeroed = [0.0 if n in hidden else value for n, value in enumerate(attention.tolist())]
        if same(found, zeroed):
            return f"The others must sum to 1 again; yours sum to {sum(zeroed):.2f}."
        if same(found, _masked(attention, hidden).softmax(0)):
            return "A softmax over numbers that are attention already flattens them. Divide by their sum."
        return f"With {hidden} hidden of {listed(attention.tolist())}, expected {listed(expected)}."

    cases = []
    for n in range(5):
        row = drawn(60 + n, 4 + n) + 0.01
        cases.append((row / row.sum(), [n % 4] if n < 3 else [0, 2]))
    return compare(yours, reference, cases, hints, "The tokens that stay keep their proportions.")


def one_word(yours: Any, clip: str = CLIP) -> bool:
    """Give a list of visual tokens of the clip, so that exactly one word changes when they are hidden from
    layer 0 on. A token's number is (frame * rows + row) * cols + col. The check runs the model."""
    if yours is None or yours is ...:
        return hint(WRITE)
    runner = _runner()
    if _is_mask(yours):
        return hint("These are True and False. Give the numbers of the tokens, e.g. by `nonzero`.")
    most = runner.clip(clip).scene.numel() * runner.clip(clip).side ** 2
    try:
        tokens = [int(token) for token in yours]
    except (TypeError, ValueError, RuntimeError):
        return hint(f"Give a list of whole numbers, not {type(yours).__name__}.")
    if not tokens:
        return hint(
            f"The list is empty. Steps {_naming_nothing(clip)} are commas or the end, and name nothing: "
            "choose another step. (With an empty list, `Block` hides the whole video.)"
        )
    if beyond := [token for token in tokens if not 0 <= token < most]:
        return hint(f"{beyond[:3]} are no tokens of this clip, which has 0 to {most - 1}.")
    before = runner.run(clip, Compression()).words
    words = blocked_run(runner, clip, Block(tokens=tokens)).words
    changed = [step for step, other in enumerate(changed_words(words, before)) if other]
    if len(changed) == 1:
        step = changed[0]
        return right(f"Step {step}, {before[step]!r}, became {words[step]!r}: only it read these tokens.")
    if not changed:
        return hint(
            f"No word changes with these {len(tokens)} tokens hidden. Neighbouring frames show the same "
            "thing: hide what a word names in all frames of its scene. If you did, the model guesses this "
            "word right without seeing it: take another word."
        )
    return hint(
        f"{len(changed)} words change (steps {changed[:8]}), and one is wanted. Hide fewer tokens: only "
        "those that one word names."
    )


def _is_mask(yours: Any) -> bool:
    try:
        return torch.as_tensor(yours).dtype == torch.bool
    except (TypeError, ValueError, RuntimeError):
        return False


def _naming_nothing(name: str) -> str:
    clip = _runner().clip(name)
    steps = [str(step) for step in range(len(clip.answer)) if not clip.named(step).any()]
    return ", ".join(steps[:-1]) + f" and {steps[-1]}"


@lru_cache(maxsize=1)
def _runner() -> ClipRunner:
    return ClipRunner(0)


def _masked(attention: Tensor, hidden: list[int]) -> Tensor:
    out = attention.clone()
    out[hidden] = -torch.inf
    return out
