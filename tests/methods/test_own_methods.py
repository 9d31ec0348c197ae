"""Methods of one's own on the three seams, each against loops written from its paper."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from helpers.families import FAMILIES, frames
from helpers.matrix import compare_with_the_oracle, generate, slow_version
from helpers.oracles import Rule, Slow, Video, best, cosine, keep_share
from helpers.vision_oracle import attention_received

from dycoke_lab.methods import (
    TTM,
    Assignment,
    DyCoke,
    Dynamic,
    LayerState,
    Merger,
    PrefillReducer,
    Selector,
    Step,
    VideoTokens,
)
from dycoke_lab.methods.scores import retained_budget, top


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
        count = (step.budget - step.number).clamp(min=1).minimum(step.candidates.sum(1))
        return top(step.memory["sum"], step.candidates, count)


@dataclass(frozen=True)
class Pyramid(PrefillReducer):
    """Drop a share of what is left before each layer from `from_layer` (as PyramidDrop, arXiv 2410.17247)."""

    def layers(self, depth: int) -> range:
        return range(self.from_layer, depth)

    def reduce(self, state: LayerState) -> Assignment:
        count = retained_budget(state.candidates, self.prune_ratio)
        return Assignment.keep(top(state.scores, state.candidates, count))


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
    if look.number:
        return None
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


@pytest.fixture
def compare(family, model, prompts):
    return partial(compare_with_the_oracle, family, model, prompts)


def test_merging_within_frames_equals_its_loops(compare):
    gone = compare(WithinFrame(5), Slow(merge=partial(pairs_within_frames, count=5), average=True))
    assert [int(row.sum()) for row in gone] == [8 * 5] * 2


def test_merging_within_frames_composes_with_pruning(compare):
    """And with a second turn."""
    rule = slow_version(Dynamic(0.5, from_layer=2), 2, 128).rule
    slow = Slow(merge=partial(pairs_within_frames, count=3), average=True, rule=rule)
    more = torch.randint(20, 60, (2, 5), generator=torch.Generator().manual_seed(0))
    compare(WithinFrame(3) + Dynamic(0.5, from_layer=2), slow, more=more)


def test_keeping_by_vision_attention_equals_its_loops(family, model, inputs, compare):
    if family.name == "qwen2_5_vl":
        pytest.skip("its vision tower reorders patches: refused, as the next test says")
    received = attention_received(model, inputs, layer=-2, frames=8)
    gone = compare(MostAttendedPatches(0.4), Slow(merge=partial(most_attended, received=received, share=0.4)))
    assert [int(row.sum()) for row in gone] == [8 * 10] * 2
    assert not torch.equal(*gone)


@pytest.mark.parametrize("family", ["qwen2_5_vl"], indirect=True)
def test_vision_attention_is_refused_where_patches_are_reordered(model):
    with pytest.raises(ValueError, match=r"MostAttendedPatches needs vision_attention, .*qwen2_5_vl"):
        MostAttendedPatches()(model).__enter__()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_choice_by_a_window_of_queries_equals_its_loops(compare, attention):
    compare(WindowOfQueries(0.6, from_layer=2), BY_WINDOW, attention=attention)


def test_a_running_sum_with_eviction_equals_its_loops(compare):
    compare(HeavyHitters(0.6, from_layer=1), BY_SUM)


def test_own_selectors_compose_with_temporal_merging(compare):
    merger = TTM(threshold=0.9)
    merge = slow_version(merger, 2, 128).merge
    compare(merger + WindowOfQueries(0.6, from_layer=2), Slow(merge=merge, rule=BY_WINDOW.rule))
    more = torch.randint(20, 60, (2, 5), generator=torch.Generator().manual_seed(0))
    compare(merger + HeavyHitters(0.6, from_layer=1), Slow(merge=merge, rule=BY_SUM.rule), more=more)


def test_dropping_before_several_layers_equals_its_loops(family, compare):
    if family.name == "gemma3":
        pytest.skip("layers with a sliding window cannot drop tokens in the prefill: refused")
    first = 2 if family.name == "qwen3_vl" else 1  # its first two layers are given visual tokens of their own
    reduce = {layer: partial(keep_share, share=0.7) for layer in range(first, 4)}
    compare(Pyramid(0.3, from_layer=first), Slow(reduce=reduce))


def test_all_three_seams_compose(family, compare):
    if family.name == "gemma3":
        pytest.skip("layers with a sliding window cannot drop tokens in the prefill: refused")
    first = 2 if family.name == "qwen3_vl" else 1
    parts = slow_version(DyCoke(0.5, 0.6, from_layer=3), 2, 128)
    reduce = {layer: partial(keep_share, share=0.7) for layer in range(first, 3)}

    @dataclass(frozen=True)
    class TwoLayers(Pyramid):
        def layers(self, depth: int) -> range:
            return range(self.from_layer, 3)

    compare(
        DyCoke(0.5, 0.6, from_layer=3) + TwoLayers(0.3, from_layer=first),
        Slow(merge=parts.merge, reduce=reduce, rule=parts.rule),
    )


@pytest.mark.parametrize("family", ["llava_onevision"], indirect=True)
def test_a_memory_follows_the_beams(model, prompts, family):
    """Each answer's score is that of the same answer, token for token, forced through a run of its own."""
    inputs = family.inputs(prompts[1])
    settings = dict(max_new_tokens=5, min_new_tokens=5, return_dict_in_generate=True)
    with (TTM(0.3) + HeavyHitters(0.6, from_layer=1))(model):
        out = model.generate(
            **inputs, num_beams=3, num_return_sequences=3, do_sample=False, output_scores=True, **settings
        )
        scores = model.compute_transition_scores(out.sequences, out.scores, out.beam_indices)
        prompt = inputs["input_ids"].shape[1]
        for written, score in zip(out.sequences[:, prompt:], scores, strict=True):
            again = model.generate(
                **inputs, **settings, do_sample=False, output_logits=True,
                prefix_allowed_tokens_fn=lambda _, ids, forced=written: [int(forced[len(ids) - prompt])],
            )  # fmt: skip
            logits = torch.stack(again.logits)[:, 0].double()
            expected = logits.log_softmax(-1).gather(1, written[:, None])[:, 0]
            torch.testing.assert_close(score.double(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["llava_onevision"], indirect=True)
def test_what_an_own_selector_evicts_frees_its_memory(family, model, prompts):
    inputs = family.inputs(prompts[0])
    text = inputs["input_ids"].shape[1] - 128
    for method, sizes in (
        (HeavyHitters(0.6, from_layer=1), [51 - 4]),
        (WindowOfQueries(0.6, from_layer=1), [51]),
    ):
        with method(model):
            cache = generate(model, inputs, 6)[2]
            lengths = {layer.keys.shape[2] - text - 5 for layer in cache.layers[1:]}
        assert lengths == set(sizes)
        assert cache.layers[0].keys.shape[2] == text + 128 + 5


def test_the_example_of_contributing_is_a_running_sum():
    """The page's method, word for word, equals the loops of this file."""
    page = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    if not (blocks := re.findall(r"```python\n(.*?)```", page, re.DOTALL)):
        pytest.skip("CONTRIBUTING.md has no example yet")
    space: dict = {"__name__": "example"}
    exec(blocks[0], space)
    own = [kind for kind in space.values() if isinstance(kind, type) and kind.__module__ == "example"]
    (kind,) = (kind for kind in own if issubclass(kind, Selector))
    assert kind.scope == "layer" and kind.every_step and len(blocks[0].splitlines()) <= 30
    family = FAMILIES["llava_onevision"]
    prompts = [["user\n", ("video", frames(8, seed)), "what happens first?"] for seed in (0, 1)]
    compare_with_the_oracle(family, family.model(), prompts, kind(prune_ratio=0.6, from_layer=1), BY_SUM)


def test_own_methods_are_short():
    """A method is under 20 lines, as CONTRIBUTING promises."""
    source = Path(__file__).read_text()
    for kind in (WithinFrame, MostAttendedPatches, WindowOfQueries, HeavyHitters, Pyramid):
        body = re.search(rf"class {kind.__name__}\(.*?(?=\n\n\n)", source, re.DOTALL).group()
        assert len(body.splitlines()) < 20
