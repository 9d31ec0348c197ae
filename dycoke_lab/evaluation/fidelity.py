"""Fidelity: how near a method stays to the full cache, on any model and any videos, without labels.

The full cache's own greedy answer is the reference. Each method is run through real decoding steps: forced,
where it is given the reference so far at each step; and free, where it goes on with what it writes.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers.cache_utils import DynamicCache

from dycoke_lab.evaluation.diagnosis import written_tokens
from dycoke_lab.evaluation.metrics import bootstrap, differing
from dycoke_lab.methods import METHODS, PUBLISHED, TTM, Compression, Merger, Method, compose, label_of
from dycoke_lab.models import decoder_of
from dycoke_lab.results.rows import RowStore
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
            if METHODS[self.method] is not TTM:
                return compose(self.method)  # it has no ratio that all mergers have: `retained` is measured
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
    Free: departs, the number of the first token that differs, None if none does; free, its tokens. retained:
    the share of visual tokens that merging retained.
    """
    answer, end = ref.answer, model.generation_config.eos_token_id
    logits, free, retained = _runs(model, ref, compression)
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
        "retained": round(retained, 4),
        "free": own.tolist(),
    }


def _runs(model: Any, ref: Reference, compression: Compression) -> tuple[Tensor, Tensor, float]:
    """Return the forced logits and the free tokens under a compression, and what its merging retained."""
    answer = ref.answer
    merging = Compression(compression.merger)
    shared = SharedPrefill(model, ref.inputs, merging) if merging.parts else ref.shared
    retained = float(shared.retained.float().mean())
    if compression.reducer is not None:
        return *_alone(model, ref.inputs, compression, answer), retained
    free = shared.greedy(compression.selector, answer.shape[1])
    return shared.forced(compression.selector, answer), free, retained


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


def run_fidelity(
    model: Any, processor: Any, paths: Iterable[Path], inputs_of: Callable[[Path], Any],
    settings: list[Setting], out: Path, max_new_tokens: int = 128, about: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return a row for each video and setting; those that the folder `out` has are not run again.

    inputs_of: the prompt of a video. about: what all rows have in common.
    """
    with RowStore(out, **(about or {})) as store:
        done = {(row["video"], Setting(**row["setting"])) for row in store.rows()}
        todo = {str(path): [s for s in settings if (str(path), s) not in done] for path in paths}
        if any(todo.values()):
            store.begin(videos=len(todo))
        for video, missing in tqdm(todo.items(), desc="videos"):
            if not missing:
                continue
            for row in fidelity_rows(model, processor, inputs_of(Path(video)), missing, max_new_tokens):
                store.append([{"video": video, **row}])
        rows = store.rows()
    return [row for row in rows if Setting(**row["setting"]) in settings and row["video"] in todo]


def methods_for(from_layer: int, model: Any) -> list[str]:
    """Return the names of the methods that this model can have, but those that must know the future."""
    skipped = {*PUBLISHED, "hindsight"}
    names = [name for name, cls in METHODS.items() if name not in skipped and not issubclass(cls, Merger)]
    allowed = []
    for name in names:
        try:
            with compose(name, 0, 0.5, from_layer)(model):
                allowed.append(name)
        except ValueError:  # a family that cannot drop tokens inside its prefill
            continue
    return allowed


def fidelity_summary(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Return a row for each method and share kept, with 95 % intervals over videos.

    same choice: tokens of the reference that are the method's first choice, %. KL: in nats a token, mean.
    same answer: videos whose free answer is the reference, %. words changed: of the free answers, %.
    """
    groups: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["setting"]["method"], row["setting"]["kept"]), []).append(row)
    table = []
    for (method, kept), group in groups.items():
        about = {"method": label_of(method), "kept": kept, "videos": len(group)}
        agree = [(row["agrees"].count("1"), len(row["agrees"])) for row in group]
        changed = [(row["changed"], max(1, row["words"])) for row in group]
        kl = [(sum(row["kl"]), len(row["kl"])) for row in group]
        same = [(row["departs"] is None, 1) for row in group]
        table.append({
            **about, "same choice, %": _interval(agree), "KL": _interval(kl, 1, 3),
            "same answer, %": _interval(same), "words changed, %": _interval(changed),
        })  # fmt: skip
    return pd.DataFrame(table).sort_values(["kept", "method"], ascending=[False, True], ignore_index=True)


def _interval(pairs: Sequence[tuple[float, float]], scale: float = 100, digits: int = 1) -> str:
    """Return the ratio of sums with its interval over videos; without one for a single video."""
    mean, low, high = (scale * value for value in bootstrap(np.array([pairs], float)))
    return f"{mean:.{digits}f}" + (f" [{low:.{digits}f}, {high:.{digits}f}]" if len(pairs) > 1 else "")


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
    spec = importlib.util.spec_from_file_location(f"own_methods.{Path(path).stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    found = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise ValueError(f"method={place!r}: {path} has no method called {name}")
    return name, found
