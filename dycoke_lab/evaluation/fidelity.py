"""Fidelity: how near a method stays to the full cache, on any model and any videos, without labels.

The full cache's own greedy answer is the reference. Each method is run through real decoding steps: forced,
where it is given the reference so far at each step; and free, where it goes on with what it writes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from dycoke_lab.evaluation.diagnosis import written_tokens
from dycoke_lab.evaluation.metrics import differing
from dycoke_lab.methods import METHODS, Compression, Merger, Method, compose
from dycoke_lab.models import decoder_of
from dycoke_lab.runtime.compat import CACHE
from dycoke_lab.runtime.shared_prefill import SharedPrefill

MERGED = 0.75  # K of all tokens but those of each window's first frame are merged away


@dataclass(frozen=True)
class Setting:
    """A method at a share of visual tokens that it keeps. merge_ratio: of temporal merging before it."""

    method: str
    kept: float
    from_layer: int = 3
    merge_ratio: float = 0.0

    def compression(self) -> Compression:
        """Raises ValueError for an unknown method, and for a share that it cannot keep."""
        if not 0 < self.kept < 1:
            raise ValueError(f"kept={self.kept} must be above 0 and below 1: the share of tokens to keep")
        if self.method in METHODS and issubclass(METHODS[self.method], Merger):
            if self.kept < 1 - MERGED:
                raise ValueError(
                    f"kept={self.kept}: {self.method} keeps at least {1 - MERGED:g} of the tokens"
                )
            return compose("full", (1 - self.kept) / MERGED)
        return compose(self.method, self.merge_ratio, 1 - self.kept, self.from_layer)


@dataclass(frozen=True)
class Reference:
    """What the full cache writes. answer: (1, tokens), with its end. logits: (1, tokens, vocabulary)."""

    shared: SharedPrefill
    inputs: dict[str, Any]
    answer: Tensor
    logits: Tensor


def reference(model: Any, inputs: Mapping[str, Any], max_new_tokens: int = 128) -> Reference:
    """Return the full cache's greedy answer to one prompt, and what other methods' runs share with it."""
    inputs = dict(inputs)
    with torch.inference_mode():
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
    answer = ids[:, inputs["input_ids"].shape[1] :]
    if len(answer) != 1:
        raise ValueError(f"inputs holds {len(answer)} prompts: give one, with one or several videos")
    shared = SharedPrefill(model, inputs)
    return Reference(shared, inputs, answer, shared.forced(None, answer))


def measure(model: Any, ref: Reference, compression: Compression) -> dict[str, Any]:
    """Return how a method's steps and its own answer differ from the reference.

    Forced, for each token of the reference: kl, of the full cache's distribution to the method's, in nats;
    agrees, whether the method's first choice is that token; rank of that token among the method's, from 1.
    Free: departs, the number of the first token that differs, None if none does; changed, how many words
    differ.
    """
    answer, end = ref.answer, model.generation_config.eos_token_id
    logits, free = _runs(model, ref, compression)
    full, other = (part[0].float().log_softmax(-1) for part in (ref.logits, logits))
    token = answer[0, :, None]
    own = free[0][written_tokens(free, end)[0]]
    both = min(len(own), answer.shape[1])
    differs = (own[:both] != answer[0, :both]).nonzero()[:, 0].tolist()
    departs = differs[0] if differs else None if len(own) == answer.shape[1] else both
    return {
        "kl": [round(value, 5) for value in (full.exp() * (full - other)).sum(-1).tolist()],
        "agrees": "".join(str(int(same)) for same in (other.argmax(-1) == token[:, 0]).tolist()),
        "rank": (1 + (other > other.gather(1, token)).sum(-1)).tolist(),
        "departs": departs,
        "free": own.tolist(),
    }


def _runs(model: Any, ref: Reference, compression: Compression) -> tuple[Tensor, Tensor]:
    """Return the forced logits and the free tokens under a compression."""
    answer = ref.answer
    if compression.reducer is not None:
        return _alone(model, ref.inputs, compression, answer)
    merging = Compression(compression.merger)
    shared = SharedPrefill(model, ref.inputs, merging) if merging.parts else ref.shared
    free = shared.greedy(compression.selector, answer.shape[1])
    return shared.forced(compression.selector, answer), free


@torch.inference_mode()
def _alone(model: Any, inputs: dict[str, Any], compression: Compression, answer: Tensor) -> Any:
    """The same for what acts inside the prefill."""
    steps = answer.shape[1]
    with compression(model):
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=steps)
        cache = {CACHE: DynamicCache(config=decoder_of(model).config)}
        out = model(**inputs, use_cache=True, logits_to_keep=1, **cache)
        logits = [out.logits[:, -1]]
        for step in range(steps - 1):
            out = model(input_ids=answer[:, step : step + 1], use_cache=True, **cache)
            logits.append(out.logits[:, -1])
    return torch.stack(logits, 1), ids[:, inputs["input_ids"].shape[1] :]


def fidelity_rows(
    model: Any, processor: Any, inputs: Mapping[str, Any], settings: Iterable[Setting],
    max_new_tokens: int = 128,
) -> Iterable[dict[str, Any]]:  # fmt: skip
    """Yield a row for each setting: what `measure` finds, the texts, and how many words changed."""
    ref = reference(model, inputs, max_new_tokens)

    def text(ids: Any) -> str:
        return str(processor.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    full = text(ref.answer[0])
    for setting in settings:
        found = measure(model, ref, setting.compression())
        written = text(found.pop("free"))
        changed = differing(full, written)[0]
        yield {
            "setting": vars(setting), **found, "words": len(full.split()), "changed": changed,
            "reference": full, "text": written,
        }  # fmt: skip


def steps_table(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Return a tidy table: a row for each video, setting and token of the reference."""
    tables = []
    for row in rows:
        steps = range(len(row["kl"]))
        agrees = [int(digit) for digit in row["agrees"]]
        each = pd.DataFrame({"step": steps, "kl": row["kl"], "agrees": agrees, "rank": row["rank"]})
        tables.append(each.assign(video=row["video"], **row["setting"]))
    return pd.concat(tables, ignore_index=True)


def class_from(place: str) -> tuple[str, type[Method]]:
    """Return the name and the method of "my.py:Class". Raises ValueError if there is none."""
    path, _, name = place.rpartition(":")
    if not path.endswith(".py") or not Path(path).is_file():
        raise ValueError(f"method={place!r}: {path or place} is no Python file; write file.py:Class")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise ValueError(f"method={place!r}: {path} has no method called {name}")
    return name, found
