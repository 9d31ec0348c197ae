"""Tables of accuracy against plain counting, and intervals against an obvious resampling."""

import numpy as np
import pandas as pd
import pytest

from dycoke_lab.tables import accuracy, by_seed, difference, headline, pairs


def make_rows() -> pd.DataFrame:
    generator = np.random.default_rng(0)
    rows = []
    for method, skill in (("full", 0.99), ("dynamic", 0.95), ("last_query", 0.6)):
        for seed in range(3):
            for number in range(40):
                scenes = 2 + number % 4
                digits = [int(generator.binomial(4, skill)) for _ in range(scenes)]
                rows.append(dict(
                    seed=seed, video=f"{scenes}-{number}", question="describe", merge_ratio=0.5, method=method,
                    prune_ratio=0.0 if method == "full" else 0.7, score_layer=0 if method == "full" else 3,
                    right="".join(map(str, digits)), words=4 * scenes, exact=int(sum(digits) == 4 * scenes),
                    left=0.6 + 0.1 * (number % 2),
                ))  # fmt: skip
    return pd.DataFrame(rows)


def test_means_are_plain_counts() -> None:
    rows = make_rows()
    table = accuracy(rows, draws=200).set_index(["method", "measure"])
    for method, group in rows.groupby("method"):
        right = sum(int(d) for digits in group["right"] for d in digits)
        assert table.loc[(method, "words"), "mean"] == pytest.approx(right / group["words"].sum())
        assert table.loc[(method, "exact"), "mean"] == pytest.approx(group["exact"].mean())
        for part in range(5):
            digits = [int(text[part]) for text in group["right"] if len(text) > part]
            assert table.loc[(method, f"part {part}"), "mean"] == pytest.approx(sum(digits) / (4 * len(digits)))
    assert (table["low"] <= table["mean"]).all() and (table["mean"] <= table["high"]).all()
    assert table.loc[("dynamic", "words"), "retained"] == pytest.approx(0.65 * 0.3)


def test_intervals_resemble_a_plain_resampling() -> None:
    rows = make_rows()
    values = pairs(rows[rows["method"] == "last_query"])
    generator = np.random.default_rng(1)
    means = []
    for _ in range(2000):
        seeds, videos = generator.integers(0, 3, 3), generator.integers(0, 40, 40)
        sample = values[seeds][:, videos]
        means.append(sample[..., 0].sum() / sample[..., 1].sum())
    table = accuracy(rows).set_index(["method", "measure"]).loc[("last_query", "words")]
    assert [table["low"], table["high"]] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.01)


def test_difference_is_paired() -> None:
    rows = make_rows()
    table = difference(rows, "words").set_index("method")
    mean = accuracy(rows).query("measure == 'words'").set_index("method")["mean"]
    assert table.loc["dynamic", "mean"] == pytest.approx(mean["dynamic"] - mean["full"])
    assert table.loc["last_query", "high"] < table.loc["dynamic", "low"]
    same = pd.concat([rows, rows[rows["method"] == "dynamic"].assign(method="random")])
    twin = difference(same, "exact", to="dynamic").set_index("method").loc["random"]
    assert (twin["mean"], twin["low"], twin["high"]) == (0, 0, 0)  # unpaired intervals would be wide


def test_headline_has_every_scene() -> None:
    table = headline(make_rows())
    assert list(table.columns[-5:]) == [f"scene {n}" for n in range(1, 6)]
    assert table["method"].tolist()[0] == "full" and len(table) == 3
    assert table["words"].str.fullmatch(r"\d+\.\d \[\d+\.\d, \d+\.\d\]").all()


def test_errors_name_what_is_wrong() -> None:
    rows = make_rows()
    with pytest.raises(ValueError, match="measure='letters'"):
        pairs(rows, "letters")
    full = rows[rows["method"] == "full"]
    with pytest.raises(ValueError, match="different videos"):
        pairs(full.iloc[1:])


def test_parts_of_a_comparison_have_their_own_sizes() -> None:
    rows = pd.DataFrame({
        "seed": [0, 0], "video": ["2-0", "2-1"], "question": "compare", "right": ["441", "310"], "words": 9, "exact": [1, 0],
    })  # fmt: skip
    assert [pairs(rows, f"part {n}").sum((0, 1)).tolist() for n in range(3)] == [[7, 8], [5, 8], [1, 2]]


def test_one_by_one_and_together_agree() -> None:
    rows = make_rows()
    alone = by_seed(rows)
    together = accuracy(rows, draws=10).query("measure == 'words'").set_index("method")["mean"]
    assert len(alone) == 2 * 3 and alone["dynamic"].mean() == pytest.approx(together["dynamic"])
