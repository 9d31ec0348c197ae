"""Loops for published methods that act inside the prefill, written from their specifications."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from helpers.oracles import Stage, best, choose, cosine, share_of

Found = tuple[list[int], Tensor]  # what tokens become, and the features of those that stay


def close(a: list[float], b: list[float]) -> float:
    return round(cosine(a, b), 6)


def mean(rows: list[list[float]]) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def staying(stage: Stage, stays: set[int]) -> list[int]:
    return [token if token in stays else -1 for token in range(len(stage.hidden))]


def pyramid_drop(stage: Stage, kept: float, at: list[int]) -> list[int]:
    """PyramidDrop: of the video's first number of tokens `kept` at the first stage, its square at the second,
    its cube at the third. at: the layers of the stages."""
    first = stage.memory.setdefault("first", len(stage.present))
    passed = len([layer for layer in at if layer <= stage.layer])
    return staying(stage, best(stage.scores, stage.present, share_of(first, kept**passed)))


def prune_vid(stage: Stage, alpha: float) -> list[int]:
    """PruneVid inside the LLM: the greatest attention of any head of any token after the video, and the share
    alpha of each frame's tokens."""
    heads: list = stage.text.tolist()
    scores = [max(row[v] for head in heads for row in head) for v in range(len(stage.hidden))]
    stays: set[int] = set()
    for frame in sorted({stage.place[v][:2] for v in stage.present}):
        stays |= choose(scores, [v for v in stage.present if stage.place[v][:2] == frame], alpha)
    return staying(stage, stays)


def holi_tom(stage: Stage, ratio: float) -> Found:
    """HoliTom inside the LLM: 1 - ratio stay by the last query's attention; each other one goes into the one
    that it is most like, which becomes the mean of the two, and so on with the next."""
    stays = choose(stage.scores, stage.present, 1 - ratio)
    into, hidden = staying(stage, stays), stage.hidden.tolist()
    new = [list(row) for row in hidden]
    for token in stage.present:
        if token in stays:
            continue
        end = max(sorted(stays), key=lambda other: close(hidden[token], hidden[other]))
        into[token] = end
        new[end] = mean([new[end], hidden[token]])
    return into, torch.tensor(new, dtype=stage.hidden.dtype)


def frame_fusion(stage: Stage, cost: float, similarity: float, bound: float) -> Found:
    """FrameFusion: merge in the first layers, then prune once, so that the layers have `cost` of the tokens
    on average."""
    memory, present = stage.memory, stage.present
    if not memory:
        memory.update(first=len(present), had=[len(present)] * stage.layer, doing="merge")
    rest = cost * stage.depth * memory["first"] - sum(memory["had"])  # for the layers from here on
    target = min(len(present), max(1, math.floor(rest / (stage.depth - stage.layer) + 0.5 + 1e-9)))
    hidden = stage.hidden.tolist()
    into, new = list(range(len(hidden))), [list(row) for row in hidden]
    if memory["doing"] == "prune":
        memory["doing"] = "nothing"
        into = staying(stage, best(stage.scores, present, target))
    elif memory["doing"] == "merge":
        before: dict[int, int] = {}  # the token of the same patch in the frame before, of those still there
        last: dict[tuple, int] = {}
        for token in present:
            video, _, row, col = stage.place[token]
            if (video, row, col) in last:
                before[token] = last[video, row, col]
            last[video, row, col] = token
        alike = {v: close(hidden[v], hidden[other]) for v, other in before.items()}
        gone = [v for v in before if alike[v] >= similarity]
        if len(gone) >= len(present) - target:
            gone = sorted(gone, key=lambda v: (-alike[v], v))[: len(present) - target]
            memory["doing"] = "nothing"
        elif len(gone) < bound * len(present):
            memory["doing"] = "prune"
        runs: dict[int, list[int]] = {}
        for token in present:  # the one before is done already
            into[token] = into[before[token]] if token in gone else token
            runs.setdefault(into[token], []).append(token)
        for end, run in runs.items():
            new[end] = mean([hidden[v] for v in run])
    memory["had"].append(len([v for v in present if into[v] == v]))
    return into, torch.tensor(new, dtype=stage.hidden.dtype)


def sttm(stage: Stage, tau_s: float, tau_t: float, root: int) -> Found:
    """STTM: areas of a frame that are alike, and such areas of consecutive frames that lie in each other."""
    hidden = stage.hidden.tolist()
    into, new = [-1] * len(hidden), [list(row) for row in hidden]
    for video in {place[0] for place in stage.place}:
        at = {stage.place[v][1:]: v for v in range(len(hidden)) if stage.place[v][0] == video}
        frames, rows, cols = (1 + max(place[axis] for place in at) for axis in range(3))
        areas: list[tuple[int, set, list[float], int]] = []  # frame, cells, features, first token
        for frame in range(frames):
            tokens = {(r, c): v for (f, r, c), v in at.items() if f == frame and v in stage.present}
            for cells, features in areas_of(tokens, hidden, rows, cols, tau_s, root):
                areas.append((frame, cells, features, min(tokens[x] for x in cells if x in tokens)))
        group = list(range(len(areas)))
        for (i, one), (j, other) in itertools.combinations(enumerate(areas), 2):
            nested = one[1] <= other[1] or other[1] <= one[1]
            if abs(one[0] - other[0]) == 1 and nested and close(one[2], other[2]) >= tau_t:
                group = [group[i] if g == group[j] else g for g in group]
        for g in set(group):
            members = [area for number, area in enumerate(areas) if group[number] == g]
            end = min(area[3] for area in members)
            new[end] = mean([area[2] for area in members])
            for frame, cells, _, _ in members:
                for cell in cells:
                    if at[frame, *cell] in stage.present:
                        into[at[frame, *cell]] = end
    return into, torch.tensor(new, dtype=stage.hidden.dtype)


def halves(size: int) -> list[list[int]]:
    """Which numbers of a level become one of the next: pairs, but a first one alone if they are odd."""
    if size == 1:
        return [[0]]
    return ([[0]] if size % 2 else []) + [[i, i + 1] for i in range(size % 2, size, 2)]


def areas_of(
    tokens: dict[tuple[int, int], int], hidden: list, rows: int, cols: int, least: float, root: int
) -> list[tuple[set, list[float]]]:
    """The areas that a frame is divided into: the places and features of each."""
    # of each level, by place: features (none without tokens), and the places of its quarters
    levels: list[dict] = [{(r, c): (None, []) for r in range(rows) for c in range(cols)}]
    levels[0].update({place: (hidden[v], []) for place, v in tokens.items()})
    while min(sides := [1 + max(place[axis] for place in levels[-1]) for axis in range(2)]) > 2:
        below, level = levels[-1], {}
        high, wide = sides
        for (r, some), (c, others) in itertools.product(enumerate(halves(high)), enumerate(halves(wide))):
            quarters = list(itertools.product(some, others))
            values = [below[q][0] for q in quarters if below[q][0] is not None]
            level[r, c] = (mean(values) if values else None, quarters)
        levels.append(level)

    def places(level: int, place: tuple[int, int]) -> set:
        if level == 0:
            return {place}
        return set().union(*(places(level - 1, q) for q in levels[level][place][1]))

    def divide(level: int, place: tuple[int, int]) -> list:
        features, quarters = levels[level][place]
        if features is None:
            return []
        below = [levels[level - 1][q][0] for q in quarters]
        if all(close(values, features) >= least for values in below if values is not None):
            return [(places(level, place), features)]
        return [area for q in quarters for area in divide(level - 1, q)]

    start = max(0, len(levels) - 1 - root)
    return [area for place in levels[start] for area in divide(start, place)]
