"""Tables of the evidence: means, losses, intervals within a specimen, paired tests."""

from __future__ import annotations

import pandas as pd
import pytest
from scipy.stats import binomtest

from dycoke_lab.evaluation.tables import SETTING, counted, losses, means, paired, with_intervals


def rows(method: str, right: list[str], words: int = 6, **more) -> pd.DataFrame:
    """Rows of one setting, a video each."""
    about = dict.fromkeys(SETTING, 0) | {"specimen": "footage", "question": "describe", "method": method}
    exact = [int(sum(map(int, digits)) == words) for digits in right]
    videos = {"video": range(len(right)), "right": right, "words": words, "exact": exact}
    return pd.DataFrame({**about, **videos, **more})


@pytest.fixture
def counts():
    full = rows("full", ["33", "33", "32"])
    dynamic = rows("dynamic", ["33", "31", "20"], from_layer=3, prune_ratio=0.7)
    once = rows("last_query", ["30", "33", "10"], from_layer=3, prune_ratio=0.7)
    return counted(pd.concat([full, dynamic, once], ignore_index=True))


def test_means_are_over_words_and_losses_are_to_the_full_cache(counts):
    found = means(counts, ["method"])
    assert found["full"] == pytest.approx(17 / 18) and found["dynamic"] == pytest.approx(12 / 18)
    lost = losses(counts).set_index("method")["loss"]
    assert lost["dynamic"] == pytest.approx(5 / 18) and lost["last_query"] == pytest.approx(7 / 18)


def test_the_full_cache_to_compare_with_has_the_same_merging(counts):
    merged = counted(
        pd.concat([rows("full", ["11", "11", "11"]), rows("dynamic", ["11", "10", "10"], from_layer=3)])
    ).assign(merge_ratio=0.5)
    lost = losses(pd.concat([counts, merged])).set_index(["merge_ratio", "method"])["loss"]
    assert lost[0.5, "dynamic"] == pytest.approx(2 / 18)
    assert lost[0.0, "dynamic"] == pytest.approx(5 / 18)


def test_intervals_are_over_the_videos_of_each_specimen(counts):
    both = pd.concat([counts, counts.assign(seed=1, count=3)])
    table = with_intervals(both, ["seed", "method"]).set_index(["seed", "method"])
    assert (table.loc[1, "mean"] == 0.5).all() and (table.loc[1, "high"] - table.loc[1, "low"] == 0).all()
    full = table.loc[(0, "full")]
    assert full["low"] == pytest.approx(15 / 18) and full["high"] == 1.0  # of three videos, drawn anew
    with pytest.raises(ValueError, match="must hold 'seed'"):
        with_intervals(both, ["method"])


def test_paired_differences_and_mcnemars_test_are_on_the_same_videos(counts):
    found = paired(counts, "dynamic", "last_query").iloc[0]
    assert found["difference"] == pytest.approx((3 - 2 + 1) / 18)
    assert (found["only_one"], found["only_other"]) == (1, 1) and found["p"] == 1.0
    many = pd.concat([counts.assign(video=counts["video"] + 3 * n) for n in range(9)])
    many.loc[many["method"] == "last_query", "exact"] = 0
    found = paired(many, "dynamic", "last_query").iloc[0]
    assert (found["only_one"], found["only_other"]) == (9, 0)
    assert found["p"] == pytest.approx(binomtest(0, 9).pvalue)
