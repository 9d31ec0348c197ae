"""The diagnosis of a model: what is unread and changed, by masks on the unmodified model; recommendations."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from helpers.families import decoder_of
from helpers.masked_model import MaskedModel
from helpers.matrix import longer, positions_for, visual_columns
from helpers.oracles import Rule, Slow
from helpers.slow_methods import slow_version
from helpers.tiny import FAMILY, inputs_of, prompts_of, writing_words

from dycoke_lab import capture_attention
from dycoke_lab.apply import prunable_layers
from dycoke_lab.attention import coverage as covering
from dycoke_lab.evaluation.diagnosis import (
    BEST,
    DIAGNOSED,
    diagnose,
    diagnosis_text,
    mean_over,
    recommended,
    written_tokens,
)
from dycoke_lab.methods import METHODS, TTM, Compression, Dynamic, LastQuery

STEPS = 6


@pytest.fixture
def speaking(model):
    with writing_words(model):
        yield model


def answer_of(model, inputs, compression=None):
    with (compression or Compression())(model), capture_attention(model, heads="all") as trace:
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=STEPS)
    return ids[:, inputs["input_ids"].shape[1] :], trace


def masked_logits(family, model, inputs, prompts, answer, rule):
    """The unmodified model on prompt and answer at once, from which a mask takes what the rule does not
    select."""
    whole = longer(inputs, torch.cat([inputs["input_ids"], answer[:, :-1]], 1))
    columns = [
        torch.cat([where for _, where in visual_columns(family, parts, row)])
        for parts, row in zip(prompts, inputs["input_ids"], strict=True)
    ]
    blocks = None
    if "token_type_ids" in inputs:  # Gemma 3's images see all of themselves
        image = inputs["token_type_ids"] == 1
        blocks = (image & ~torch.nn.functional.pad(image, (1, 0))[:, :-1]).cumsum(1) * image
    oracle = MaskedModel(
        model, decoder_of(model), columns, [list(range(128))] * len(answer), [], inputs["attention_mask"],
        Slow(rule=rule), blocks,
    )  # fmt: skip
    return oracle.logits(**whole, position_ids=positions_for(model, whole))


def changed(logits, answer):
    """Of one answer's tokens after the first: which come out otherwise."""
    return [int(one != two) for one, two in zip(logits.argmax(-1).tolist(), answer.tolist(), strict=True)][1:]


def share_changed(logits, answer):
    """Of each answer's tokens after the first: how many come out otherwise."""
    return [sum(found) / len(found) for found in map(changed, logits, answer)]


def test_unread_and_changed_equal_masks_on_the_unmodified_model(family, speaking, inputs, prompts):
    model = speaking
    table = diagnose(model, inputs, [0.8], run=("dynamic", "last_query", "random"), max_new_tokens=STEPS)
    answer, _ = answer_of(model, inputs)
    assert set(table["from_layer"]) == set(prunable_layers(model))
    assert set(table["method"]) == {*DIAGNOSED, BEST} and set(table["sample"]) == {0, 1}
    found = table.set_index(["from_layer", "method", "sample"]).sort_index()
    shares = set()
    for layer in prunable_layers(model):
        rule = Rule(lambda look: set(), layer, 0.5)
        expected = share_changed(masked_logits(family, model, inputs, prompts, answer, rule), answer)
        for method in (*DIAGNOSED, BEST):
            assert found.loc[layer, method]["unread"].tolist() == pytest.approx(expected)
        for method in ("dynamic", "last_query", "random"):
            rule = slow_version(METHODS[method](prune_ratio=0.8, from_layer=layer), 2, 128).rule
            logits = masked_logits(family, model, inputs, prompts, answer, rule)
            expected = share_changed(logits, answer)
            assert found.loc[layer, method]["changed"].tolist() == pytest.approx(expected)
            shares |= set(expected)
        assert found.loc[layer, "uniform"]["changed"].isna().all()  # was not run
    assert len(shares) > 1


def test_coverage_is_the_mean_over_the_steps_of_an_answer(tiny, monkeypatch):
    """Up to its end: the first sample's answer ends early."""
    model, inputs = tiny, inputs_of(batch=2)
    answer, _ = answer_of(model, inputs)
    end = next(token for token in answer[0, 2:-1].tolist() if token not in answer[1].tolist())
    monkeypatch.setattr(model.generation_config, "eos_token_id", end)
    answer, trace = answer_of(model, inputs)
    steps = [answer[0].tolist().index(end) + 1, STEPS]
    assert steps[0] == 3 and answer.shape[1] == STEPS
    unread = {}
    for layer in prunable_layers(model):
        rule = Rule(lambda look: set(), layer, 0.5)
        logits = masked_logits(FAMILY, model, inputs, prompts_of(2), answer, rule)
        unread[layer] = [changed(*pair) for pair in zip(logits, answer, strict=True)]
    table = diagnose(model, inputs, [0.5, 0.8], ["last_query", "dynamic"], max_new_tokens=STEPS)
    assert len(table) == 3 * 2 * 3 * 2  # layers, ratios, methods and the best, samples
    written = torch.tensor([[n + 1 < count for count in steps] for n in range(STEPS - 1)])
    kinds = {"last_query": LastQuery, "dynamic": Dynamic}
    for row in table.itertuples():
        layers, sample = list(range(row.from_layer, 4)), row.sample
        mean, by_head = (covering.looked(trace, each)[:, layers].mean(1) for each in (False, True))
        aims = covering.aimed(mean, written)
        ideal = covering.best(aims, torch.ones(2, 128, dtype=torch.bool), row.prune_ratio)
        kept = ideal
        if row.method != BEST:
            kept = covering.chosen(kinds[row.method](row.prune_ratio, row.from_layer), trace)
        found = {"coverage": [], "coverage_by_head": [], "aim": [], "expected": []}
        for step in range(steps[sample] - 1):
            here = kept[step, sample]
            found["coverage"].append(float(mean[step, sample][here].sum()))
            found["coverage_by_head"].append(float(by_head[step, sample][here].sum()))
            possible = float(aims[step, sample][ideal[step, sample]].sum())
            found["aim"].append(min(1.0, float(aims[step, sample][here].sum()) / possible))
            found["expected"].append(unread[row.from_layer][sample][step] * (1 - found["aim"][-1]) ** 3)
        for name, values in found.items():
            assert getattr(row, name) == pytest.approx(sum(values) / len(values), abs=1e-6), name
    best = table[table["method"] == BEST]
    assert (best["aim"] > 1 - 1e-6).all() and (best["expected"] < 1e-6).all()
    assert table["expected"].max() > 0 and table["aim"].min() < 0.9


@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl"], indirect=True)
def test_a_diagnosis_after_merging_is_of_the_merged_video(speaking, inputs):
    merging = Compression.of(TTM(0.5))
    table = diagnose(speaking, inputs, [0.8], ["random"], ["random"], merging, max_new_tokens=STEPS)
    answer, trace = answer_of(speaking, inputs, merging)
    assert trace.attended[0][0].sum(1).tolist() == [2 * 16 + 6 * 8] * 2
    for layer in prunable_layers(speaking):
        kept = covering.chosen(METHODS["random"](0.8, layer), trace)
        assert kept.sum(2).unique().tolist() == [16]  # of 80
        seen = covering.looked(trace)[:, layer:].mean(1)
        expected = covering.coverage(kept, seen).mean(0).tolist()
        found = table[(table["from_layer"] == layer) & (table["method"] == "random")]
        assert found["coverage"].tolist() == pytest.approx(expected)
        with (merging + METHODS["random"](0.8, layer))(speaking):
            out = speaking.generate(
                **inputs, max_new_tokens=STEPS, do_sample=False, return_dict_in_generate=True,
                output_logits=True, prefix_allowed_tokens_fn=_forcing(inputs, answer),
            )  # fmt: skip
        logits = torch.stack(out.logits, 1)
        assert found["changed"].tolist() == pytest.approx(share_changed(logits, answer))


def _forcing(inputs, answer):
    """What makes `generate` write this answer."""
    prompt = inputs["input_ids"].shape[1]
    return lambda sample, ids: [int(answer[sample, len(ids) - prompt])]


def test_the_tokens_written_are_those_up_to_the_end_token():
    answer = torch.tensor([[5, 7, 9, 9], [9, 5, 9, 5], [5, 5, 5, 5], [5, 5, 8, 0]])
    expected = [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert written_tokens(answer, 9).int().tolist() == expected
    expected[3] = [1, 1, 1, 0]
    assert written_tokens(answer, [9, 8]).int().tolist() == expected


def test_a_mean_counts_what_is_there():
    """(steps, samples): of the second sample no step counts."""
    values, there = torch.tensor([[1.0, 3.0], [2.0, 4.0], [6.0, 5.0]]), torch.tensor([[1, 0], [1, 0], [0, 0]])
    assert mean_over(values, there.bool()).tolist() == [1.5, 0.0]


def changes(**by_layer):
    """A table of two videos with what the methods change at each L."""
    return pd.DataFrame([
        {"video": video, "from_layer": int(layer[1:]), "method": method, "prune_ratio": 0.7, "unread": 0.4,
         "coverage": 0.5, "changed": share + (0.01 if video else -0.01)}
        for layer, shares in by_layer.items()
        for method, share in zip(("dynamic", "last_query", "random", BEST), shares, strict=True)
        for video in (0, 1)
    ])  # fmt: skip


def test_the_lowest_layer_with_little_loss_is_recommended():
    table = changes(L1=(0.3, 0.01, 0, 0), L2=(0.015, 0.5, 0, 0), L3=(0.1, 0.2, 0, 0), L4=(0.01, 0.2, 0, 0))
    assert recommended(table) == 2
    assert recommended(table, "last_query") == 1
    assert recommended(table, loss=0.012) == 4
    assert recommended(table, loss=0.35) == 1
    assert recommended(table, "last_query", loss=0.001) == 1  # nowhere so little: where it changes least
    assert recommended(table.sample(frac=1, random_state=0)) == 2


def test_the_diagnosis_as_text_says_what_to_choose():
    table = changes(L1=(0.3, 0.45, 0.5, 0), L2=(0.015, 0.4, 0.5, 0), L3=(0.01, 0.2, 0.5, 0))
    other = table.assign(prune_ratio=0.9, changed=0.0)
    text = diagnosis_text(pd.concat([table, other]), 0.7)
    assert text.startswith("P = 0.7.") and "Recommended: L = 2," in text
    assert "It changes 1.5 % there; one-shot, last query, changes 40.0 %." in text
    lines = [line.split() for line in text.splitlines()]
    assert ["1", "40.0", "50.0", "30.0", "50.0", "45.0", "50.0", "50.0"] in lines
    assert max(map(len, text.splitlines())) <= 110
