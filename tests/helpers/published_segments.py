"""Loops for FastVID, PruneVid and HoliTom, and for what they share, written from their
specifications."""

from __future__ import annotations

import itertools
import math

from helpers.oracles import best, cosine

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
        denser = [j for j in range(size) if (density[j], -j) > (density[i], -i)]
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


def fastvid(
    frames: list[Tokens], received: list[list[float]], r: float, c: int = 8, tau: float = 0.9,
    d: float = 0.4, p: int = 4, beta: float = 0.6,
) -> tuple[list[int], Tokens]:  # fmt: skip
    """What each token is merged into, and new features."""
    size = len(frames[0])
    into = [-1] * (len(frames) * size)
    new = [list(token) for frame in frames for token in frame]
    budget = max(1, part(size, r))
    peaks_a_frame = part(budget, d)
    means = [mean(frame) for frame in frames]
    similarity = [round(cosine(a, b), 9) for a, b in itertools.pairwise(means)]
    for segment in cut_where_unlike(similarity, c, tau):
        others = {}
        for frame in segment:
            salient = best(received[frame], list(range(size)), budget - peaks_a_frame)
            others[frame] = [frame * size + t for t in range(size) if t not in salient]
            for t in salient:
                into[frame * size + t] = frame * size + t
        anchor_frames = segment[::-1][::p]
        count = peaks_a_frame * len(segment) // len(anchor_frames)
        there = [token for frame in segment for token in others[frame]]
        flat = {token: frames[token // size][token % size] for token in there}
        closest: dict[int, tuple[float, int]] = {}  # for each token, of all anchor frames
        for frame in sorted(anchor_frames):
            scores = peaks([flat[token] for token in others[frame]], 4)
            chosen = best(scores, list(range(len(scores))), count)
            anchors = sorted(others[frame][number] for number in chosen)
            members: dict[int, list[int]] = {anchor: [] for anchor in anchors}
            for token in flat if anchors else []:
                close = {anchor: round(cosine(flat[token], flat[anchor]), 9) for anchor in anchors}
                if token in anchors:
                    close[token] = math.inf
                one = max(anchors, key=lambda anchor: (close[anchor], -anchor))
                members[one].append(token)
                if token not in closest or close[one] > closest[token][0]:
                    closest[token] = (close[one], one)
            for anchor, mine in members.items():
                weight = max(1 / (len(mine) + 1), beta)
                average = mean([flat[token] for token in mine])
                new[anchor] = [
                    weight * x + (1 - weight) * y for x, y in zip(flat[anchor], average, strict=True)
                ]
        for token, (_, anchor) in closest.items():
            into[token] = anchor
    return into, new


def prunevid(
    frames: list[Tokens], cluster_ratio: float = 0.5, tau: float = 0.8,
    temporal_segment_ratio: float = 0.25, whole: float = 14 / 144,
) -> list[int]:  # fmt: skip
    """What each token is merged into; every group becomes its mean."""
    size = len(frames[0])
    into = list(range(len(frames) * size))

    def grouped(tokens: Tokens) -> list[int]:
        if len(tokens) <= part(size, whole):
            return list(range(len(tokens)))
        return clusters(tokens, max(1, part(len(tokens), cluster_ratio)), 7)

    count = max(1, part(len(frames), temporal_segment_ratio))
    for window in contiguous(clusters([mean(frame) for frame in frames], count, 7)):
        static = []
        for place in range(size):
            pairs = itertools.combinations([frames[frame][place] for frame in window], 2)
            close = [cosine(a, b) for a, b in pairs]
            if close and sum(close) / len(close) > tau:
                static.append(place)
        averages = [mean([frames[frame][place] for frame in window]) for place in static]
        for place, centre in zip(static, grouped(averages) if static else [], strict=True):
            for frame in window:
                into[frame * size + place] = window[0] * size + static[centre]
        rest = [place for place in range(size) if place not in static]
        for frame in window if rest else []:
            for place, centre in zip(rest, grouped([frames[frame][q] for q in rest]), strict=True):
                into[frame * size + place] = frame * size + rest[centre]
    return into


def holitom(
    frames: list[Tokens], received: list[list[float]], retain_ratio: float, tau: float = 0.8,
    beta: float = 0.6, k: int = 7,
) -> tuple[list[int], Tokens]:  # fmt: skip
    """What each token is merged into, and new features."""
    size, total = len(frames[0]), len(frames) * len(frames[0])
    into, new = [-1] * total, [list(token) for frame in frames for token in frame]
    alike = [
        [round(cosine(frames[f][t], frames[f + 1][t]), 9) > tau for t in range(size)]
        for f in range(len(frames) - 1)
    ]
    windows = most_static(alike)
    share = min(1, retain_ratio * total / (total - sum(saved(alike, window) for window in windows)))
    for window in windows:
        static = [t for t in range(size) if len(window) > 1 and all(alike[f][t] for f in window[:-1])]
        rest = [t for t in range(size) if t not in static]
        for frame in window:
            for t in best(received[frame], rest, math.ceil(round(len(rest) * share, 9))):
                into[frame * size + t] = frame * size + t
        averages = [mean([frames[frame][t] for frame in window]) for t in static]
        if count := round(round(len(static) * share, 9)):
            joined = clusters(averages, count, min(k, count))
            for centre in set(joined):
                others = [a for n, a in enumerate(averages) if joined[n] == centre and n != centre]
                own = averages[centre]
                if others:
                    own = [beta * x + (1 - beta) * y for x, y in zip(own, mean(others), strict=True)]
                new[window[0] * size + static[centre]] = own
            for t, centre in zip(static, joined, strict=True):
                for frame in window:
                    into[frame * size + t] = window[0] * size + static[centre]
    return into, new
