"""Loops for FastVID, PruneVid and HoliTom, and for what they share, written from their specifications."""

from __future__ import annotations

import itertools
import math

from helpers.oracles import best

Tokens = list[list[float]]


def distance(a: list[float], b: list[float]) -> float:
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True))) / math.sqrt(len(a))


def mean(rows: Tokens) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def part(total: int, share: float) -> int:
    """int(), though a product may come out a little too small."""
    return math.floor(total * share + 1e-9)


def peaks(tokens: Tokens, neighbours: int) -> list[float]:
    """Density, times the distance to the nearest denser token."""
    size = len(tokens)
    far = [[distance(a, b) for b in tokens] for a in tokens]
    density = []
    for row in far:
        near = sorted(row)[:neighbours]
        density.append(math.exp(-sum(d * d for d in near) / len(near)))
    scores = []
    for i in range(size):
        denser = [j for j in range(size) if density[j] > density[i] or (density[j] == density[i] and j < i)]
        apart = min(far[i][j] for j in denser) if denser else max(map(max, far))
        scores.append(density[i] * apart)
    return scores


def clusters(tokens: Tokens, count: int, neighbours: int) -> list[int]:
    """The centre that each token belongs to."""
    centres = sorted(best(peaks(tokens, neighbours), list(range(len(tokens))), count))
    return [
        i if i in centres else min(centres, key=lambda c: (distance(tokens[i], tokens[c]), c))
        for i in range(len(tokens))
    ]


def cut_where_unlike(similarity: list[float], c: int, tau: float) -> list[list[int]]:
    segments: list[list[int]] = [[0]]
    for pair, close in enumerate(similarity):
        smaller = sum((other, n) < (close, pair) for n, other in enumerate(similarity))
        if close < tau or smaller < c - 1:
            segments.append([])
        segments[-1].append(pair + 1)
    return segments


def contiguous(labels: list[int]) -> list[list[int]]:
    frames, found = len(labels), list(labels)

    def run(at: list[int], frame: int) -> list[int]:
        """The stretch around a frame that has its label."""
        first = last = frame
        while first > 0 and at[first - 1] == at[frame]:
            first -= 1
        while last + 1 < frames and at[last + 1] == at[frame]:
            last += 1
        return list(range(first, last + 1))

    for frame in range(frames):
        mine = len(run(labels, frame))
        others = [len(run(labels, other)) for other in range(frames) if labels[other] == labels[frame]]
        if mine == 1 or mine < max(others):
            found[frame] = -1
    for frame in range(frames):
        if found[frame] == -1:
            gap = run(found, frame)
            left = run(found, gap[0] - 1) if gap[0] > 0 else []
            right = run(found, gap[-1] + 1) if gap[-1] + 1 < frames else []
            label = 0
            if left or right:
                label = found[left[0]] if len(left) >= len(right) else found[right[0]]
            for one in gap:
                found[one] = label
    segments: list[list[int]] = [[0]]
    for frame in range(1, frames):
        if found[frame] != found[frame - 1]:
            segments.append([])
        segments[-1].append(frame)
    return segments


def saved(alike: list[list[bool]], segment: list[int]) -> int:
    tokens = range(len(alike[0])) if alike else []
    static = [t for t in tokens if all(alike[pair][t] for pair in segment[:-1])]
    return len(static) * (len(segment) - 1)


def most_static(alike: list[list[bool]]) -> list[list[int]]:
    """Every way to cut, and of the best ones that whose last segments are shortest."""
    frames, ways = len(alike) + 1, []
    for cut in itertools.product((False, True), repeat=frames - 1):
        segments = [[0]]
        for frame in range(1, frames):
            if cut[frame - 1]:
                segments.append([])
            segments[-1].append(frame)
        ways.append(segments)
    return min(ways, key=lambda way: (-sum(saved(alike, s) for s in way), [len(s) for s in way[::-1]]))
