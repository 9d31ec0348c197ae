"""What merging would lose, told from the tokens alone."""

from __future__ import annotations

import pytest
import torch
from helpers.oracles import cosine, merge

from dycoke_lab import load_model
from dycoke_lab.evaluation.merging_diagnosis import diagnose_merging, merging_loss, video_features
from dycoke_lab.specimen.tasks import make_task


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.7, 1.0])
def test_unlikeness_is_that_of_each_token_to_what_stands_for_it(ratio):
    features = torch.randn(2, 6, 5, 4, generator=torch.Generator().manual_seed(3))
    retained, unlike = merging_loss(features, ratio)
    for video in range(2):
        into = merge(features[video], 4, ratio)
        flat = features[video].flatten(0, 1).tolist()
        assert retained[video] == pytest.approx(sum(into[t] == t for t in into) / 30)
        slow = sum(1 - cosine(flat[t], flat[into[t]]) for t in into) / 30
        assert unlike[video] == pytest.approx(slow, abs=1e-5)
    assert (unlike == 0).all() == (ratio == 0)


def test_the_features_are_those_that_the_decoder_gets():
    model, _ = load_model()
    task = make_task("describe", 2, 2)
    (features,) = video_features(model, {"input_ids": task.ids, **task.inputs})
    with torch.no_grad():
        wanted = model.get_video_features(**task.inputs, return_dict=True).pooler_output
    assert torch.equal(features.flatten(1, 2), torch.stack(list(wanted))[:, :-1])  # without the line break
    table = diagnose_merging(model, {"input_ids": task.ids, **task.inputs}, [0.3, 0.9])
    assert table.groupby("merge_ratio")["retained"].first().to_dict() == {0.3: 49 / 64, 0.9: 22 / 64}
    assert table.groupby("video")["unlike"].is_monotonic_increasing.all()
