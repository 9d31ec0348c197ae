"""One question about one video under a setting: what was written, from how many tokens, in how much memory and time."""

from __future__ import annotations

import difflib
import time
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache

from dycoke_lab.apply import DyCoke, generation_of
from dycoke_lab.cache import WaitingLayer
from dycoke_lab.compat import CACHE
from dycoke_lab.config import DyCokeConfig
from dycoke_lab.explore import wrong_words
from dycoke_lab.video import on_model


@dataclass(frozen=True)
class Answer:
    """text: what was written. visual: the video's tokens; left: those that merging left; attended: those that layers from
    L on attend to at the last step. held, read: bytes of keys and values that the cache holds in the end, waiting ones
    included, and that the last step's attention reads. seconds: wall-clock time of `generate`, prefill included."""

    text: str
    visual: int
    left: int
    attended: int
    held: int
    read: int
    seconds: float


def answer(model: Any, processor: Any, inputs: Any, config: DyCokeConfig, max_new_tokens: int = 128) -> Answer:
    """Greedy `generate` on one prompt with one video (`dycoke_lab.video.prompt`) under this setting.

    Raises what `DyCoke` raises for a model or setting it cannot take, ValueError for a prompt without a video.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 1")
    inputs = on_model(inputs, model)
    settings: dict[str, Any] = {"do_sample": False, "return_dict_in_generate": True}
    with DyCoke(config)(model):
        model.generate(**inputs, **settings, max_new_tokens=1)  # the first call pays for what is set up once
        started = time.perf_counter()
        out = model.generate(**inputs, **settings, max_new_tokens=max_new_tokens)
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        cache = getattr(out, CACHE)
        generation = generation_of(model, cache)
        if generation is None:
            raise ValueError("inputs holds no video: make it with dycoke_lab.video.prompt")
        left = int(generation.available.sum())
        attended = left if generation.selected is None else int(generation.selected.sum())
        held, read = cache_bytes(cache)
    written = out.sequences[0, inputs["input_ids"].shape[1] :]
    text = processor.tokenizer.decode(written, skip_special_tokens=True).strip()
    return Answer(text, generation.available.shape[1], left, attended, held, read, seconds)


def cache_bytes(cache: Cache) -> tuple[int, int]:
    """Bytes of keys and values that a cache holds, and that a step's attention reads. What waits is held, and not read."""
    held = read = 0
    layers: list[Any] = cache.layers  # type: ignore[assignment]
    for layer in layers:
        attended = sum(part.numel() * part.element_size() for part in (layer.keys, layer.values))
        held += layer.held() if isinstance(layer, WaitingLayer) else attended
        read += attended
    return held, read


def differing(full: str, compressed: str) -> tuple[int, str]:
    """How many words of two answers differ, and the second with its differing words in [brackets]; [-] where some are missing.

    Answers of one length are compared word by word, others by their longest common parts."""
    a, b = full.split(), compressed.split()
    if len(a) == len(b):
        wrong = wrong_words(b, a)
        return sum(wrong), " ".join(f"[{word}]" if bad else word for word, bad in zip(b, wrong, strict=True))
    count, shown = 0, []
    for kind, i, j, k, m in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if kind == "equal":
            shown += b[k:m]
        else:
            count += max(j - i, m - k)
            shown += [f"[{word}]" for word in b[k:m]] or ["[-]"]
    return count, " ".join(shown)


def comparison(full: Answer, compressed: Answer, config: DyCokeConfig) -> str:
    """Two answers as a text for a terminal."""
    count, shown = differing(full.text, compressed.text)
    name = "DyCoke" if config.method == "dynamic" else str(config.method)
    by = f"K={config.merge_ratio:g}, L={config.score_layer}, P={config.prune_ratio:g}, {config.method}"
    rows = [
        ("visual tokens in the prompt", full.left, compressed.left),
        (f"of them attended to from layer {config.score_layer} on", full.attended, compressed.attended),
        ("keys and values held, KB", f"{full.held / 1000:.0f}", f"{compressed.held / 1000:.0f}"),
        ("keys and values read at a step, KB", f"{full.read / 1000:.0f}", f"{compressed.read / 1000:.0f}"),
        ("seconds", f"{full.seconds:.3f}", f"{compressed.seconds:.3f}"),
    ]
    table = "\n".join(f"{name:<38}{a:>14}{b:>14}" for name, a, b in rows)
    return (
        f"full cache: {full.text}\n{name + ':':<11} {shown}\n{count} of {len(full.text.split())} words differ ({by})\n\n"
        f"{'':<38}{'full cache':>14}{name:>14}\n{table}"
    )
