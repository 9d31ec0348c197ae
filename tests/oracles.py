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
    if method not in ("dynamic", "reference_code"):
        raise ValueError(f"method={method!r}: say here what it chooses")
    chosen: list[set[int]] = []
    for t in range(1, len(scores)):
        similar = t > 1 and cosine(scores[t], scores[t - 1]) >= gate
        if not similar:
            chosen.append(choose(scores[t], alive, share))
        else:
            chosen.append(chosen[-1] if method == "dynamic" else everything)
    return chosen


class MaskedModel:
    """The unmodified model on prompt and answer at once, with an explicit mask for each layer and row.

    columns: for each sample those of its visual tokens. merged: for each sample, which of them merging takes away. padding:
    (batch, prompt). steps: how many tokens each call after the prompt's read. blocks: (batch, prompt), tokens with one number
    above 0 see each other (Gemma 3's images).
    """

    def __init__(self, model: Any, decoder: Any, columns: list[Tensor], merged: list[Tensor], padding: Tensor, config: Any,
                 method: str, noise: Tensor, blocks: Tensor | None = None, steps: list[int] | None = None) -> None:  # fmt: skip
        self.model, self.decoder, self.columns, self.merged, self.padding = model, decoder, columns, merged, padding
        self.config, self.method, self.noise, self.blocks = config, method, noise, blocks
        self.prompt = padding.shape[1]
        self.step_of = [number for number, count in enumerate(steps or [1] * 99) for _ in range(count)]
        self.ends = [self.prompt - 1, *(i + self.prompt for i, n in enumerate(self.step_of) if self.step_of[i + 1 : i + 2] != [n])]
        self.kinds = getattr(decoder.config, "layer_types", None) or ["full_attention"] * len(decoder.layers)
        self.selected: list[list[set[int]]] = []
        self.attention: dict[int, Tensor] = {}
        self.visible: dict[int, Tensor] = {}
        AttentionInterface.register("tests_oracle", self._attend)
        AttentionMaskInterface.register("tests_oracle", eager_mask)

    def logits(self, **inputs: Any) -> Tensor:
        before = self.decoder.config._attn_implementation
        self.decoder.config._attn_implementation = "tests_oracle"
        try:
            with torch.no_grad():
                return self.model(**inputs, use_cache=False).logits
        finally:
            self.decoder.config._attn_implementation = before

    def _hidden(self, b: int, layer: int, length: int) -> Tensor:
        """(rows, columns), True where a row may not look."""
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
        if self.blocks is not None:
            block = self.blocks[b]
            hidden[: self.prompt, : self.prompt] &= (block[:, None] != block) | (block == 0)
        gone = set(self.columns[b][self.merged[b]].tolist()) | set((self.padding[b] == 0).nonzero()[:, 0].tolist())
        hidden[:, sorted(gone)] = True
        if self.kinds[layer] == "sliding_attention":
            rank, ranks = 0, []
            for column in range(length):
                ranks.append(rank)
                rank += column not in gone
            order = torch.tensor(ranks)
            hidden |= order[:, None] - order >= self.decoder.config.sliding_window
        elif layer >= self.config.score_layer and self.config.prune_ratio:
            for row in range(0 if self.method == "fastv" else self.prompt, length):
                kept = self.selected[b][self.step_of[max(row - self.prompt, 0)]]
                for visual, column in enumerate(self.columns[b].tolist()):
                    if visual not in kept:
                        hidden[row, column] = True
        return hidden

    def _attend(self, module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scaling: float, **_: Any) -> Any:
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        batch, _, length, _ = q.shape
        hidden = torch.stack([self._hidden(b, module.layer_idx, length) for b in range(batch)])
        p = (q @ k.transpose(-1, -2) * scaling).masked_fill(hidden[:, None], -torch.inf).softmax(-1).nan_to_num(0)
        ends = [end for end in self.ends if end < length]
        self.attention[module.layer_idx] = p.mean(1)[:, ends]
        self.visible[module.layer_idx] = ~hidden[:, ends]
        if module.layer_idx == self.config.score_layer - 1 and self.config.prune_ratio:
            self.selected = []
            for b in range(batch):
                rows = p[b].mean(0)[ends][:, self.columns[b]].tolist()
                alive = (~self.merged[b]).nonzero()[:, 0].tolist()
                noise = self.noise[b].tolist()
                self.selected.append(select(self.method, rows, alive, self.config.prune_ratio, self.config.gate, noise))
        return (p @ v).transpose(1, 2).contiguous(), None
