"""FastVID, PruneVid and HoliTom before the language model: against loops, on the unmodified model, and
by hand."""

from __future__ import annotations

import pytest
import torch
from helpers import published_segments as slow
from helpers.covering import across_families, can_run
from helpers.families import FAMILIES, frames
from helpers.matrix import compare_with_the_oracle, generate, mixed_prompts, together
from helpers.oracles import Slow
from helpers.vision_oracle import attention_received
from hypothesis import given, settings
from hypothesis import strategies as st

from dycoke_lab.methods.fastvid import FastVID
from dycoke_lab.methods.holitom import HoliTom
from dycoke_lab.methods.interface import VideoTokens
from dycoke_lab.methods.prunevid import PruneVid

shapes = st.tuples(st.integers(1, 2), st.integers(1, 9), st.integers(1, 3), st.integers(1, 5))
shares = st.sampled_from([0.04, 0.1, 0.25, 0.5, 0.75, 1.0])


def draw(shape, noise, kinds, seed):
    """Videos whose frames are alike at some places, with equal tokens, equal frames, and equal
    attention."""
    random = torch.Generator().manual_seed(seed)
    videos, frames, rows, cols = shape
    pool = torch.randn(kinds, 6, generator=random).double()
    still = pool[torch.randint(0, kinds, (videos, 1, rows, cols), generator=random)]
    moving = pool[torch.randint(0, kinds, (videos, frames, rows, cols), generator=random)]
    moves = torch.rand(videos, frames, rows, cols, 1, generator=random) < noise
    attention = torch.randint(0, 5, (videos, frames, rows, cols), generator=random).double()
    return VideoTokens(torch.where(moves, moving, still), vision_attention=attention)


def loops(function, video, **fields):
    """Run loops on each video; they may return new features, too."""
    found = []
    for features, attention in zip(video.features, video.vision_attention, strict=True):
        args = [features.flatten(1, 2).tolist()]
        if function is not slow.prunevid:
            args.append(attention.flatten(1).tolist())
        found.append(function(*args, **fields))
    return found


def check(assignment, expected):
    """Compare with what loops returned for each video: (into, new features)."""
    for into, new, (ends, rows) in zip(assignment.into, assignment.features, expected, strict=True):
        assert into.tolist() == ends
        kept = [token for token, end in enumerate(ends) if end == token]
        torch.testing.assert_close(new[kept], torch.tensor(rows).double()[kept])


examples = settings(max_examples=40, deadline=None)


@examples
@given(shapes, shares, st.sampled_from([0.1, 0.5, 1.0]), st.integers(1, 20), st.integers(0, 999))
def test_fastvid_equals_its_loops(shape, r, noise, kinds, seed):
    video = draw(shape, noise, kinds, seed)
    tau, d = ((-1, 0.4), (0.5, 0), (0.9, 1), (0.5, 0.4))[seed % 4]
    fields = dict(r=r, c=1 + seed % 5, tau=tau, d=d, p=1 + seed % 3, beta=(0.6, 0.1)[seed % 2])
    check(FastVID(**fields).merge(video), loops(slow.fastvid, video, **fields))


@examples
@given(shapes, shares, st.sampled_from([0.1, 0.5, 1.0]), st.integers(1, 20), st.integers(0, 999))
def test_prunevid_equals_its_loops(shape, ratio, noise, kinds, seed):
    video = draw(shape, noise, kinds, seed)
    fields = dict(cluster_ratio=ratio, tau=(0.8, 0.1)[seed % 2], whole=(14 / 144, 0.5, 0)[seed % 3])
    fields["temporal_segment_ratio"] = (0.25, 0.6)[seed % 2]
    found = PruneVid(**fields).merge(video)
    assert found.average and found.into.tolist() == loops(slow.prunevid, video, **fields)


@examples
@given(shapes, shares, st.sampled_from([0.1, 0.5, 1.0]), st.integers(1, 20), st.integers(0, 999))
def test_holitom_equals_its_loops(shape, ratio, noise, kinds, seed):
    video = draw(shape, noise, kinds, seed)
    fields = dict(retain_ratio=ratio, tau=(0.8, 0.1)[seed % 2], beta=(0.6, 0)[seed % 2], k=1 + seed % 8)
    check(HoliTom(**fields).merge(video), loops(slow.holitom, video, **fields))


METHODS = [
    FastVID(0.5, c=4, tau=0.5), PruneVid(0.4, temporal_segment_ratio=0.4), HoliTom(0.3, tau=0.65),
]  # fmt: skip


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_a_video_is_merged_as_it_is_alone(method):
    video = draw((3, 7, 4, 4), 0.4, 30, seed=5)
    found = method.merge(video)
    for one in range(3):
        alone = method.merge(
            VideoTokens(video.features[one, None], vision_attention=video.vision_attention[one, None])
        )
        assert torch.equal(alone.into[0], found.into[one])
        if found.features is not None:
            assert torch.equal(alone.features[0], found.features[one])


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_equal_frames_and_half_precision(method):
    video = draw((1, 1, 4, 4), 1.0, 16, seed=1)
    features, attention = (
        part.repeat(1, 6, *[1] * (part.ndim - 2)) for part in (video.features, video.vision_attention)
    )
    found = method.merge(VideoTokens(features.bfloat16(), vision_attention=attention.bfloat16()))
    assert found.features is None or found.features.dtype == torch.bfloat16
    kept = int((found.into == torch.arange(96)).sum())
    # FastVID: cut at 3 ties, the first pairs; PruneVid: one window, all static; HoliTom: the same
    assert kept == {FastVID: 6 * 5 + 3 * 3 + 9, PruneVid: int(16 * 0.4), HoliTom: 16}[type(method)]


def of(function, video, received, **fields):
    rows = video.features.flatten(1, 2).tolist()
    return function(rows, received[video.number], **fields)


CASES = [
    (FastVID, slow.fastvid, dict(r=0.5, c=3, tau=0.5)),
    (PruneVid, slow.prunevid, dict(cluster_ratio=0.4, tau=0.7)),
    (HoliTom, slow.holitom, dict(retain_ratio=0.3, tau=0.65)),
]


@pytest.mark.parametrize(
    ("family", "kind", "function", "fields"), across_families(CASES), indirect=["family"]
)
@pytest.mark.parametrize("repacked", [False, True])
def test_generation_equals_a_mask_on_the_unmodified_model(
    family, model, prompts, inputs, kind, function, fields, repacked
):
    method = kind(**fields, positions="repacked" if repacked else "original")
    if kind is PruneVid:
        slow_ = Slow(
            merge=lambda video: function(video.features.flatten(1, 2).tolist(), **fields),
            average=True,
            repacked=repacked,
        )
    else:
        received = attention_received(model, inputs, layer=-2, frames=8)
        slow_ = Slow(
            merge=lambda video: of(function, video, received, **fields)[0],
            features=lambda video: torch.tensor(
                of(function, video, received, **fields)[1], dtype=torch.float64
            ),
            repacked=repacked,
        )
    gone = compare_with_the_oracle(family, model, prompts, method, slow_)
    assert all(0 < int(row.sum()) < 128 for row in gone)


@pytest.mark.parametrize("family", ["qwen2_5_vl"], indirect=True)
@pytest.mark.parametrize("kind", [kind for kind, *_ in CASES if not can_run("qwen2_5_vl", kind)])
def test_what_a_vision_tower_cannot_give_is_refused(family, model, kind):
    with pytest.raises(ValueError, match=rf"{kind.__name__} needs vision_attention, .*qwen2_5_vl"):
        kind()(model).__enter__()


@pytest.mark.parametrize("kind", [FastVID, PruneVid, HoliTom])
def test_it_changes_what_is_said(tiny, kind):
    family = FAMILIES["llava_onevision"]
    inputs = family.inputs(["user\n", ("video", frames(8, 0)), "what happens first?"])
    full = generate(tiny, inputs)[1]
    with kind()(tiny):
        assert not torch.allclose(generate(tiny, inputs)[1], full, atol=1e-3)


@pytest.mark.parametrize("kind", [FastVID, PruneVid, HoliTom])
def test_the_knob_reaches_10_percent_and_rises(kind):
    video = draw((1, 12, 7, 7), 0.3, 60, seed=3)
    counts = []
    for step in range(1, 41):
        into = kind(**{kind.knob: step / 40}).merge(video).into
        counts.append(int((into == torch.arange(into.shape[1])).sum()) / into.shape[1])
    assert counts == sorted(counts)
    for share in (0.1, 0.25, 0.5):
        assert min(abs(count - share) for count in counts) < 0.05, counts


def by_hand(rows, attention):
    """A video of frames of one row."""
    return VideoTokens(
        torch.tensor(rows)[None, :, None], vision_attention=torch.tensor(attention)[None, :, None]
    )


def test_fastvid_by_hand():
    """Two frames of four tokens are one segment. Of a budget of 3 a frame, int(1.2) = 1 is for peaks:
    both of the segment are in its last frame, which are all that is not salient there."""
    first = [[9.0, 9.0], [4.0, 0.0], [9.0, 9.0], [0.0, 6.0]]
    last = [[2.0, 0.0], [9.0, 9.0], [9.0, 9.0], [0.0, 2.0]]
    video = by_hand([first, last], [[0.9, 0.1, 0.8, 0.2], [0.1, 0.9, 0.8, 0.2]])
    found = FastVID(r=0.75, c=1, tau=-1).merge(video)
    assert found.into.tolist() == [[0, 4, 2, 7, 4, 5, 6, 7]]
    # tokens 1 and 4, of mean 3, belong to 4; 3 and 7, of mean 4, to 7
    expected = torch.tensor([[0.6 * 2 + 0.4 * 3, 0.0], [0.0, 0.6 * 2 + 0.4 * 4]])
    torch.testing.assert_close(found.features[0, [4, 7]], expected)
    assert torch.equal(found.features[0, [0, 2, 5, 6]], torch.full((4, 2), 9.0))
    cut = FastVID(r=0.75, c=2, tau=-1).merge(video)  # each frame by itself: the earlier of equals
    assert cut.into.tolist() == [[0, 1, 2, 1, 4, 5, 6, 4]]


def test_prunevid_by_hand():
    """Two frames of three tokens are one window. The first place is static, and becomes one token; the
    other two of each frame become int(2 * .5) = 1 cluster, around the earlier, since both are equally
    dense."""
    video = by_hand(
        [[[2.0, 0.0], [0.0, 1.0], [0.0, 3.0]], [[4.0, 0.0], [3.0, 0.0], [5.0, 0.0]]], [[0.0] * 3] * 2
    )
    found = PruneVid(whole=0).merge(video)
    assert found.into.tolist() == [[0, 1, 1, 0, 4, 4]] and found.average
    assert PruneVid(whole=2 / 3).merge(video).into.tolist() == [[0, 1, 2, 0, 4, 5]]
    # nothing is static; the densest token of each frame is the one whose neighbours are nearest
    assert PruneVid(whole=0, tau=1).merge(video).into.tolist() == [[1, 1, 1, 3, 3, 3]]


def test_holitom_by_hand():
    """Two frames of four tokens are one window, since three places are static, which saves 3 of 8
    tokens: s = .4 * 8 / 5 = .64. Of the static ones round(1.92) = 2 are left, of the others ceil(.64) =
        1 a frame."""
    first = [[1.0, 0.0], [0.0, 4.0], [0.0, 5.0], [1.0, 0.0]]
    last = [[3.0, 0.0], [0.0, 4.0], [0.0, 7.0], [0.0, 1.0]]
    found = HoliTom(0.4).merge(by_hand([first, last], [[0.1] * 4] * 2))
    # means (2, 0), (0, 4), (0, 6); squared distances over 2: 10, 20, 2. Density e^-5, e^-1, e^-1: the
    # second is the densest. Scores root(10) e^-5, root(20) e^-1, root(2) e^-1: it and the third win
    assert found.into.tolist() == [[1, 1, 2, 3, 1, 1, 2, 7]]
    expected = torch.tensor([[0.4 * 2, 0.6 * 4], [0.0, 6.0]])
    torch.testing.assert_close(found.features[0, [1, 2]], expected)


@pytest.mark.parametrize("family", ["llava_onevision"], indirect=True)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_a_padded_batch_equals_the_single_runs(family, model, method):
    singles = [family.inputs(parts) for parts in mixed_prompts(family)]
    with method(model):
        alone = [generate(model, single)[1] for single in singles]
        logits = generate(model, together(family, singles))[1]
    torch.testing.assert_close(logits, torch.cat(alone), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (FastVID, dict(r=0), "r=0 must be a share above 0 and at most 1"),
        (FastVID, dict(d=1.5), "d=1.5 must lie between 0 and 1"),
        (FastVID, dict(tau=float("nan")), "tau=nan must lie between -1 and 1"),
        (FastVID, dict(c=0), "c=0 must be a whole number from 1"),
        (FastVID, dict(p=2.0), "p=2.0 must be a whole number from 1"),
        (FastVID, dict(beta=-0.1), "beta=-0.1 must lie"),
        (FastVID, dict(positions="new"), "positions='new' must be 'original' or 'repacked'"),
        (PruneVid, dict(cluster_ratio=None), "cluster_ratio=None must be a share above 0"),
        (PruneVid, dict(temporal_segment_ratio=2), "temporal_segment_ratio=2 must be"),
        (PruneVid, dict(tau=-2), "tau=-2 must lie"),
        (PruneVid, dict(whole=14), "whole=14 must lie between 0 and 1"),
        (HoliTom, dict(retain_ratio=1.1), "retain_ratio=1.1 must be"),
        (HoliTom, dict(tau=2), "tau=2 must lie"),
        (HoliTom, dict(beta="x"), "beta='x' must lie"),
        (HoliTom, dict(k=0), "k=0 must be a whole number from 1"),
    ],
)
def test_parameters_out_of_range_are_refused(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        kind(**fields)
