"""What the matrix says, in words and small tables: all of it computed from the rows that are there."""

from __future__ import annotations

from statistics import fmean

import pandas as pd

from dycoke_lab.evaluation.matrix import ABLATION, FIRST_MERGED, GROUPS, LAYERS, THEN_PRUNED, TOGETHER
from dycoke_lab.evaluation.matrix_tables import (
    AHEAD,
    ALIKE,
    BEHIND,
    DYCOKE,
    TOO_FEW,
    by_position,
    means,
    name_of,
    verdicts,
)

GOALS = {
    "prefill": (50, "visual tokens in the prefill's layers: at most"),
    "read": (45, "keys and values that a step reads: at most"),
    "held": (75, "keys and values that the cache holds: at most"),
}  # of the full cache's visual ones
NEVER = "hindsight"  # it knows the answer: no method can
DOES = {
    "before the LLM": "takes or merges tokens before layer 0: all layers have fewer",
    "inside the prefill": "takes tokens between two layers, while the prompt is read",
    "on the KV cache": "reads the prompt whole; decoding steps attend to fewer tokens",
    TOGETHER: "a merger before the LLM, then a choice on the KV cache",
    "control": "the plain ways: random, every n-th, the first, fewer or smaller frames, none; and hindsight",
    ABLATION: "DyCoke with one of its choices made otherwise",
}


def groups() -> pd.DataFrame:
    """Return the groups of the matrix: where their methods act, how many they are, and which."""
    named = {name: ", ".join(plain(name_of(one)) for one in methods) for name, methods in GROUPS.items()}
    first, then = (", ".join(plain(name_of(one)) for one in part) for part in (FIRST_MERGED, THEN_PRUNED))
    named |= {TOGETHER: f"{first}; then {then}", ABLATION: "see below"}
    return pd.DataFrame(
        [{"group": name, "what it does": DOES[name], "methods": text} for name, text in named.items()]
    )


def contents(rows: pd.DataFrame) -> pd.DataFrame:
    """Return what rows there are: for each kind of specimen and question, seeds, lines and videos a seed."""
    table = []
    for (kind, question), some in rows.groupby(["specimen", "question"], sort=False):
        seeds = ", ".join(map(str, sorted(some["seed"].unique())))
        videos = some.groupby("seed")["video"].nunique().max()
        about = {"specimen": kind, "question": question, "seeds": seeds, "lines": some["line"].nunique()}
        table.append(about | {"videos of a seed": videos})
    return pd.DataFrame(table)


def usable(table: pd.DataFrame) -> pd.DataFrame:
    """Return the lines that one can choose: neither hindsight nor an ablation nor the full cache."""
    return table[~table["method"].isin([NEVER, "full"]) & (table["group"] != ABLATION)]


def cheap(table: pd.DataFrame, cost: str, most: float = 50.0) -> str:
    """Return, a line of text for each kind of specimen, which line has most words right at a cost of at most
    `most` %, and DyCoke's most."""
    said = []
    for kind, some in usable(table).groupby("specimen", sort=False):
        some = some[some[cost] <= most]
        ours = some[some["method"] == DYCOKE]
        if len(some):
            best = some.loc[some["words"].idxmax()]
            text = f"{kind}, at most {most:.0f} %: {plain(best['name'])} keeps {best['words']:.1f} %"
            also = f"DyCoke {ours['words'].max():.1f} %" if len(ours) else "DyCoke costs more"
            said.append(f"{text}, {also}")
    return "\n".join(said)


def plain(name: str) -> str:
    """Return a line's name without what stands in for a class token."""
    return name.replace(" (attention received)", "")


def kept_most(table: pd.DataFrame, methods: tuple[str, ...], kind: str, share: float = 0.25) -> str:
    """Return which of these methods has most words right at a share, by its name."""
    some = table[(table["specimen"] == kind) & (table["share"] == share) & table["method"].isin(methods)]
    return plain(str(some.loc[some["words"].idxmax(), "name"]))


def counts(found: pd.DataFrame) -> pd.DataFrame:
    """Return for each kind of specimen and share how many lines are ahead of DyCoke, not told apart, and
    behind, and which controls are ahead, or not told apart. found: as `verdicts` has it."""
    some = found[(found["group"] != ABLATION) & (found["method"] != NEVER)]
    table = []
    for (kind, share), group in some.groupby(["specimen", "share"], sort=False):
        row = {"specimen": kind, "left": f"{100 * share:.0f}\N{NO-BREAK SPACE}%"}
        if (group["verdict"] == TOO_FEW).any():
            table.append(row | {TOO_FEW: "no verdict"})
            continue
        for said in (AHEAD, ALIKE, BEHIND):
            row[said] = str((group["verdict"] == said).sum())
        plainly = group[group["group"] == "control"]
        for said in (AHEAD, ALIKE):
            names = [name_of(method) for method in plainly[plainly["verdict"] == said]["method"]]
            row[f"controls {said}"] = ", ".join(names) or "none"
        table.append(row)
    return pd.DataFrame(table)


def stages(table: pd.DataFrame, share: float = 0.1) -> pd.DataFrame:
    """Return words right, in %, when a merger alone leaves a share, and when it leaves the root of it and a
    choice on the KV cache the rest."""
    some = table[table["share"] == share].set_index(["specimen", "method"])["words"]
    found = []
    for kind in table["specimen"].unique():
        for first in FIRST_MERGED:
            row = {
                "specimen": kind,
                "before the LLM": plain(name_of(first)),
                "alone": some.get((kind, first)),
            }
            for then in THEN_PRUNED:
                row[f"then {name_of(then)}"] = some.get((kind, f"{first} + {then}"))
            found.append(row)
    return pd.DataFrame(found).dropna()


def picks(table: pd.DataFrame, share: float = 0.25) -> list[str]:
    """Return the methods that a figure with few lines shows: the full cache, DyCoke and its dynamic pruning,
    FastV, VisionZip, the best before the LLM and the best control, by the mean over kinds of specimen."""
    some = usable(table[table["share"] == share])
    mean = some.groupby(["group", "method"])["words"].mean()
    best = [str(mean[group].idxmax()) for group in ("before the LLM", "control") if group in mean]
    wanted = ["full", DYCOKE, "dynamic", "fastv", "visionzip", *best]
    there = set(table["method"])
    return [method for method in dict.fromkeys(wanted) if method in there]


def positions_of(rows: pd.DataFrame, methods: list[str], share: float = 0.25) -> pd.DataFrame:
    """Return words right, in %, by scene of the longest answers, mean over seeds, for these methods."""
    rows = rows[rows["method"].isin(methods) & rows["share"].isin([share, 1.0])]
    rows = rows[(rows["question"] == "describe") & (rows["scenes"] == rows["scenes"].max())]
    tables = []
    for kind, some in rows.groupby("specimen", sort=False):
        found = by_position(some.reset_index(drop=True)).groupby(["method", "position"])["words"].mean()
        tables.append(found.reset_index().assign(specimen=kind))
    return _in_order(pd.concat(tables), methods)


def lengths_of(rows: pd.DataFrame, methods: list[str], share: float = 0.25) -> pd.DataFrame:
    """Return points of words lost against the full cache, by question, of the specimens (kind and seed) that
    were asked all questions; empty if there are none."""
    asked = list(rows["question"].unique())
    count = rows.groupby(["specimen", "seed"])["question"].transform("nunique")
    rows = rows[count == len(asked)]
    if len(asked) < 2 or rows.empty:
        return pd.DataFrame()
    rows = rows[rows["method"].isin(methods) & rows["share"].isin([share, 1.0])]
    table = pd.concat([means(rows, question).assign(question=question) for question in asked])
    return _in_order(table[table["method"] != "full"], methods)


def _in_order(table: pd.DataFrame, methods: list[str]) -> pd.DataFrame:
    table = table.assign(
        place=table["method"].map(methods.index), control=table["method"].isin(GROUPS["control"]),
        name=table["method"].map(lambda method: "full cache" if method == "full" else plain(name_of(method))),
    )  # fmt: skip
    return table.sort_values("place", kind="stable").reset_index(drop=True)


def sentences(table: pd.DataFrame, found: pd.DataFrame, share: float = 0.25) -> str:
    """Return the page's three sentences."""
    few = usable(table[table["share"] == share])
    firsts = []
    for kind, some in few.groupby("specimen", sort=False):
        best, ours = some.loc[some["words"].idxmax()], some[some["method"] == DYCOKE]["words"]
        firsts.append(
            f"{plain(best['name'])} ({kind}: {best['words']:.1f} %, TTM + dynamic {fmean(ours):.1f} %)"
        )
    cheapest = []
    for kind, some in usable(table).groupby("specimen", sort=False):
        half = some[some["read"] <= 50]
        best = half.loc[half["words"].idxmax()]
        cheapest.append(
            f"{plain(best['name'])} at {100 * best['share']:.0f} % ({kind}: {best['words']:.1f} %)"
        )
    number = counts(found[found["share"] == share])
    if TOO_FEW in number:
        last = "which lines are ahead of DyCoke is not said before three seeds are there"
    else:
        last = "; ".join(
            f"on {row['specimen']} {row[AHEAD]} lines are ahead of DyCoke, {row[BEHIND]} behind, "
            f"{row[ALIKE]} not told apart (controls, without hindsight, ahead: "
            f"{row['controls ' + AHEAD]}; not told apart: {row['controls ' + ALIKE]})"
            for row in number.to_dict("records")
        )
    return (
        f"With {100 * share:.0f} % of the tokens left, most words are kept by {' and '.join(firsts)}. Equal "
        "tokens are not equal cost, since a method before the LLM saves in all layers: with half of the keys "
        f"and values or less, most words are kept by {' and '.join(cheapest)}. By the protocol's rule, at "
        f"{100 * share:.0f} %, {last}."
    )


def fidelity(table: pd.DataFrame) -> pd.DataFrame:
    """Return for each kind of specimen and share the rank correlation, over its lines, of words right and of
    the tokens that agree with the full cache's answer."""
    rows = table[table["share"] < 1]
    found = [
        {"specimen": kind, "left": f"{100 * share:.0f} %", "lines": len(some),
         "rank correlation": some["words"].corr(some["agree"], method="spearman")}
        for (kind, share), some in rows.groupby(["specimen", "share"], sort=False)
    ]  # fmt: skip
    return pd.DataFrame(found)


def own_time(costs: pd.DataFrame, most: int = 3) -> str:
    """Return which methods take most time of their own, in the prefill and at a step, and which save least.
    costs: as `matrix_costs.cost_table` has it."""
    rows = costs[costs["method"] != "full"].assign(name=costs["method"].map(name_of).map(plain))
    said = []
    for stage in ("prefill", "step"):
        top = rows.nlargest(most, f"own {stage}")
        each = "; ".join(
            f"{row['name']} {row[f'own {stage}']:.0f} ms ({stage} {row[stage]:.0f} % of the full cache's)"
            for row in top.to_dict("records")
        )
        said.append(f"Most time of their own, {stage}: {each}")
    return "\n".join(said)


def best_three(table: pd.DataFrame) -> pd.DataFrame:
    """Return for each kind of specimen and cost of `GOALS` the three lines with most words right that cost no
    more. table: of descriptions, as `matrix_tables.means` has it."""
    found = []
    for kind, some in usable(table).groupby("specimen", sort=False):
        for cost, (most, goal) in GOALS.items():
            best = some[some[cost] <= most].sort_values("words", ascending=False).drop_duplicates("method")
            lines = [
                f"{plain(row['name'])} at {100 * row['share']:.0f} % ({row['words']:.1f})"
                for row in best[:3].to_dict("records")
            ]
            found.append(
                {
                    "specimen": kind,
                    "what it may cost": f"{goal} {most} %",
                    "most words right": "; ".join(lines),
                }
            )
    return pd.DataFrame(found)


def finding(rows: pd.DataFrame, second: pd.DataFrame, share: float = 0.25) -> str:
    """Return the README's sentence: words right of DyCoke and of random tokens on the KV cache, mean over
    seeds (lowest-highest). second: rows of a second family."""
    controls = counts(verdicts(rows[(rows["specimen"] == "footage") & (rows["share"] == share)]))
    rows = pd.concat([rows, second])
    rows = rows[(rows["question"] == "describe") & (rows["share"] == share)]
    sums = rows.groupby(["specimen", "method", "seed"])[["count", "words"]].sum()
    words = 100 * sums["count"] / sums["words"]

    def said(kind: str, method: str) -> str:
        some = words[kind, method]
        return f"{some.mean():.1f} ({some.min():.1f}-{some.max():.1f})"

    on_footage = rows[(rows["specimen"] == "footage") & (rows["method"] == DYCOKE)]
    prefill = 100 * on_footage["prefill"].mean()
    constructed, qwen = (
        ", ".join(f"{words[kind, method].mean():.1f}" for method in ("random", DYCOKE))
        for kind in ("constructed", "footage-qwen2.5-vl")
    )
    return (
        f"With {100 * share:.0f} % of the tokens on footage, L={LAYERS['footage']}, random ones on the KV "
        f"cache keep {said('footage', 'random')} % of words, DyCoke {said('footage', DYCOKE)}, with "
        f"{prefill:.0f} % of the prefill; not told apart from DyCoke: {controls[f'controls {ALIKE}'][0]}. "
        f"Random and DyCoke on constructed: {constructed}; on Qwen2.5-VL: {qwen}."
    )


def lost_title(asked: pd.DataFrame) -> str:
    """Return a title: points that DyCoke loses in the shortest and the longest answers. asked: as
    `lengths_of` has it."""
    ours = (
        asked[asked["method"] == DYCOKE]
        .groupby(["specimen", "question"], sort=False)["lost"]
        .mean()
        .unstack()
    )
    said = [f"{kind}: {row['actor']:.1f}, {row['describe']:.1f}" for kind, row in ours.iterrows()]
    return "DyCoke, points lost in answers of one word, of all scenes:\n" + "; ".join(said)
