"""Loops for the published mergers and the controls beside them, written from their papers and codes."""

from __future__ import annotations

import math
from typing import Any

import torch

from helpers.oracles import Slow, Video, best, cosine, share_of

Result = tuple[list[int], list[list[float]]]  # what each token is merged into, and its new features


def alike(a: list[float], b: list[float]) -> float:
    return round(cosine(a, b), 6)


def frames_of(video: Video) -> list[list[list[float]]]:
    return video.features.flatten(1, 2).tolist()


def nearest(value: float) -> int:
    return math.floor(value + 0.5 + 1e-9)


def mean(rows: list[list[float]]) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def weighted(rows: list[list[float]], weights: list[float]) -> list[float]:
    total = [0.0] * len(rows[0])
    for row, weight in zip(rows, weights, strict=True):
        total = [have + weight * value for have, value in zip(total, row, strict=True)]
    return total


def add(a: list[float], b: list[float]) -> list[float]:
    return [x + y for x, y in zip(a, b, strict=True)]


def visionzip(video: Video, received: Any, keys: Any, dominant: float, contextual: float) -> Result:
    into, new = [], []
    for frame, tokens in enumerate(frames_of(video)):
        scores, key, size = received[video.number][frame], keys[video.number][frame], len(tokens)
        kept = best(scores, list(range(size)), share_of(size, dominant))
        rest = [token for token in range(size) if token not in kept]
        wanted = nearest(contextual * len(kept))
        targets = rest[:: max(1, len(rest) // wanted)][:wanted] if wanted else []
        groups: dict[int, list[int]] = {target: [] for target in targets}
        for token in rest:
            if token not in groups and targets:
                groups[max(targets, key=lambda target: alike(key[token], key[target]))].append(token)
        ends = {token: token for token in [*kept, *targets]}
        for target, members in groups.items():
            ends |= dict.fromkeys(members, target)
            if members:
                tokens[target] = add(tokens[target], mean([tokens[token] for token in members]))
        into += [frame * size + ends[token] if token in ends else -1 for token in range(size)]
        new += tokens
    return into, new


def quantile(values: list[float], share: float) -> float:
    ordered, at = sorted(values), share * (len(values) - 1)
    low = math.floor(at)
    high = min(low + 1, len(values) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def prumerge(video: Video, received: Any, keys: Any, ratio: float | None, neighbours: float) -> Result:
    into, new = [], []
    for frame, tokens in enumerate(frames_of(video)):
        scores, key, size = received[video.number][frame], keys[video.number][frame], len(tokens)
        everyone = list(range(size))
        if ratio is None:
            high, low = quantile(scores, 0.75), quantile(scores, 0.25)
            outliers = max(1, sum(score > high + 1.5 * (high - low) for score in scores))
            step = max(1, size // outliers // 3)
            kept = best(scores, everyone, outliers) | set(range(0, size, step))
        else:
            total = share_of(size, ratio)
            total -= 1 if 1 < total < size else 0  # the sum of the rest counts
            kept = best(scores, everyone, share_of(total, 0.25))
            others, more = [token for token in everyone if token not in kept], total - len(kept)
            kept |= {others[math.ceil(part * len(others) / more)] for part in range(more)}
        weights = [score / sum(scores) for score in scores]
        changed = [list(token) for token in tokens]
        for token in kept:
            others = [other for other in everyone if other != token]
            near = sorted(others, key=lambda other: (-alike(key[token], key[other]), other))
            for other in near[: share_of(size, neighbours)]:
                changed[token] = add(changed[token], [weights[other] * value for value in tokens[other]])
        rest = [token for token in everyone if token not in kept]
        if rest:
            changed[rest[0]] = weighted([tokens[token] for token in rest], [weights[token] for token in rest])
        into += [frame * size + (token if token in kept else rest[0]) for token in everyone]
        new += changed
    return into, new


def unit(row: list[float]) -> list[float]:
    length = math.sqrt(sum(x * x for x in row))
    return [x / length for x in row] if length else row


def likeness(a: list[float], b: list[float]) -> float:
    squares = sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
    return sum(math.exp(-squares / (2 * 2.0**power)) for power in range(-3, 2))


def vidcom2(video: Video, R: float, temperature: float) -> list[int]:
    frames = frames_of(video)
    rows = [token for tokens in frames for token in tokens]
    size, spreads = len(frames[0]), []
    for column in zip(*rows, strict=True):
        middle = sum(column) / len(rows)
        spreads.append(sum((value - middle) ** 2 for value in column) / len(rows))
    scale = sum(spreads) / len(spreads) or 1.0
    order = sorted(range(len(spreads)), key=lambda channel: (round(spreads[channel] / scale, 6), channel))
    low = sorted(order[: max(1, len(order) // 2)])
    frames = [[unit([token[channel] for channel in low]) for token in tokens] for tokens in frames]
    whole = mean([token for tokens in frames for token in tokens])
    of_video = [[likeness(token, whole) for token in tokens] for tokens in frames]
    unlike = [-round(sum(scores) / size, 6) for scores in of_video]
    powers = [math.exp((one - max(unlike)) / temperature) for one in unlike]
    into = []
    for frame, tokens in enumerate(frames):
        share = min(1.0, R * (1 + powers[frame] / sum(powers) - 1 / len(frames)))
        middle = mean(tokens)
        scores = [
            -round(score + likeness(token, middle), 6)
            for score, token in zip(of_video[frame], tokens, strict=True)
        ]
        kept = best(scores, list(range(size)), max(1, nearest(share * size)))
        into += [frame * size + token if token in kept else -1 for token in range(size)]
    return into


def evs(video: Video, q: float) -> list[int]:
    frames = frames_of(video)
    size, changes = len(frames[0]), []
    for frame, tokens in enumerate(frames):
        for slot, token in enumerate(tokens):
            changes.append(1 - alike(token, frames[frame - 1][slot]) if frame else math.inf)
    count = max(size, int((1 - q) * len(changes) + 1e-9))
    kept = best([round(change, 6) for change in changes], list(range(len(changes))), count)
    return [token if token in kept else -1 for token in range(len(changes))]


def divprune(video: Video, ratio: float) -> list[int]:
    rows = [token for tokens in frames_of(video) for token in tokens]
    close = [[alike(a, b) for b in rows] for a in rows]
    numbers = range(len(rows))

    def farthest(apart: dict[int, float]) -> int:
        return min(apart, key=lambda token: (-apart[token], token))

    def distance(token: int, others: list[int]) -> float:
        return min((round(1 - close[token][other], 6) for other in others), default=0.0)

    kept = [farthest({a: distance(a, [b for b in numbers if b != a]) for a in numbers})]
    while len(kept) < share_of(len(rows), ratio):
        kept.append(farthest({a: distance(a, kept) for a in numbers if a not in kept}))
    return [token if token in kept else -1 for token in numbers]


def tome(video: Video, ratio: float, r: float) -> list[int]:
    into = []
    for frame, tokens in enumerate(frames_of(video)):
        size = len(tokens)
        groups = [[token] for token in range(size)]  # the first of each is the one that stays
        while len(groups) > share_of(size, ratio):
            means = [mean([tokens[token] for token in group]) for group in groups]
            odd, found = list(range(1, len(groups), 2)), []
            for even in range(0, len(groups), 2):
                partner = max(odd, key=lambda other: alike(means[even], means[other]))
                found.append((-alike(means[even], means[partner]), even, partner))
            pairs = min(share_of(size, r), len(groups) // 2, len(groups) - share_of(size, ratio))
            for _, even, partner in sorted(found)[:pairs]:
                groups[partner] = groups[partner] + groups[even]
                groups[even] = []
            groups = [group for group in groups if group]
        ends = {token: group[0] for group in groups for token in group}
        into += [frame * size + ends[token] for token in range(size)]
    return into


def fewer_frames(video: Video, share: float) -> list[int]:
    frames, rows, cols, _ = video.features.shape
    count = share_of(frames, share)
    kept = {math.floor((part + 0.5) * frames / count + 1e-9) for part in range(count)}
    return [t if t // (rows * cols) in kept else -1 for t in range(frames * rows * cols)]


def smaller_frames(video: Video, share: float) -> Result:
    frames, rows, cols, _ = video.features.shape
    sides = [{max(1, round_(side * math.sqrt(share))) for round_ in (lower, upper)} for side in (rows, cols)]
    grids = [(row, col) for row in sorted(sides[0]) for col in sorted(sides[1])]
    high, wide = min(grids, key=lambda g: (round(abs(g[0] * g[1] - share * rows * cols), 6), g[0] * g[1], g))
    into, new = [-1] * (frames * rows * cols), []
    for tokens in frames_of(video):
        new += [list(token) for token in tokens]
    for frame, tokens in enumerate(frames_of(video)):
        for row in range(high):
            for col in range(wide):
                top, left = math.floor((row + 0.5) * rows / high), math.floor((col + 0.5) * cols / wide)
                at = (frame * rows + top) * cols + left
                into[at] = at
                parts = [
                    ([down * across * value for value in tokens[y * cols + x]])
                    for y, down in between((row + 0.5) * rows / high - 0.5, rows)
                    for x, across in between((col + 0.5) * cols / wide - 0.5, cols)
                ]
                new[at] = [sum(column) for column in zip(*parts, strict=True)]
    return into, new


def lower(value: float) -> int:
    return math.floor(value + 1e-9)


def upper(value: float) -> int:
    return math.ceil(value - 1e-9)


def between(at: float, size: int) -> list[tuple[int, float]]:
    """The two places that a point lies between, inside the grid, and how much each counts."""
    at = max(at, 0.0)
    low = min(math.floor(at), size - 1)
    return [(low, 1 - (at - low)), (min(low + 1, size - 1), at - low)]


def subset(video: Video, name: str, share: float, seed: int = 0) -> list[int]:
    size = math.prod(video.features.shape[:3])
    count = share_of(size, share)
    kept = {
        "RandomTokens": lambda: set(
            torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:count].tolist()
        ),
        "EveryNth": lambda: {math.ceil(part * size / count) for part in range(count)},
        "FirstTokens": lambda: set(range(count)),
    }[name]()
    return [token if token in kept else -1 for token in range(size)]


def loops_of(merger: Any, received: Any = None, keys: Any = None) -> Slow:
    """Return the loops that a merger of this group must equal. received, keys: of the vision tower, by video
    and frame."""
    name, given = type(merger).__name__, {**vars(merger)}
    repacked = given.pop("positions") == "repacked"
    loops: Any = {"VisionZip": visionzip, "PruMergePlus": prumerge, "VidCom2": vidcom2, "EVS": evs,
                  "DivPrune": divprune, "ToMe": tome, "FewerFrames": fewer_frames,
                  "SmallerFrames": smaller_frames}.get(name, subset)  # fmt: skip
    if loops is subset:
        given["name"] = name
    if name in ("VisionZip", "PruMergePlus"):
        given |= {"received": received, "keys": keys}
    if name not in ("VisionZip", "PruMergePlus", "SmallerFrames"):
        return Slow(merge=lambda video: loops(video, **given), average=name == "ToMe", repacked=repacked)
    return Slow(
        merge=lambda video: loops(video, **given)[0],
        features=lambda video: torch.tensor(loops(video, **given)[1], dtype=video.features.dtype),
        repacked=repacked,
    )
