"""One question about one video: what is written under a compression, and what it takes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any

import pandas as pd
import torch

from dycoke_lab.evaluation.metrics import differing
from dycoke_lab.methods import Compression, DyCoke, Method
from dycoke_lab.models import decoder_of
from dycoke_lab.runtime.compat import CACHE
from dycoke_lab.runtime.compressed_cache import cache_bytes
from dycoke_lab.runtime.session import generation_of
from dycoke_lab.video import on_model


@dataclass(frozen=True)
class PromptResult:
    """An answer and what it took.

    visual: tokens of the video. retained: those that merging retained. active: those that the pruned layers
    attend to at the last step. held: bytes of keys and values in the cache at the end, of inactive tokens,
    too.
    read: those of them that the last step's attention reads. seconds: wall-clock time of `generate`, with
    prefill.
    """

    text: str
    visual: int
    retained: int
    active: int
    held: int
    read: int
    seconds: float


def answer_prompt(
    model: Any, processor: Any, inputs: Any, compression: Compression | Method, max_new_tokens: int = 128
) -> PromptResult:
    """Answer one prompt with one video (`dycoke_lab.video.prompt`) by greedy `generate` under this
    compression.

    Raises ValueError for a prompt without a video, and what the compression raises for a model that it cannot
    have.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 1")
    inputs = on_model(inputs, model)
    settings: dict[str, Any] = {"do_sample": False, "return_dict_in_generate": True}
    with compression(model):
        model.generate(**inputs, **settings, max_new_tokens=1)  # the first call includes one-time costs
        started = time.perf_counter()
        out = model.generate(**inputs, **settings, max_new_tokens=max_new_tokens)
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        cache = getattr(out, CACHE)
        generation = generation_of(model, cache)
        if generation is None:
            raise ValueError(
                "inputs holds no video: make it with dycoke_lab.video.prompt, of two frames or more"
            )
        visual, retained = generation.retained.shape[1], int(generation.retained.sum())
        active = min(int(generation.attended(layer).sum()) for layer in range(len(decoder_of(model).layers)))
        held, read = cache_bytes(cache)
    written = out.sequences[0, inputs["input_ids"].shape[1] :]
    text = processor.tokenizer.decode(written, skip_special_tokens=True).strip()
    return PromptResult(text, visual, retained, active, held, read, seconds)


def over_ratios(
    model: Any, processor: Any, inputs: Any, full: PromptResult, from_layer: int, max_new_tokens: int = 128,
    merge: Iterable[float] = (0.0, 0.3, 0.5, 0.7), prune: Iterable[float] = (0.0, 0.5, 0.7, 0.9),
) -> pd.DataFrame:  # fmt: skip
    """Return a row for each K and P of DyCoke: words that differ from the full cache's, active tokens in % of
    the video's, keys and values held, seconds."""
    rows = []
    for merge_ratio, prune_ratio in product(merge, prune):
        setting = DyCoke(merge_ratio, prune_ratio, from_layer)
        got = answer_prompt(model, processor, inputs, setting, max_new_tokens)
        row = {"K": merge_ratio, "P": prune_ratio, "words that differ": differing(full.text, got.text)[0]}
        row |= {"active, %": 100 * got.active / got.visual, "held, KB": got.held / 1000}
        rows.append({**row, "seconds": got.seconds})
    return pd.DataFrame(rows)


def comparison(full: PromptResult, compressed: PromptResult, compression: Compression) -> str:
    """Return two answers and what they took, as text for a terminal."""
    count, shown = differing(full.text, compressed.text)
    settings = f"K={compression.merge_ratio:g}, P={compression.prune_ratio:g}"
    if compression.prune_ratio:
        settings += f", L={compression.from_layer}"
    table = pd.DataFrame({"full cache": _column(full), "compressed": _column(compressed)})
    return (
        f"full cache: {full.text}\n"
        f"compressed: {shown}\n"
        f"{count} of {len(full.text.split())} words differ ({compression.label}; {settings})\n\n"
        f"{table.to_string()}"
    )


def _column(result: PromptResult) -> dict[str, str]:
    return {
        "visual tokens after merging": str(result.retained),
        "active ones, in the pruned layers": str(result.active),
        "keys and values held, KB": f"{result.held / 1000:.0f}",
        "keys and values read at a step, KB": f"{result.read / 1000:.0f}",
        "seconds": f"{result.seconds:.3f}",
    }
