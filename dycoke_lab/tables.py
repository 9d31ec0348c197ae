"""Accuracy tables with 95 % intervals, from the rows of `dycoke_lab.study`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dycoke_lab.drift import bootstrap

METHOD_NAMES = {
    "full": "full cache", "dynamic": "dynamic (DyCoke)", "first_step": "first step only", "reference_code": "reference code",
    "last_query": "one-shot, last query", "fastv": "one-shot, FastV", "random": "random", "uniform": "uniform",
    "keep_first": "keep first", "keep_none": "no video from L on", "oracle": "oracle (sees the future)",
}  # fmt: skip
FULL_ON_THE_REST = "full cache on what is left"  # after merging by a threshold
SETTING = ["question", "merge_ratio", "score_layer", "prune_ratio", "method"]


def pairs(rows: pd.DataFrame, measure: str = "words") -> NDArray[np.float64]:
    """(seeds, videos, 2) of one setting: what was right, and out of how many.

    measure: "words", "exact" (whole answers), or "part 0", "part 1", ...: the words of one position in the answer.
    Raises ValueError if a seed lacks videos that another has.
    """
    if measure == "words":
        right, of = rows["right"].map(lambda digits: sum(map(int, digits))), rows["words"]
    elif measure == "exact":
        right, of = rows["exact"], pd.Series(1, rows.index)
    elif measure.startswith("part "):
        number = int(measure.removeprefix("part "))
        there = rows["right"].str.len() > number
        right = rows["right"].map(lambda digits: int(digits[number]) if len(digits) > number else 0)
        of = there * [_size(*about, number) for about in zip(rows["question"], rows["words"], rows["right"].str.len(), strict=True)]
    else:
        raise ValueError(f'measure={measure!r} must be "words", "exact", or "part 0", "part 1", ...')
    frame = pd.DataFrame({"seed": rows["seed"], "video": rows["video"], "right": right, "of": of})
    wide = frame.pivot(index="seed", columns="video", values=["right", "of"])
    if wide.isna().any(axis=None):
        raise ValueError("the seeds were asked about different videos: run the missing cells first")
    return np.stack([wide["right"].to_numpy(float), wide["of"].to_numpy(float)], -1)


def _size(question: str, words: int, parts: int, number: int) -> int:
    """How many words a part of the answer has. The last part of `compare` is its one-word verdict."""
    if question != "compare":
        return words // parts
    return 1 if number == parts - 1 else (words - 1) // (parts - 1)


def measures(rows: pd.DataFrame) -> list[str]:
    """Words, whole answers, and one measure for each position in the answer."""
    return ["words", "exact", *(f"part {n}" for n in range(rows["right"].str.len().max()))]


def accuracy(rows: pd.DataFrame, draws: int = 2000) -> pd.DataFrame:
    """Tidy: one row per setting and measure, with mean, low and high (95 %, bootstrap over seeds and videos).

    `retained` is the share of the video's tokens that the pruned layers attend to: measured after merging, times 1 - P.
    """
    table: list[dict[str, Any]] = []
    for setting, group in rows.groupby(SETTING):
        about = dict(zip(SETTING, setting, strict=True))
        retained = group["left"].mean() * (1 - about["prune_ratio"]) * (about["method"] != "keep_none")
        size = {"seeds": group["seed"].nunique(), "videos": group["video"].nunique()}
        for measure in measures(group):
            mean, low, high = bootstrap(pairs(group, measure), draws)
            table.append({**about, "retained": retained, "measure": measure, "mean": mean, "low": low, "high": high, **size})
    return pd.DataFrame(table)


def by_seed(rows: pd.DataFrame, measure: str = "words") -> pd.DataFrame:
    """Mean accuracy of each specimen on its own: index merge and prune ratio and seed, a column a method."""
    cells = rows.groupby(["merge_ratio", "prune_ratio", "seed", "method"])
    sums = {setting: pairs(group, measure).sum((0, 1)) for setting, group in cells}
    table = pd.Series({setting: right / of for setting, (right, of) in sums.items()}).unstack()
    return table.rename_axis(["merge_ratio", "prune_ratio", "seed"])


def difference(rows: pd.DataFrame, measure: str = "words", to: str = "full", draws: int = 2000) -> pd.DataFrame:
    """Each method minus the method `to` on the same videos and merged tokens, with paired 95 % intervals."""
    table: list[dict[str, Any]] = []
    keys = ["question", "merge_ratio"] if to == "full" else SETTING[:-1]
    base = dict(list(rows[rows["method"] == to].groupby(keys)))
    for setting, group in rows[rows["method"] != to].groupby(SETTING):
        about = dict(zip(SETTING, setting, strict=True))
        key = tuple(about[name] for name in keys)
        if key in base:
            ours, theirs = pairs(group, measure), pairs(base[key], measure)
            both = np.stack([ours[..., 0] - theirs[..., 0], ours[..., 1]], -1)
            mean, low, high = bootstrap(both, draws)
            table.append({**about, "to": to, "measure": measure, "mean": mean, "low": low, "high": high})
    return pd.DataFrame(table)


def headline(rows: pd.DataFrame, question: str = "describe") -> pd.DataFrame:
    """Method x ratio x accuracy by position in the answer, as text: "97.1 [96.0, 98.2]", in per cent."""
    table = accuracy(rows[rows["question"] == question])
    table["text"] = [f"{100 * m:.1f} [{100 * a:.1f}, {100 * b:.1f}]" for m, a, b in table[["mean", "low", "high"]].to_numpy()]
    names = {m: f"scene {int(m.split()[1]) + 1}" if m.startswith("part") else m for m in table["measure"].unique()}
    table["measure"] = table["measure"].map(names)
    index = ["merge_ratio", "prune_ratio", "retained", "score_layer", "method"]
    wide = table.pivot(index=index, columns="measure", values="text")[list(names.values())]
    order = table[table["measure"] == "words"].set_index(index)["mean"]
    wide = wide.assign(order=-order).reset_index()
    wide = wide.sort_values(["score_layer", "merge_ratio", "prune_ratio", "order"]).drop(columns="order")
    return wide.round({"retained": 3}).reset_index(drop=True)


README_METHODS = ("full", "dynamic", "last_query", "fastv", "first_step", "random", "uniform", "keep_first", "keep_none")
README_SETTINGS = ((0.0, 0.9), (0.5, 0.7), (0.7, 0.7), (0.7, 0.9))


def readme_table(table: pd.DataFrame) -> str:
    """The README's table, as Markdown, from `accuracy` of the descriptions at L = 3: words / whole descriptions."""
    cells = table.set_index(["merge_ratio", "prune_ratio", "method", "measure"])[["mean", "low", "high"]]
    columns = " | ".join(f"K={k:g} P={p:g}" for k, p in README_SETTINGS)
    lines = [f"| words right, % [95 %] / whole descriptions right, % | {columns} |",
             "|---|" + "---|" * len(README_SETTINGS)]  # fmt: skip
    for method in README_METHODS:
        texts = []
        for merge, prune in README_SETTINGS:
            setting = (merge, 0.0 if method == "full" else prune, method)
            mean, low, high = 100 * cells.loc[(*setting, "words")]
            texts.append(f"{mean:.1f} [{low:.1f}, {high:.1f}] / {100 * cells.loc[(*setting, 'exact'), 'mean']:.0f}")
        name = METHOD_NAMES.get(method, method) + (" on the merged tokens" if method == "full" else "")
        lines.append(f"| {f'**{name}**' if method == 'dynamic' else name} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def heat_table(sweep: pd.DataFrame, measure: str = "words") -> pd.DataFrame:
    """Mean accuracy of dynamic pruning, index K, columns P (0: the full cache), from the rows of a sweep."""
    rows = sweep[sweep["merge_threshold"].isna()]
    cells = rows.groupby(["merge_ratio", "prune_ratio"])
    sums = {setting: pairs(group, measure).sum((0, 1)) for setting, group in cells}
    means = {setting: right / of for setting, (right, of) in sums.items()}
    return pd.Series(means).unstack()


def threshold_table(sweep: pd.DataFrame, measure: str = "words", draws: int = 2000) -> pd.DataFrame:
    """One row per similarity threshold and method: mean, low, high (95 %), and `left`, the share that merging left."""
    table = []
    for (method, threshold), group in sweep[sweep["merge_threshold"].notna()].groupby(["method", "merge_threshold"]):
        mean, low, high = bootstrap(pairs(group, measure), draws)
        name = FULL_ON_THE_REST if method == "full" else f"dynamic, P = {group['prune_ratio'].iloc[0]:g}"
        table.append(dict(threshold=threshold, method=name, mean=mean, low=low, high=high, left=group["left"].mean()))
    return pd.DataFrame(table).sort_values(["method", "threshold"], ascending=[False, True]).reset_index(drop=True)
