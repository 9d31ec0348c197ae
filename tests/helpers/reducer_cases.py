"""States and stages for published methods that act inside the prefill, and their loops."""

from __future__ import annotations

from functools import partial

import torch

from dycoke_lab.methods.framefusion import FrameFusion
from dycoke_lab.methods.holitom_inner import HoliTomInner
from dycoke_lab.methods.interface import LayerState, Place
from dycoke_lab.methods.prunevid_inner import PruneVidInner
from dycoke_lab.methods.pyramiddrop import PyramidDrop
from helpers.oracles import Stage
from helpers.published_reducers import frame_fusion, holi_tom, prune_vid, pyramid_drop, sttm


def slow_of(method, depth=4):
    """The loops for a method of a model of this depth, as `Slow.reduce`."""
    kind, kept = type(method), 1 - method.prune_ratio
    at = list(method.layers(depth))
    if kind is PyramidDrop:
        loops = partial(pyramid_drop, kept=kept, at=at)
    elif kind is PruneVidInner:
        loops = partial(prune_vid, alpha=kept)
    elif kind is HoliTomInner:
        loops = partial(holi_tom, ratio=method.prune_ratio)
    elif kind is FrameFusion:
        loops = partial(frame_fusion, cost=kept, similarity=method.similarity, bound=method.ratio_bound)
    else:
        tau_t = method.tau_s if method.tau_t is None else method.tau_t
        loops = partial(sttm, tau_s=method.tau_s, tau_t=tau_t, root=method.root_level)
    return dict.fromkeys(at, loops)


def state_of(grids, kind, seed=0, batch=2, dim=6, layer=2, depth=4, memory=None, candidates=None):
    """A state of such videos, the same sizes in each batch element."""
    g = torch.Generator().manual_seed(seed)
    parts, videos, start, hidden = [], [], 0, []
    for video, grid in enumerate(grids):
        frame, row, col = torch.meshgrid(*map(torch.arange, grid), indexing="ij")
        parts.append(torch.stack([frame + start, row, col]).flatten(1))
        videos.append(torch.full((frame.numel(),), video))
        start += grid[0]
        values = torch.randn(batch, *grid, dim, generator=g, dtype=torch.float64)
        if kind == "equal frames":
            values = values[:, :1].expand_as(values)
        elif kind == "still":  # alike, more or less
            values = 0.4 * values + torch.randn(batch, 1, 1, 1, dim, generator=g, dtype=torch.float64)
        elif kind == "ties":
            values = values.clamp(-1, 1).round()
        hidden.append(values.flatten(1, 3))
    visual = sum(map(len, videos))
    place = Place(*(part.expand(batch, -1) for part in torch.cat(parts, 1)))
    window = torch.rand(batch, 3, 4, visual, generator=g, dtype=torch.float64)
    if kind == "ties":
        window = (3 * window).round() / 3
    there = torch.ones(batch, visual, dtype=torch.bool) if candidates is None else candidates
    if kind == "gaps" and candidates is None:
        there = torch.rand(batch, visual, generator=g) < 0.7
        there[1] &= there[0]
    scores = window[:, :, -1].mean(1) * there
    return LayerState(
        layer, torch.cat(hidden, 1), scores, there, there.sum(1), place,
        torch.cat(videos).expand(batch, -1), depth, {} if memory is None else memory, lambda: window,
    )  # fmt: skip


def stage_of(state, row, memory):
    """What the loops are given of a batch element."""
    where = torch.stack([state.video, *state.place])[:, row].T.tolist()
    first = {}
    for video, frame, _, _ in where:
        first.setdefault(video, frame)
    return Stage(
        state.hidden[row],
        state.scores[row].tolist(),
        state.candidates[row].nonzero()[:, 0].tolist(),
        state.layer,
        state.depth,
        [(v, f - first[v], r, c) for v, f, r, c in where],
        state.window_attention[row],
        memory,
    )
