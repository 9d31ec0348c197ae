"""Published methods that act inside the prefill, against loops written from their specifications."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers.reducer_cases import slow_of, stage_of, state_of

from dycoke_lab.methods.framefusion import FrameFusion
from dycoke_lab.methods.holitom_inner import HoliTomInner, folded
from dycoke_lab.methods.interface import Place
from dycoke_lab.methods.prunevid_inner import PruneVidInner
from dycoke_lab.methods.pyramiddrop import PyramidDrop
from dycoke_lab.methods.quadtree import linked, quadtree
from dycoke_lab.methods.sttm import STTM
from dycoke_lab.methods.temporal_merging import average_into

# videos of a prompt, (frames, rows, columns) each
GRIDS = [
    [(1, 1, 1)],
    [(3, 2, 2)],
    [(4, 3, 5)],
    [(5, 1, 7)],
    [(2, 6, 7)],
    [(2, 4, 4), (3, 2, 3)],
    [(2, 2, 2), (2, 2, 2)],
]
KINDS = ["random", "ties", "equal frames", "still", "gaps"]


def equal(method, state, loops, memories):
    """Compare a choice with the loops. Return the tokens that stay."""
    state = dataclasses.replace(state, budget=method.budget(state.candidates))
    found, numbers = method.reduce(state), torch.arange(state.hidden.shape[1])
    into = numbers.expand_as(state.video) if found is None else found.into
    into = into.masked_fill(~state.candidates, -1)
    new = state.hidden if found is None or found.features is None else found.features
    if found is not None and found.average:
        new = average_into(state.hidden, into)
    for row, memory in enumerate(memories):
        want = loops(stage_of(state, row, memory))
        want, features = want if isinstance(want, tuple) else (want, state.hidden[row])
        present = state.candidates[row]
        assert into[row, present].tolist() == torch.tensor(want)[present].tolist()
        stays = (into[row] == numbers) & present
        torch.testing.assert_close(new[row, stays], features[stays], atol=1e-12, rtol=0)
    return into == numbers


METHODS_HERE = [
    PyramidDrop(0.4),
    PyramidDrop(0.7, stages=(0.3, 0.35)),
    PruneVidInner(0.6, from_layer=2),
    PruneVidInner(0.9, from_layer=2),
    HoliTomInner(0.5, from_layer=2),
    HoliTomInner(0.85, from_layer=2),
    STTM(),
    STTM(tau_s=0.5, tau_t=0.3, root_level=0),
    STTM(tau_s=1.0, tau_t=1.0, root_level=9),
    STTM(tau_s=-1, tau_t=0.8, root_level=0),
    STTM(tau_s=0.7, tau_t=None, root_level=0),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grids", GRIDS, ids=str)
@pytest.mark.parametrize("method", METHODS_HERE, ids=str)
def test_a_choice_equals_its_loops(method, grids, kind):
    loops = next(iter(slow_of(method).values()))
    for seed in range(2):
        equal(method, state_of(grids, kind, seed), loops, [{}, {}])


FUSIONS = [
    FrameFusion(),
    FrameFusion(0.4, from_layer=1, similarity=0.9),
    FrameFusion(0.5, similarity=1.0, ratio_bound=0.0),
    FrameFusion(0.6, similarity=0.2, ratio_bound=0.5),
    FrameFusion(0.9, similarity=-1),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grids", GRIDS, ids=str)
@pytest.mark.parametrize("method", FUSIONS, ids=str)
def test_fusion_through_all_layers_equals_its_loops(method, grids, kind):
    loops, depth = next(iter(slow_of(method).values())), 6
    for seed in range(2):
        memory, memories, there = {}, [{}, {}], None
        for layer in method.layers(depth):
            mixed = kind if layer % 2 else "still"
            state = state_of(grids, mixed, 10 * seed + layer, 2, 6, layer, depth, memory, there)
            there = equal(method, state, loops, memories) & state.candidates


def test_a_video_alone_is_treated_as_in_a_batch():
    for method in [*METHODS_HERE, FrameFusion(0.5)]:
        state = state_of([(4, 3, 5)], "still", batch=3)
        whole = method.reduce(dataclasses.replace(state, budget=method.budget(state.candidates)))
        for row in range(3):
            one = slice(row, row + 1)
            alone = dataclasses.replace(
                state, hidden=state.hidden[one], scores=state.scores[one], candidates=state.candidates[one],
                budget=method.budget(state.candidates[one]), place=Place(*(p[one] for p in state.place)),
                video=state.video[one], memory={}, _window=lambda window=state.window_attention[one]: window,
            )  # fmt: skip
            found = method.reduce(alone)
            assert torch.equal(found.into[0], whole.into[row])
            if found.features is not None:
                assert torch.equal(found.features[0], whole.features[row])


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (PyramidDrop, dict(prune_ratio=1), "prune_ratio=1 must be at least 0 and below 1"),
        (PyramidDrop, dict(stages=()), r"stages=\(\) must be shares of the depth"),
        (PyramidDrop, dict(stages=(0.5, 1)), "stages=.* above 0 and below 1"),
        (PyramidDrop, dict(from_layer=0), "from_layer=0 must be a whole number from 1"),
        (PruneVidInner, dict(prune_ratio=-0.1), "prune_ratio=-0.1"),
        (PruneVidInner, dict(from_layer=0), "from_layer=0"),
        (HoliTomInner, dict(prune_ratio=1.5), "prune_ratio=1.5"),
        (HoliTomInner, dict(from_layer=2.0), "from_layer=2.0"),
        (FrameFusion, dict(prune_ratio=1.0), "prune_ratio=1.0"),
        (FrameFusion, dict(similarity=1.2), "similarity=1.2 must lie between -1 and 1"),
        (FrameFusion, dict(ratio_bound=-1), "ratio_bound=-1 must lie between 0 and 1"),
        (FrameFusion, dict(from_layer=-1), "from_layer=-1 must be a whole number from 0"),
        (STTM, dict(tau_s=2), "tau_s=2 must lie between -1 and 1"),
        (STTM, dict(tau_t=float("nan")), "tau_t=nan"),
        (STTM, dict(root_level=-1), "root_level=-1 must be a whole number from 0"),
        (STTM, dict(from_layer="2"), "from_layer='2'"),
    ],
)
def test_parameters_out_of_range_are_named(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        kind(**fields)


def by_hand(hidden, scores, grid, **fields):
    """A state of one video, of hidden states and scores that can be worked on paper."""
    state = state_of([grid], "random", batch=1, dim=len(hidden[0]))
    fields = {"layer": 2, "depth": 4, **fields}
    return dataclasses.replace(state, hidden=torch.tensor([hidden]), scores=torch.tensor([scores]), **fields)


def test_a_pyramid_by_hand():
    """8 tokens: 4 stay at layer 8 of 32, 2 at layer 16, 1 at layer 24."""
    method, memory = PyramidDrop(), {}
    assert list(method.layers(32)) == [8, 16, 24] and list(method.layers(28)) == [7, 14, 21]
    scores = [0.1, 0.5, 0.2, 0.4, 0.3, 0.9, 0.0, 0.2]
    there, left = torch.ones(1, 8, dtype=torch.bool), []
    for layer in (8, 16, 24):
        state = by_hand(
            [[0.0]] * 8, scores, (2, 2, 2), candidates=there, memory=memory, layer=layer, depth=32
        )
        there = method.reduce(state).into >= 0
        left.append(there[0].nonzero()[:, 0].tolist())
    assert left == [[1, 3, 4, 5], [1, 5], [5]]


def test_the_greatest_attention_of_any_head_by_hand():
    """2 frames of 3 tokens, 1 of each stays: the last head's only interest is token 2."""
    window = torch.zeros(1, 2, 2, 6)
    window[0, 0, 0] = torch.tensor([0.3, 0.2, 0.0, 0.1, 0.3, 0.1])
    window[0, 1, 1, 2] = 0.9
    state = by_hand([[0.0]] * 6, [0.0] * 6, (2, 1, 3))
    found = PruneVidInner(0.67).reduce(dataclasses.replace(state, _window=lambda: window))
    assert found.into.tolist() == [[-1, -1, 2, -1, 4, -1]]


def test_folding_one_after_the_other_by_hand():
    """Tokens 1 and 2 stay. 0 and then 3 go into 1: (4 + 8) / 2 = 6, (6 + 2) / 2 = 4."""
    hidden = [[8.0, 0.0], [4.0, 0.0], [0.0, 5.0], [2.0, 0.0]]
    state = by_hand(hidden, [0.1, 0.4, 0.3, 0.2], (1, 2, 2), budget=torch.tensor([2]))
    found = HoliTomInner().reduce(state)
    assert found.into.tolist() == [[1, 1, 2, 1]]
    assert found.features[0, 1:3].tolist() == [[4.0, 0.0], [0.0, 5.0]]
    assert folded(torch.ones(2, 1), torch.zeros(0, 1), torch.zeros(0, dtype=torch.long)).tolist() == [
        [1],
        [1],
    ]


def test_a_fusion_by_hand():
    """4 frames of 2 patches, cost 1/2 of 2 layers: all 8 tokens would be 2 * 8; half of it is 8 in all.

    Patch 0 turns once, so frames 0, 1 and 2, 3 are merged: two tokens. Patch 1 is always new: four tokens.
    6 in layer 0 leave 2 to layer 1: those with the most attention, of tokens 0, 1, 3, 4, 5 and 7.
    """
    a, b, c, d = [1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]
    method, memory = FrameFusion(0.5, ratio_bound=0.3), {}
    hidden = [a, a, a, b, b, c, b, d]
    start = by_hand(hidden, [0.0] * 8, (4, 1, 2), layer=0, depth=2, memory=memory)
    found = method.reduce(start)
    assert found.into.tolist() == [[0, 1, 0, 3, 4, 5, 4, 7]] and found.average
    there = found.into == torch.arange(8)
    scores = [0.1, 0.2, 0.9, 0.1, 0.5, 0.1, 0.9, 0.1]
    then = by_hand(hidden, scores, (4, 1, 2), layer=1, depth=2, memory=memory, candidates=there)
    assert method.reduce(then).into.tolist() == [[-1, 1, -1, -1, 4, -1, -1, -1]]


def test_areas_by_hand():
    """2 frames of 3 x 3: the first row and column stay single, 2 x 2 areas are left; then over time."""
    frame = torch.tensor([[1.0, 2.0, 4.0], [5.0, 2.0, 2.0], [7.0, 2.0, 6.0]])  # of one dimension: all alike
    grid = torch.stack([frame, frame + 1])[..., None]
    node, mean = quadtree(grid, torch.ones(2, 3, 3, dtype=torch.bool), 0.9, root_level=0)
    first = torch.tensor([[0, 1, 1], [3, 4, 4], [3, 4, 4]])
    assert torch.equal(node, torch.stack([first, first + 9]))
    assert mean[0, :, :, 0].tolist() == [[1, 3, 3], [6, 3, 3], [6, 3, 3]]  # 3 = (2 + 2 + 2 + 6) / 4
    state = by_hand(grid.flatten()[:, None].tolist(), [0.0] * 18, (2, 3, 3))
    found = STTM(root_level=0).reduce(state)
    assert found.into.tolist() == [first.flatten().tolist() * 2]
    assert found.features[0, [0, 1, 3, 4], 0].tolist() == [1.5, 3.5, 6.5, 3.5]
    assert STTM().reduce(state).into.tolist() == [list(range(9)) * 2]  # over time alone
    assert linked(4, torch.tensor([3, 3]), torch.tensor([2, 1])).tolist() == [0, 1, 1, 1]
