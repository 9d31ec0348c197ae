"""Slow, obvious versions of each piece of the method, written from the paper; nothing here calls the library."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / max(math.sqrt(sum(x * x for x in a) * sum(y * y for y in b)), 1e-8)


def merge(features: Tensor, window: int, ratio: float | None = None, threshold: float | None = None) -> dict[int, int]:
    """Every token's destination, token by token: frames in windows, first frame whole, frame 2 against 1, 3
    against 1, 4 against 3, and so on."""
    frames, tokens, _ = features.shape
    values = features.double().tolist()
    into: dict[int, int] = {}
    for f in range(frames):
        place = f % window + 1  # 1, 2, 3, 4 as the paper counts
        if place == 1:
            into.update({f * tokens + t: f * tokens + t for t in range(tokens)})
            continue
        earlier = f - 1 if place % 2 == 0 else f - 2
        close = {t: cosine(values[f][t], values[earlier][t]) for t in range(tokens)}
        if threshold is not None:
            gone = {t for t in close if close[t] >= threshold}
        else:
            kept = math.floor((1 - ratio) * tokens + 0.5 + 1e-9)
            gone = set(sorted(close, key=lambda t: (-close[t], t))[: tokens - kept])
        for t in range(tokens):
            into[f * tokens + t] = into[earlier * tokens + t] if t in gone else f * tokens + t
    return into


def choose(scores: list[float], alive: list[int], share: float) -> set[int]:
    count = max(1, math.floor(share * len(alive) + 0.5 + 1e-9))
    return set(sorted(alive, key=lambda v: (-scores[v], v))[:count])


def select(
    method: str, scores: list[list[float]], alive: list[int], prune: float, gate: float, noise: list[float]
) -> list[set[int]]:
    """What each decoding step may attend to in layers >= L. scores[0] is the prompt's last token's row."""
    share, everything = 1 - prune, set(alive)
    if method in ("last_query", "fastv"):
        return [choose(scores[0], alive, share)] * (len(scores) - 1)
    if method == "first_step":
        return [choose(scores[1], alive, share)] * (len(scores) - 1)
    if method == "random":
        return [choose(noise, alive, share)] * (len(scores) - 1)
    if method == "keep_none":
        return [set()] * (len(scores) - 1)
    if method == "keep_first":
        return [set(alive[: len(choose(noise, alive, share))])] * (len(scores) - 1)
    if method == "uniform":
        count = len(choose(noise, alive, share))
        return [{alive[math.ceil(b * len(alive) / count)] for b in range(count)}] * (len(scores) - 1)
    if method == "oracle":
        return [choose(noise, alive, share)] * (len(scores) - 1)
    chosen: list[set[int]] = []
    for t in range(1, len(scores)):
        similar = t > 1 and cosine(scores[t], scores[t - 1]) >= gate
        if not similar:
            chosen.append(choose(scores[t], alive, share))
        else:
            chosen.append(chosen[-1] if method == "dynamic" else everything)
    return chosen


class MaskedModel:
    """The unmodified model on prompt and answer at once, with an explicit mask for each layer and row."""

    def __init__(self, model: Any, columns: Tensor, merged: Tensor, prompt: int, layer: int, prune: float, method: str,
                 gate: float, noise: Tensor) -> None:  # fmt: skip
        self.model, self.columns, self.merged, self.prompt = model, columns, merged, prompt
        self.layer, self.prune, self.method, self.gate, self.noise = layer, prune, method, gate, noise
        self.selected: list[list[set[int]]] = []
        self.attention: dict[int, Tensor] = {}
        AttentionInterface.register("tests_oracle", self._attend)
        AttentionMaskInterface.register("tests_oracle", eager_mask)

    def logits(self, **inputs: Any) -> Tensor:
        before = self.model.config.text_config._attn_implementation
        self.model.model.language_model.config._attn_implementation = "tests_oracle"
        try:
            with torch.no_grad():
                return self.model(**inputs, use_cache=False).logits
        finally:
            self.model.model.language_model.config._attn_implementation = before

    def _attend(self, module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scaling: float, **_: Any) -> Any:
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        scores = q @ k.transpose(-1, -2) * scaling
        batch, _, length, _ = scores.shape
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1)[None].repeat(batch, 1, 1)
        for b in range(batch):
            gone = self.columns[b][self.merged[b]]
            hidden[b, :, gone] = True
            if module.layer_idx >= self.layer and self.prune:
                for row in range(0 if self.method == "fastv" else self.prompt, length):
                    kept = self.selected[b][max(row - self.prompt, 0)]
                    for visual, column in enumerate(self.columns[b].tolist()):
                        if visual not in kept:
                            hidden[b, row, column] = True
        p = scores.masked_fill(hidden[:, None], -torch.inf).softmax(-1).nan_to_num(0)
        self.attention[module.layer_idx] = p.mean(1)[:, self.prompt - 1 :]
        if module.layer_idx == self.layer - 1 and self.prune:
            self.selected = []
            for b in range(batch):
                rows = p[b].mean(0)[self.prompt - 1 :][:, self.columns[b]].tolist()
                alive = (~self.merged[b]).nonzero()[:, 0].tolist()
                self.selected.append(select(self.method, rows, alive, self.prune, self.gate, self.noise[b].tolist()))
        return (p @ v).transpose(1, 2).contiguous(), None
