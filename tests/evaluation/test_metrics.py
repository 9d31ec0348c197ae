"""Accuracy against plain counting, intervals against a plain resampling, words that differ, tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dycoke_lab.evaluation.metrics import (
    accuracy,
    bootstrap,
    count_wrong,
    differing,
    headline,
    headline_text,
    pairs,
)


def make_rows() -> pd.DataFrame:
    generator = np.random.default_rng(0)
    rows = []
    for method, skill in (("full", 0.99), ("dynamic", 0.95), ("last_query", 0.6)):
        for seed in range(3):
            for number in range(40):
                scenes = 2 + number % 4
                digits = [int(generator.binomial(4, skill)) for _ in range(scenes)]
                ratio, layer = (0.0, 0) if method == "full" else (0.7, 3)
                rows.append({
                    "seed": seed, "video": f"{scenes}-{number}", "question": "describe", "merge_ratio": 0.5,
                    "method": method, "prune_ratio": ratio, "from_layer": layer, "words": 4 * scenes,
                    "right": "".join(map(str, digits)), "exact": int(sum(digits) == 4 * scenes),
                    "left": 0.6 + 0.1 * (number % 2),
                })  # fmt: skip
    return pd.DataFrame(rows)


def test_accuracy_counts_words_answers_and_parts() -> None:
    rows = make_rows()
    table = accuracy(rows, draws=200).set_index(["method", "measure"])
    for method, group in rows.groupby("method"):
        right = sum(int(d) for digits in group["right"] for d in digits)
        assert table.loc[(method, "words"), "mean"] == pytest.approx(right / group["words"].sum())
        assert table.loc[(method, "exact"), "mean"] == pytest.approx(group["exact"].mean())
        for part in range(5):
            digits = [int(text[part]) for text in group["right"] if len(text) > part]
            assert table.loc[(method, f"part {part}"), "mean"] == pytest.approx(
                sum(digits) / (4 * len(digits))
            )
    assert (table["low"] <= table["mean"]).all() and (table["mean"] <= table["high"]).all()
    assert table.loc[("dynamic", "words"), "retained"] == pytest.approx(0.65 * 0.3)


def test_accuracys_intervals_resemble_a_plain_resampling() -> None:
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


def test_the_headline_has_every_scene() -> None:
    table = headline(make_rows())
    assert list(table.columns[-5:]) == [f"scene {n}" for n in range(1, 6)]
    assert table["method"].tolist()[0] == "full" and len(table) == 3
    assert table["words"].str.fullmatch(r"\d+\.\d \[\d+\.\d, \d+\.\d\]").all()


def test_the_headlines_text_fits_100_columns() -> None:
    table = headline(make_rows()).assign(
        method="hindsight", words="100.0 [100.0, 100.0]", exact="100.0 [99.9, 100.0]"
    )
    lines = headline_text(table).splitlines()
    assert len(lines) == 4 and max(map(len, lines)) <= 100
    scenes = [f"sc. {n}" for n in range(1, 6)]
    assert " ".join(lines[0].split()) == " ".join(["K P method words exact", *scenes])
    assert lines[1].split()[-6] == "100.0" and "hindsight (knows the future)" in lines[1]


def test_pairs_name_what_is_wrong() -> None:
    rows = make_rows()
    with pytest.raises(ValueError, match="measure='letters'"):
        pairs(rows, "letters")
    full = rows[rows["method"] == "full"]
    with pytest.raises(ValueError, match="different videos"):
        pairs(full.iloc[1:])


def test_pairs_know_the_sizes_of_a_comparisons_parts() -> None:
    two = {"seed": [0, 0], "video": ["2-0", "2-1"], "right": ["441", "310"], "exact": [1, 0]}
    rows = pd.DataFrame({**two, "question": "compare", "words": 9})
    assert [pairs(rows, f"part {n}").sum((0, 1)).tolist() for n in range(3)] == [[7, 8], [5, 8], [1, 2]]


def test_bootstrap_takes_values_or_ratios_of_sums() -> None:
    generator = np.random.default_rng(0)
    values = generator.random((3, 50))
    mean, low, high = bootstrap(values)
    assert mean == pytest.approx(values.mean()) and low < mean < high
    assert bootstrap(np.stack([values, np.ones_like(values)], -1)) == pytest.approx((mean, low, high))
    values[:, :40] = np.nan
    assert bootstrap(values)[0] == pytest.approx(values[:, 40:].mean())
    assert bootstrap(np.array([[[1, 2], [3, 3]]], float))[0] == pytest.approx(4 / 5)
    with pytest.raises(ValueError, match=r"values has shape \(3,\)"):
        bootstrap(np.ones(3))


def test_bootstraps_intervals_cover_the_truth() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(60):
        low, high = bootstrap(generator.normal(0.5, 0.1, (1, 200)), draws=400, seed=trial)[1:]
        covered += low <= 0.5 <= high
        assert 0.015 < high - low < 0.045  # 2 * 1.96 * 0.1 / sqrt(200) = 0.028
    assert covered >= 50  # 95 % of 60 is 57; below 50 has odds under 1 in 1,000


def test_bootstraps_intervals_know_that_seeds_differ() -> None:
    mean, low, high = bootstrap(np.repeat([[0.2], [0.5], [0.8]], 100, axis=1))
    assert mean == pytest.approx(0.5) and low < 0.3 and high > 0.7


def test_words_that_differ_are_counted_and_marked() -> None:
    assert differing("a b c", "a b c") == (0, "a b c")
    assert differing("a b c", "a x c") == (1, "a [x] c")
    assert differing("a b c", "a c") == (1, "a [-] c")
    assert differing("a b", "a x y b") == (2, "a [x] [y] b")
    assert differing("a b", "") == (2, "[-]")


def test_wrong_words_are_those_in_the_wrong_place() -> None:
    written = ("a b c", "a c b", "a", "a b c d")
    assert [count_wrong(words.split(), ["a", "b", "c"]) for words in written] == [0, 2, 2, 1]
