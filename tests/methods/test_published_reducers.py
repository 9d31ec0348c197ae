"""Published methods that act inside the prefill, against loops written from their specifications."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch
from helpers.families import FAMILIES, frames
from helpers.flash import FLASH, register_flash
from helpers.matrix import WORDS, compare_with_the_oracle, generate, mixed_prompts, together
from helpers.oracles import Slow, Stage
from helpers.published_reducers import frame_fusion, holi_tom, prune_vid, pyramid_drop, sttm

from dycoke_lab import TTM, capture_attention
from dycoke_lab.methods.framefusion import FrameFusion
from dycoke_lab.methods.holitom_inner import HoliTomInner, folded
from dycoke_lab.methods.interface import LayerState, Place
from dycoke_lab.methods.prunevid_inner import PruneVidInner
from dycoke_lab.methods.pyramiddrop import PyramidDrop
from dycoke_lab.methods.quadtree import linked, quadtree
from dycoke_lab.methods.sttm import STTM
from dycoke_lab.methods.temporal_merging import average_into

TWO = ("llava_onevision", "qwen3_vl")
REDUCING = [
    pytest.param(name, marks=[] if name in TWO else pytest.mark.slow) for name in FAMILIES if name != "gemma3"
]
MORE = torch.randint(20, 60, (2, 5), generator=torch.Generator().manual_seed(0))  # a second turn
# videos of a prompt, (frames, rows, columns) each
GRIDS = [[(1, 1, 1)], [(3, 2, 2)], [(4, 3, 5)], [(5, 1, 7)], [(2, 4, 4), (3, 2, 3)], [(2, 2, 2), (2, 2, 2)]]
KINDS = ["random", "ties", "equal frames", "still", "gaps"]


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
        loops = partial(sttm, tau_s=method.tau_s, tau_t=method.tau_t, root=method.root)
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


def equal(method, state, loops, memories):
    """Compare a choice with the loops. Return the tokens that stay."""
    state = dataclasses.replace(state, budget=method.budget(state.candidates))
    found, numbers = method.reduce(state), torch.arange(state.hidden.shape[1])
    found = found or type(found)(numbers.expand_as(state.video)) if found else None
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
    STTM(tau_s=0.5, tau_t=0.3, root=0),
    STTM(tau_s=1.0, tau_t=1.0, root=9),
    STTM(tau_s=-1, tau_t=0.8),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grids", GRIDS, ids=str)
@pytest.mark.parametrize("method", METHODS_HERE, ids=str)
def test_a_choice_equals_its_loops(method, grids, kind):
    loops = next(iter(slow_of(method).values()))
    for seed in range(3):
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
    loops, depth = frame_fusion_of(method), 6
    for seed in range(2):
        memory, memories, there = {}, [{}, {}], None
        for layer in method.layers(depth):
            mixed = kind if layer % 2 else "still"
            state = state_of(grids, mixed, 10 * seed + layer, 2, 6, layer, depth, memory, there)
            there = equal(method, state, loops, memories) & state.candidates


def frame_fusion_of(method):
    return next(iter(slow_of(method).values()))


def test_a_video_alone_is_treated_as_in_a_batch():
    for method in [*METHODS_HERE, FrameFusion(0.5)]:
        state = state_of([(4, 3, 5)], "still", batch=3)
        whole = method.reduce(dataclasses.replace(state, budget=method.budget(state.candidates)))
        for row in range(3):
            one = slice(row, row + 1)
            alone = dataclasses.replace(
                state, hidden=state.hidden[one], scores=state.scores[one], candidates=state.candidates[one],
                budget=method.budget(state.candidates[one]), place=Place(*(p[one] for p in state.place)),
                video=state.video[one], memory={}, _window=lambda one=one: state.window_attention[one],
            )  # fmt: skip
            found = method.reduce(alone)
            assert torch.equal(found.into[0], whole.into[row])
            if found.features is not None:
                assert torch.equal(found.features[0], whole.features[row])


def on(family, kind, **fields):
    """A method as this family can have it: on Qwen3-VL from layer 2 on."""
    least = 2 if family.name == "qwen3_vl" else kind.first_layer
    return kind(**{"from_layer": least, **fields})


CASES = [
    (PyramidDrop, {}),
    (PyramidDrop, dict(prune_ratio=0.8, stages=(0.5, 0.75))),
    (PruneVidInner, {}),
    (HoliTomInner, {}),
    (HoliTomInner, dict(prune_ratio=0.9, from_layer=3)),
    (FrameFusion, dict(prune_ratio=0.5, similarity=0.3)),
    (FrameFusion, dict(prune_ratio=0.5, similarity=0.9)),
    (FrameFusion, dict(prune_ratio=0.4, similarity=0.55, ratio_bound=0.0)),
    (STTM, {}),
    (STTM, dict(from_layer=2, tau_s=0.4, tau_t=0.3)),
]


@pytest.mark.parametrize("family", REDUCING, indirect=True)
@pytest.mark.parametrize(("kind", "fields"), CASES)
def test_generation_equals_a_mask_on_the_unmodified_model(family, model, prompts, inputs, kind, fields):
    """In a second turn, too. And it is not what the full model writes."""
    method = on(family, kind, **fields)
    compare_with_the_oracle(family, model, prompts, method, Slow(reduce=slow_of(method)), more=MORE)
    before = generate(model, inputs, 2)[1]
    with method(model):
        assert not torch.allclose(generate(model, inputs, 2)[1], before, atol=1e-4)


@pytest.mark.parametrize("family", REDUCING, indirect=True)
@pytest.mark.parametrize("kind", [PyramidDrop, PruneVidInner, HoliTomInner, FrameFusion, STTM])
def test_several_videos_in_one_prompt(family, model, kind):
    one, two = (frames(n * family.paired, seed) for n, seed in ((6, 3), (6 if family.equal else 4, 4)))
    if not family.mixed:
        two = frames(6 * family.paired, 4)
    parts = ["user\n", ("video", one), WORDS, ("video", two), "then?"]
    method = on(family, kind)
    compare_with_the_oracle(family, model, [parts], method, Slow(reduce=slow_of(method)))


@pytest.mark.parametrize("family", REDUCING, indirect=True)
@pytest.mark.parametrize("kind", [PyramidDrop, PruneVidInner, HoliTomInner, FrameFusion, STTM])
def test_a_padded_batch_equals_the_single_runs(family, model, kind):
    singles = [family.inputs(parts) for parts in mixed_prompts(family)]
    alone = []
    with on(family, kind)(model):
        for single in singles:
            with capture_attention(model) as trace:
                alone.append((generate(model, single, 3)[1], trace))
        with capture_attention(model) as trace:
            logits = generate(model, together(family, singles), 3)[1]
    for b, (expected, single) in enumerate(alone):
        torch.testing.assert_close(logits[b], expected[0], atol=1e-6, rtol=0)
        for layer in range(4):
            assert torch.equal(trace.kept(layer, b), single.kept(layer))


@pytest.mark.parametrize("family", ["llava_onevision"], indirect=True)
@pytest.mark.parametrize("attention", ["eager", "flash"])
def test_other_kernels_below_layer_0(family, model, prompts, attention):
    """A reducer before layer 0 shortens all masks, of a padded batch, too."""
    method = FrameFusion(0.5, similarity=0.3)
    if attention == "eager":
        slow = Slow(reduce=slow_of(method))
        compare_with_the_oracle(family, model, prompts[:1], method, slow, attention="eager")
        return
    register_flash()
    inputs = together(family, [family.inputs(parts) for parts in mixed_prompts(family)])
    with method(model):
        expected = generate(model, inputs)[1]
    model.set_attn_implementation(FLASH)
    with method(model):
        torch.testing.assert_close(generate(model, inputs)[1], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", ["llava_onevision"], indirect=True)
def test_beams_follow_a_reducer_before_layer_0(family, model, prompts):
    inputs = family.inputs(*prompts)
    with STTM(from_layer=0)(model):
        one = generate(model, inputs, 4, num_beams=1)[0]
        first = model.generate(**inputs, num_beams=3, max_new_tokens=1, min_new_tokens=1, do_sample=False)
        many = model.generate(**inputs, num_beams=3, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert torch.equal(first, one[:, : first.shape[1]]) and many.shape == one.shape


@pytest.mark.parametrize("family", ["llava_onevision"], indirect=True)
def test_reducers_compose_with_temporal_merging_and_a_selector(family, model, prompts):
    from helpers.slow_methods import slow_version

    from dycoke_lab.methods import Dynamic

    both = TTM(threshold=0.9) + Dynamic(0.5, from_layer=3)
    parts = slow_version(both, 2, 128)
    for method in (STTM(from_layer=1), PruneVidInner(from_layer=2), FrameFusion(0.4, from_layer=1)):
        at = slow_of(method)
        if type(method) is FrameFusion:
            with pytest.raises(ValueError, match="must lie above the last layer 3"):
                (both + method)(model).__enter__()
            continue
        slow = Slow(merge=parts.merge, reduce=at, rule=parts.rule)
        compare_with_the_oracle(family, model, prompts, both + method, slow)


@pytest.mark.parametrize(
    ("family", "method", "message"),
    [
        *(("gemma3", kind(from_layer=2), "sliding window") for kind in
          (PyramidDrop, PruneVidInner, HoliTomInner, FrameFusion, STTM)),
        ("qwen3_vl", FrameFusion(), "the first 2 layers get visual tokens of their own"),
        ("qwen3_vl", PyramidDrop(), "at from_layer=1: the first 2 layers get visual"),
        ("llava_onevision", HoliTomInner(), r"acts before layers \[18\].* it may act before 1 to 3"),
        ("llava_onevision", STTM(from_layer=4), r"acts before layers \[4\].* it may act before 0 to 3"),
    ],
    indirect=["family"],
)  # fmt: skip
def test_what_a_model_cannot_do_is_refused(family, model, method, message):
    with pytest.raises(ValueError, match=message):
        method(model).__enter__()


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
        (STTM, dict(tau_s=2), "tau_s=2 is a cosine similarity"),
        (STTM, dict(tau_t=float("nan")), "tau_t=nan"),
        (STTM, dict(root=-1), "root=-1 must be a whole number from 0"),
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
    return dataclasses.replace(
        state, hidden=torch.tensor([hidden]), scores=torch.tensor([scores]), **fields
    )


def test_a_pyramid_by_hand():
    """8 tokens: 4 stay at layer 8 of 32, 2 at layer 16, 1 at layer 24."""
    method, memory = PyramidDrop(), {}
    assert list(method.layers(32)) == [8, 16, 24] and list(method.layers(28)) == [7, 14, 21]
    scores = [0.1, 0.5, 0.2, 0.4, 0.3, 0.9, 0.0, 0.2]
    there, left = torch.ones(1, 8, dtype=torch.bool), []
    for layer in (8, 16, 24):
        state = by_hand([[0.0]] * 8, scores, (2, 2, 2), candidates=there, memory=memory, layer=layer, depth=32)
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
    assert folded(torch.ones(2, 1), torch.zeros(0, 1), torch.zeros(0, dtype=torch.long)).tolist() == [[1], [1]]


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
    """A frame of 2 x 3: the first column stays single, the rest is one area if alike; then over time."""
    frame = torch.tensor([[1.0, 2.0, 2.0], [5.0, 2.0, 6.0]])  # of length 1: all alike
    grid = torch.stack([frame, frame + 1])[..., None]
    node, mean = quadtree(grid, torch.ones(2, 2, 3, dtype=torch.bool), 0.9, root=1)
    assert node.tolist() == [[[0, 1, 1], [0, 1, 1]], [[6, 7, 7], [6, 7, 7]]]
    assert mean[0, :, :, 0].tolist() == [[3, 3, 3], [3, 3, 3]]  # (1 + 5) / 2 and (2 + 2 + 2 + 6) / 4
    state = by_hand(grid.flatten()[:, None].tolist(), [0.0] * 12, (2, 2, 3))
    found = STTM().reduce(state)
    assert found.into.tolist() == [[0, 1, 1, 0, 1, 1] * 2]
    assert found.features[0, :2].tolist() == [[3.5], [3.5]]  # 3 and 4
    assert STTM(root=0).reduce(state).into.tolist() == [[0] * 12]
    assert linked(4, torch.tensor([3, 3]), torch.tensor([2, 1])).tolist() == [0, 1, 1, 1]
