"""Accuracy from the rows of `evaluation.grids`, with 95 % intervals; which words of an answer are wrong."""

from __future__ import annotations

import difflib
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dycoke_lab.methods import label_of

Array = NDArray[np.float64]
SETTING = ["question", "merge_ratio", "from_layer", "prune_ratio", "method"]
FULL_ON_THE_REST = "full cache of the retained tokens"  # after merging by a threshold


def bootstrap(values: Array, draws: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Return the mean and its 95 % percentile interval, resampling seeds and videos, both with replacement.

    values: (seeds, videos), or (seeds, videos, 2) for a ratio of sums (numerator, denominator); NaN marks a
    video without a value. Of three seeds the interval spans about the lowest and the highest.
    """
    values = np.asarray(values, float)
    if values.ndim not in (2, 3) or values.size == 0:
        raise ValueError(f"values has shape {values.shape}: it must be (seeds, videos) or (seeds, videos, 2)")
    if values.ndim == 2:
        there = ~np.isnan(values)
        values = np.stack([np.where(there, values, 0), there], -1)
    pick_seed, pick_video = _draws(*values.shape[:2], draws, seed)
    per_seed = np.einsum("dv,svk->dsk", pick_video, values, optimize=True)
    sums = np.einsum("ds,dsk->dk", pick_seed, per_seed)
    sums = sums[sums[:, 1] > 0]  # of few videos, a draw may miss all that have a value
    low, high = np.quantile(sums[:, 0] / sums[:, 1], [0.025, 0.975])
    total = values.sum((0, 1))
    return float(total[0] / total[1]), float(low), float(high)


@lru_cache(maxsize=4)
def _draws(seeds: int, videos: int, draws: int, seed: int) -> tuple[Array, Array]:
    """Return how often each draw takes each seed and each video."""
    generator = np.random.default_rng(seed)
    counts = [generator.multinomial(n, np.full(n, 1 / n), draws).astype(float) for n in (seeds, videos)]
    return counts[0], counts[1]


def pairs(rows: pd.DataFrame, measure: str = "words") -> Array:
    """Return (seeds, videos, 2) of one setting: how much was right, and out of how much.

    measure: "words", "exact" (whole answers), or "part 0", "part 1", ...: the words of one position in the
    answer. Raises ValueError if a seed lacks videos that another has.
    """
    if measure == "words":
        right, of = rows["right"].map(lambda digits: sum(map(int, digits))), rows["words"]
    elif measure == "exact":
        right, of = rows["exact"], pd.Series(1, rows.index)
    elif measure.startswith("part "):
        number = int(measure.removeprefix("part "))
        parts = rows["right"].str.len()
        right = rows["right"].map(lambda digits: int(digits[number]) if len(digits) > number else 0)
        sizes = [_size(*about, number) for about in zip(rows["question"], rows["words"], parts, strict=True)]
        of = (parts > number) * sizes
    else:
        raise ValueError(f'measure={measure!r} must be "words", "exact", or "part 0", "part 1", ...')
    frame = pd.DataFrame({"seed": rows["seed"], "video": rows["video"], "right": right, "of": of})
    wide = frame.pivot(index="seed", columns="video", values=["right", "of"])
    if wide.isna().any(axis=None):
        raise ValueError("the seeds were asked about different videos: run the missing configs first")
    return np.stack([wide["right"].to_numpy(float), wide["of"].to_numpy(float)], -1)


def _size(question: str, words: int, parts: int, number: int) -> int:
    """Return how many words a part of the answer has. The last part of `compare` is its one-word verdict."""
    if question != "compare":
        return words // parts
    return 1 if number == parts - 1 else (words - 1) // (parts - 1)


def measures(rows: pd.DataFrame) -> list[str]:
    """Return the names of all measures: words, whole answers, and one for each position in the answer."""
    return ["words", "exact", *(f"part {n}" for n in range(rows["right"].str.len().max()))]


def accuracy(rows: pd.DataFrame, draws: int = 2000) -> pd.DataFrame:
    """Return a row per setting and measure: mean, low and high (95 %, bootstrap over seeds and videos).

    `retained` is the share of the video's tokens that the pruned layers attend to: what merging retained
    (measured), times 1 - P.
    """
    table: list[dict[str, Any]] = []
    for setting, group in rows.groupby(SETTING):
        about = dict(zip(SETTING, setting, strict=True))
        retained = group["left"].mean() * (1 - about["prune_ratio"]) * (about["method"] != "keep_none")
        size = {"seeds": group["seed"].nunique(), "videos": group["video"].nunique()}
        for measure in measures(group):
            mean, low, high = bootstrap(pairs(group, measure), draws)
            found = {"measure": measure, "mean": mean, "low": low, "high": high}
            table.append({**about, "retained": retained, **found, **size})
    return pd.DataFrame(table)


def _means(rows: pd.DataFrame, keys: list[str], measure: str) -> pd.Series:
    sums = {setting: pairs(group, measure).sum((0, 1)) for setting, group in rows.groupby(keys)}
    return pd.Series({setting: right / of for setting, (right, of) in sums.items()})


def headline(rows: pd.DataFrame, question: str = "describe") -> pd.DataFrame:
    """Return accuracy in per cent, by method, ratio and position in the answer: "97.1 [96.0, 98.2]"."""
    table = accuracy(rows[rows["question"] == question])
    numbers = (100 * table[["mean", "low", "high"]]).to_numpy()
    table["text"] = [f"{mean:.1f} [{low:.1f}, {high:.1f}]" for mean, low, high in numbers]
    scene = r"part (\d+)", lambda found: f"scene {int(found[1]) + 1}"
    table["measure"] = table["measure"].str.replace(*scene, regex=True)
    index = ["merge_ratio", "prune_ratio", "retained", "from_layer", "method"]
    wide = table.pivot(index=index, columns="measure", values="text")[list(table["measure"].unique())]
    order = table[table["measure"] == "words"].set_index(index)["mean"]
    wide = wide.assign(order=-order).reset_index()
    wide = wide.sort_values(["from_layer", "merge_ratio", "prune_ratio", "order"]).drop(columns="order")
    return wide.round({"retained": 3}).reset_index(drop=True)


def headline_text(headline: pd.DataFrame) -> str:
    """Return the headline table for a terminal of 100 columns: only `words` has an interval; sc.: scene."""
    measured = [name for name in headline.columns if name == "exact" or name.startswith("scene ")]
    table = headline[["merge_ratio", "prune_ratio", "method", "words", *measured]].fillna("")
    table["method"] = table["method"].map(label_of)
    for name in measured:
        table[name] = table[name].str.split(" ").str[0]
    names = {"merge_ratio": "K", "prune_ratio": "P"}
    return table.rename(columns=lambda name: names.get(name, name.replace("scene", "sc."))).to_string(
        index=False
    )


def heat_table(sweep: pd.DataFrame, measure: str = "words") -> pd.DataFrame:
    """Return the mean accuracy of dynamic pruning in a sweep: index K, columns P (0: the full cache)."""
    return _means(sweep[sweep["merge_threshold"].isna()], ["merge_ratio", "prune_ratio"], measure).unstack()


def threshold_table(sweep: pd.DataFrame, measure: str = "words", draws: int = 2000) -> pd.DataFrame:
    """Return mean, low, high (95 %) and `left`, the share retained, per similarity threshold and method."""
    table = []
    by_threshold = sweep[sweep["merge_threshold"].notna()].groupby(["method", "merge_threshold"])
    for (method, threshold), group in by_threshold:
        mean, low, high = bootstrap(pairs(group, measure), draws)
        name = FULL_ON_THE_REST if method == "full" else f"dynamic, P = {group['prune_ratio'].iloc[0]:g}"
        left = group["left"].mean()
        table.append(dict(threshold=threshold, method=name, mean=mean, low=low, high=high, left=left))
    found = pd.DataFrame(table).sort_values(["method", "threshold"], ascending=[False, True])
    return found.reset_index(drop=True)


def wrong_words(words: list[str], answer: list[str]) -> list[bool]:
    """Return which of the words differ from the right answer's word at the same place.

    >>> wrong_words(["red", "cat"], ["blue", "cat"])
    [True, False]
    """
    return [index >= len(answer) or word != answer[index] for index, word in enumerate(words)]


def count_wrong(words: list[str], answer: list[str]) -> int:
    """Return how many words are wrong in their place, left out, or too many."""
    return sum(wrong_words(words, answer)) + max(0, len(answer) - len(words))


def differing(full: str, compressed: str) -> tuple[int, str]:
    """Return how many words of two answers differ, and the second with its differing words in [brackets].

    Answers of one length are compared word by word, others by their longest common parts; [-]: some are
    missing.

    >>> differing("red cat, blue dog", "red cat, green dog")
    (1, 'red cat, [green] dog')
    """
    a, b = full.split(), compressed.split()
    if len(a) == len(b):
        wrong = wrong_words(b, a)
        return sum(wrong), " ".join(f"[{word}]" if bad else word for word, bad in zip(b, wrong, strict=True))
    count, shown = 0, []
    for kind, i, j, k, m in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if kind == "equal":
            shown += b[k:m]
        else:
            count += max(j - i, m - k)
            shown += [f"[{word}]" for word in b[k:m]] or ["[-]"]
    return count, " ".join(shown)
