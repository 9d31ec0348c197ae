"""Methods of one's own, as a user would write them, and loops for each, written from its paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from dycoke_lab.methods import (
    Assignment,
    LayerState,
    Merger,
    PrefillReducer,
    Selector,
    Step,
    VideoTokens,
)
from dycoke_lab.methods.scores import retained_budget, top
from helpers.oracles import Rule, Slow, Stage, Video, best, choose, cosine


@dataclass(frozen=True)
class WithinFrame(Merger):
    """Merge the `count` most similar pairs of tokens in each frame (ToMe, arXiv 2210.09461)."""

    count: int = 5

    def merge(self, video: VideoTokens) -> Assignment:
        tokens = F.normalize(video.features.flatten(2, 3), dim=-1)
        videos, frames, size, _ = tokens.shape
        close, partner = (tokens[:, :, ::2] @ tokens[:, :, 1::2].mT).max(-1)
        gone = close.topk(self.count, -1).indices
        into = torch.arange(frames * size, device=gone.device).view(frames, size).repeat(videos, 1, 1)
        ends = into[:, :, 1::2].gather(2, partner.gather(2, gone))
        return Assignment(into.scatter(2, 2 * gone, ends).flatten(1), average=True)


@dataclass(frozen=True)
class MostAttendedPatches(Merger):
    """Keep the share of each frame's tokens that receive most attention in the vision tower (as VisionZip,
    arXiv 2412.04467)."""

    share: float = 0.4

    needs: ClassVar[frozenset[str]] = frozenset({"vision_attention:-2"})

    def merge(self, video: VideoTokens) -> Assignment:
        received = video.vision_attention.flatten(2)  # videos, frames, tokens
        kept = received.topk(int(self.share * received.shape[2] + 0.5), -1).indices
        mask = torch.zeros_like(received, dtype=torch.bool).scatter(2, kept, True)
        return Assignment.keep(mask.flatten(1))


@dataclass(frozen=True)
class WindowOfQueries(Selector):
    """Keep, for each key head, what the prompt's last queries attend to (SnapKV, arXiv 2404.14469, without
    its pooling)."""

    scope: ClassVar[str] = "head"
    window: ClassVar[int] = 8

    def select(self, step: Step) -> torch.Tensor:
        votes = step.window_attention.sum(2)  # batch, heads, visual
        votes = votes.unflatten(1, (step.scores.shape[1], -1)).sum(2)
        return top(votes, step.candidates, step.budget)


@dataclass(frozen=True)
class HeavyHitters(Selector):
    """Keep what was attended to most so far, one token fewer at each step (as H2O, arXiv 2306.14048)."""

    scope: ClassVar[str] = "layer"
    every_step: ClassVar[bool] = True
    fixed_budget: ClassVar[bool] = False

    def select(self, step: Step) -> torch.Tensor:
        step.memory["sum"] = step.memory.get("sum", 0) + step.scores
        return top(step.memory["sum"], step.candidates, (step.budget - step.number).clamp(min=1))


@dataclass(frozen=True)
class Pyramid(PrefillReducer):
    """Drop a share of what is left before each layer from `from_layer` (as PyramidDrop, arXiv 2410.17247)."""

    def layers(self, depth: int) -> range:
        return range(self.from_layer, depth)

    def reduce(self, state: LayerState) -> Assignment:
        count = retained_budget(state.candidates, self.prune_ratio)
        return Assignment.keep(top(state.scores, state.candidates, count))


@dataclass(frozen=True)
class AboveThreshold(Selector):
    """Keep, for each key head, the tokens with more attention than this: a number that is not fixed."""

    threshold: float = 1e-3

    scope: ClassVar[str] = "head"
    fixed_budget: ClassVar[bool] = False

    def select(self, step: Step) -> torch.Tensor:
        return step.candidates & (step.scores > self.threshold)


@dataclass(frozen=True)
class SmallestKeys(Selector):
    """Keep, in each layer, the tokens whose keys have the smallest norm (arXiv 2406.11430)."""

    scope: ClassVar[str] = "layer"

    def select(self, step: Step) -> torch.Tensor:
        return top(-step.keys.norm(dim=-1).sum(1), step.candidates, step.budget)


@dataclass(frozen=True)
class Chessboard(Selector):
    """Keep every second place of frames, rows and columns."""

    fixed_budget: ClassVar[bool] = False

    def select(self, step: Step) -> torch.Tensor:
        frame, row, col = step.place
        return step.candidates & ((frame + row + col) % 2 == 0)


@dataclass(frozen=True)
class IntoTheNearest(PrefillReducer):
    """Merge each token that FastV would drop into the retained one whose hidden state is nearest."""

    def layers(self, depth: int) -> list[int]:
        return [self.from_layer, self.from_layer + 1]

    def reduce(self, state: LayerState) -> Assignment:
        stays = top(state.scores, state.candidates, retained_budget(state.candidates, self.prune_ratio))
        hidden = F.normalize(state.hidden, dim=-1)
        close = (hidden @ hidden.mT).masked_fill(~stays[:, None], -torch.inf)
        numbers = torch.arange(stays.shape[1], device=stays.device)
        into = torch.where(stays, numbers, close.argmax(-1))
        return Assignment(into.masked_fill(~stays.any(1, keepdim=True), -1), average=True)


@dataclass(frozen=True)
class LikeTheText(Merger):
    """Keep the half of a video that is most like the mean of the prompt's text, twice as large."""

    needs: ClassVar[frozenset[str]] = frozenset({"text"})

    def merge(self, video: VideoTokens) -> Assignment:
        features, real = video.features.flatten(1, 3), video.text_real[..., None]
        text = (video.text * real).sum(1) / real.sum(1)
        close = F.cosine_similarity(features, text[:, None], dim=-1)
        everything = torch.ones_like(close, dtype=torch.bool)
        kept = top(close, everything, retained_budget(everything, 0.5))
        return Assignment.keep(kept)._replace(features=2 * features)


@dataclass(frozen=True)
class LargestVisionKeys(Merger):
    """Keep the half of each frame whose keys in the first vision layer are largest."""

    needs: ClassVar[frozenset[str]] = frozenset({"vision_keys:0"})

    def merge(self, video: VideoTokens) -> Assignment:
        size = video.vision_keys.norm(dim=-1).flatten(2)
        everything = torch.ones_like(size, dtype=torch.bool)
        return Assignment.keep(top(size, everything, retained_budget(everything, 0.5)).flatten(1))


def pairs_within_frames(video: Video, count: int) -> list[int]:
    """Loops for WithinFrame: token by token."""
    into, size = [], 16
    for frame, tokens in enumerate(video.features.flatten(1, 2).tolist()):
        ends, close = list(range(size)), {}
        for token in range(0, size, 2):
            partner = max(range(1, size, 2), key=lambda other: cosine(tokens[token], tokens[other]))
            close[token] = (cosine(tokens[token], tokens[partner]), partner)
        for token in sorted(close, key=close.__getitem__, reverse=True)[:count]:
            ends[token] = close[token][1]
        into += [frame * size + end for end in ends]
    return into


def most_attended(video: Video, received: list, share: float) -> list[int]:
    """Loops for MostAttendedPatches. received: of each video, for each frame what its tokens receive."""
    into = []
    for scores in received[video.number]:
        kept = best(scores, list(range(len(scores))), int(share * len(scores) + 0.5))
        start = len(into)
        into += [start + token if token in kept else -1 for token in range(len(scores))]
    return into


def by_window(look, window=8):
    votes = [0.0] * len(look.scores)
    for head in look.attention.tolist():
        for row in head[-window:]:
            votes = [vote + one for vote, one in zip(votes, row, strict=True)]
    return best(votes, look.candidates, look.budget)


def by_sum(look):
    before = look.memory.get("sum", [0.0] * len(look.scores))
    look.memory["sum"] = [one + two for one, two in zip(before, look.scores, strict=True)]
    return best(look.memory["sum"], look.candidates, max(1, look.budget - look.number))


BY_WINDOW = Slow(rule=Rule(by_window, from_layer=2, prune_ratio=0.6, scope="head"))
BY_SUM = Slow(rule=Rule(by_sum, from_layer=1, prune_ratio=0.6, scope="layer", every_step=True))


def above_threshold(look):
    return {v for v in look.candidates if look.scores[v] > 1e-3}


def smallest_keys(look):
    sizes = [0.0] * len(look.scores)
    for head in look.keys.tolist():
        sizes = [size + sum(x * x for x in key) ** 0.5 for size, key in zip(sizes, head, strict=True)]
    return best([-size for size in sizes], look.candidates, look.budget)


def chessboard(look):
    return {v for v in look.candidates if (v // 16 + v // 4 % 4 + v % 4) % 2 == 0}


def into_the_nearest(stage: Stage, share: float) -> list[int]:
    stays = choose(stage.scores, stage.present, share)
    hidden, into = stage.hidden.tolist(), []
    for token in range(len(stage.scores)):
        if token in stays:
            into.append(token)
        else:
            into.append(max(sorted(stays), key=lambda end: cosine(hidden[token], hidden[end])))
    return into


def like_the_text(video: Video) -> list[int]:
    text = video.text.tolist()
    mean = [sum(column) / len(text) for column in zip(*text, strict=True)]
    close = [cosine(token, mean) for token in video.features.flatten(0, 2).tolist()]
    kept = choose(close, list(range(len(close))), 0.5)
    return [token if token in kept else -1 for token in range(len(close))]
