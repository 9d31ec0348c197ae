"""Published mergers and the controls beside them: against their loops, by hand, and under real generate."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers.covering import across_families, can_run
from helpers.matrix import compare_with_the_oracle, generate, mixed_prompts, together
from helpers.oracles import Video
from helpers.published_mergers import loops_of
from helpers.slow_methods import slow_version
from helpers.vision_oracle import attention_received, vision_keys

from dycoke_lab.methods import Assignment, Dynamic, VideoTokens
from dycoke_lab.methods.before_llm import EveryNth, FewerFrames, FirstTokens, RandomTokens, SmallerFrames
from dycoke_lab.methods.divprune import DivPrune
from dycoke_lab.methods.evs import EVS
from dycoke_lab.methods.prumerge import PruMergePlus
from dycoke_lab.methods.tome import ToMe
from dycoke_lab.methods.vidcom2 import VidCom2
from dycoke_lab.methods.visionzip import VisionZip

CONTROLS = (FewerFrames, SmallerFrames, RandomTokens, EveryNth, FirstTokens)
METHODS = (VisionZip, PruMergePlus, VidCom2, EVS, DivPrune, ToMe, *CONTROLS)
LAYER = {VisionZip: -2, PruMergePlus: -1}
RUNS = [
    VisionZip(0.3),
    VisionZip(0.25, 0.5, positions="original"),
    PruMergePlus(),
    PruMergePlus(0.4, 0.2, positions="original"),
    VidCom2(),
    VidCom2(0.4, temperature=2.0, positions="repacked"),
    EVS(0.5),
    DivPrune(0.15),
    ToMe(),
    ToMe(0.2, r=0.3),
    *(control(0.3) for control in CONTROLS),
]
SHAPES = [
    (1, 1, 1, 1, 3),
    (2, 3, 2, 2, 4),
    (3, 4, 3, 5, 7),
    (2, 5, 4, 4, 8),
    (1, 2, 7, 6, 12),
    (2, 1, 3, 3, 1),
]


def draw(shape, kind, seed=0):
    """Features, attention and keys. kind: "random", "ties" (small whole numbers), "equal frames"."""
    g = torch.Generator().manual_seed(seed)

    def values(*size):
        if kind == "ties":
            return torch.randint(-1, 2, size, generator=g).double()
        found = torch.randn(size, generator=g, dtype=torch.float64)
        return found[:, :1].expand(size).clone() if kind == "equal frames" else found

    received = values(*shape[:4]).abs() + 1
    if kind == "random":
        received = received**4  # with outliers
    return VideoTokens(values(*shape), vision_attention=received, vision_keys=values(*shape[:4], 6))


def check(merger, tokens):
    found = merger.merge(tokens)
    new = tokens.features.flatten(1, 3) if found.features is None else found.features
    received, keys = tokens.vision_attention.flatten(2).tolist(), tokens.vision_keys.flatten(2, 3).tolist()
    slow = loops_of(merger, received, keys)
    for number, features in enumerate(tokens.features):
        video = Video(features, number, torch.empty(0))
        into = slow.merge(video)
        assert found.into[number].tolist() == into, (merger, number)
        wanted = slow.features(video) if slow.features else features.flatten(0, 2)
        kept = [token for token, end in enumerate(into) if end == token]
        assert kept and all(into[end] == end for end in into if end >= 0)
        torch.testing.assert_close(new[number, kept], wanted[kept], atol=1e-9, rtol=0)
    assert found.average == slow.average


@pytest.mark.parametrize("kind", ["random", "ties", "equal frames"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_mergers_equal_their_loops(shape, kind):
    for seed, merger in enumerate(RUNS):
        check(merger, draw(shape, kind, seed))
    for kind_of in (*METHODS[2:], VisionZip):
        knobs = (0.1, 0.5, 0.9, 1.0) if kind_of is not EVS else (0.0, 0.1, 0.5, 1.0)
        for share in knobs:
            check(kind_of(**{kind_of.knob: share}), draw(shape, kind, 99))
    for share in (None, 0.1, 0.5, 0.9, 1.0):
        check(PruMergePlus(share, 0.3), draw(shape, kind, 98))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_of_equal_tokens_the_earlier_stay(dtype):
    """Though rounding may set their cosines apart."""
    frame = torch.randn(5, 1, 3, 5, 37).to(dtype)
    tokens = VideoTokens(frame.expand(5, 4, 3, 5, 37))
    for merger, stay in ((EVS(0.5), 30), (DivPrune(0.25), 15)):
        assert ((merger.merge(tokens).into >= 0) == (torch.arange(60) < stay)).all(), merger
    for merger in (VidCom2(0.5), ToMe(0.4)):
        found = merger.merge(tokens).into.view(5, 4, 15) - 15 * torch.arange(4)[:, None]
        assert (found.clamp(min=-1) == found[:, :1].clamp(min=-1)).all(), merger


@pytest.mark.parametrize("merger", RUNS, ids=str)
def test_half_precision_chooses_as_float32_and_a_batch_as_each_video(merger):
    tokens = draw((3, 4, 5, 4, 16), "random", 5)
    half = replace(
        tokens, features=tokens.features.bfloat16(), vision_attention=tokens.vision_attention.float()
    )
    into = merger.merge(half).into
    assert torch.equal(into, merger.merge(replace(half, features=half.features.float())).into)
    for number in range(3):
        parts = {name: value[number : number + 1] for name, value in vars(half).items() if value is not None}
        assert torch.equal(merger.merge(VideoTokens(**parts)).into[0], into[number])


@pytest.fixture
def seen(family, model, inputs):
    """What the vision tower attends to, by loops: a method's (received, keys)."""

    def of(merger):
        if type(merger) not in LAYER:
            return ()
        layer = LAYER[type(merger)]
        return tuple(look(model, inputs, layer=layer, frames=8) for look in (attention_received, vision_keys))

    return of


@pytest.mark.parametrize(("family", "merger"), across_families(RUNS), indirect=["family"], ids=str)
def test_generation_equals_a_mask_on_the_unmodified_model(family, model, prompts, inputs, seen, merger):
    """And it is not what the full model writes."""
    gone = compare_with_the_oracle(family, model, prompts, merger, loops_of(merger, *seen(merger)))
    assert all(0 < int(row.sum()) < len(row) for row in gone)
    full = generate(model, inputs, 2)[1]
    with merger(model):
        assert (generate(model, inputs, 2)[1] - full).abs().amax((1, 2)).min() > 1e-3


@pytest.mark.parametrize("family", ["qwen2_5_vl"], indirect=True)
@pytest.mark.parametrize("kind", [kind for kind in METHODS if not can_run("qwen2_5_vl", kind)])
def test_what_a_vision_tower_cannot_give_is_refused(family, model, kind):
    with pytest.raises(ValueError, match=rf"{kind.__name__} needs vision_.*qwen2_5_vl"):
        kind()(model).__enter__()


CHANGING = [VisionZip(0.3), PruMergePlus(), ToMe()]


@pytest.mark.parametrize(("family", "merger"), across_families(CHANGING), indirect=["family"], ids=str)
def test_new_features_compose_with_dynamic_pruning(family, model, prompts, seen, merger):
    pruning = Dynamic(0.5, from_layer=2, reselect_below=2.0)
    slow = replace(loops_of(merger, *seen(merger)), rule=slow_version(pruning, 2, 128).rule)
    compare_with_the_oracle(family, model, prompts, merger + pruning, slow)


@pytest.mark.parametrize("family", ["llava_onevision"], indirect=True)
@pytest.mark.parametrize("merger", RUNS, ids=str)
def test_a_padded_batch_equals_the_single_runs(family, model, merger):
    singles = [family.inputs(parts) for parts in mixed_prompts(family)]
    with merger(model):
        alone = [generate(model, single)[1][0] for single in singles]
        logits = generate(model, together(family, singles))[1]
    for found, expected in zip(logits, alone, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", METHODS)
def test_the_knob_reaches_50_25_and_10_percent(kind):
    tokens = draw((1, 16, 7, 7, 24), "random", 3)
    sign = -1 if kind is EVS else 1
    counts = []
    for step in range(1, 41):
        found: Assignment = kind(**{kind.knob: step / 40}).merge(tokens)
        counts.append(int((found.into == torch.arange(784)).sum()))
    assert counts == sorted(counts, reverse=sign < 0)
    for share in (0.5, 0.25, 0.1):
        assert min(abs(count / 784 - share) for count in counts) < (0.06 if kind is SmallerFrames else 0.03)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VisionZip(0), "dominant=0 must be a share above 0 and at most 1"),
        (lambda: VisionZip("0.3"), "dominant='0.3' must be"),
        (lambda: VisionZip(0.3, -1), "contextual=-1 must be a number from 0"),
        (lambda: VisionZip(0.3, float("nan")), "contextual=nan must be"),
        (lambda: VisionZip(positions="new"), "positions='new' must be 'original' or 'repacked'"),
        (lambda: PruMergePlus(1.5), "ratio=1.5 must be a share above 0 and at most 1"),
        (lambda: PruMergePlus(None, 0), "neighbours=0 must be a share"),
        (lambda: PruMergePlus(positions="new"), "positions='new' must"),
        (lambda: VidCom2(0), "R=0 must be a share"),
        (lambda: VidCom2(0.25, 0), "temperature=0 must be a number above 0"),
        (lambda: EVS(-0.1), "q=-0.1 must be a share from 0 to 1"),
        (lambda: EVS(1.1), "q=1.1 must be"),
        (lambda: EVS(positions=None), "positions=None must be"),
        (lambda: DivPrune(True), "ratio=True must be a share"),
        (lambda: ToMe(0), "ratio=0 must be a share"),
        (lambda: ToMe(0.5, 2), "r=2 must be a share"),
        (lambda: FewerFrames(2), "share=2 must be a share"),
        (lambda: SmallerFrames(-1), "share=-1 must be a share"),
        (lambda: EveryNth(float("nan")), "share=nan must be a share"),
        (lambda: RandomTokens(0.5, seed=0.5), "seed=0.5 must be a whole number of 64 bits"),
        (lambda: FirstTokens(0.5, positions="x"), "positions='x' must"),
    ],
)
def test_bad_parameters_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_all_share():
    colours = [kind.colour for kind in METHODS]
    assert len(set(colours)) == len(METHODS)
    assert all(kind.label and kind.paper and kind.knob in kind.__dataclass_fields__ for kind in METHODS)
    assert EVS(0.0).off and VidCom2(1).off and not PruMergePlus(1.0).off
