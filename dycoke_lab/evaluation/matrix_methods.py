"""What the matrix says of each method: where it is good, where not, which control is as good."""

from __future__ import annotations

from typing import Any

import pandas as pd

from dycoke_lab.evaluation.matrix import CONTROLS, GROUPS, SHARES, TOGETHER
from dycoke_lab.evaluation.matrix_report import NEVER, plain
from dycoke_lab.evaluation.matrix_tables import NEAR, name_of
from dycoke_lab.methods import METHODS, Merger

GOOD = 2.0  # points of words lost, at most
BESIDE = ("before the LLM", "on the KV cache")  # places for which there are controls of the same cost
WHY = {
    "ttm": "The first frame of a window stays whole: windows of 4 leave a quarter or more.",
    "visionzip": "In part: it numbers positions anew, for which the models were not trained.",
    "prumerge": "In part: it numbers positions anew, for which the models were not trained.",
    "fastv": "Chosen once, by the prompt's last token.",
    "last_query": "Chosen once, by the prompt's last token.",
    "first_step": "Chosen once, by the answer's first step.",
    "snapkv": "Chosen once, by the prompt's last tokens.",
    "pyramidkv": "Chosen once, by the prompt's last tokens.",
    "streamingllm": "It does not look: the first and the last tokens stay.",
}  # why it loses, where that is known


def good_and_bad(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each method of the matrix alone, and for two stages: where it acts; with how few
    tokens it loses at most `GOOD` points of words ("good with"); the points it loses with 10 % (the seed that
    loses least, and most); where it loses more than `GOOD`, the control of its place that keeps no fewer
    words; and why it loses, where that is known. "°": the share is missed by more than `NEAR` points. A text
    names each kind of specimen.

    table: of descriptions, as `matrix_tables.means` has it."""
    table = table.assign(off=(table["survive"] - 100 * table["share"]).abs() > NEAR)
    table = table[table["share"].isin(SHARES)].drop_duplicates(["method", "specimen", "share"])
    keyed = table.set_index(["method", "specimen", "share"])
    lost, least, most, off = (keyed[name].to_dict() for name in ("lost", "lost least", "lost most", "off"))
    kinds = list(table["specimen"].unique())
    places = {name: GROUPS[name] for name in GROUPS if name != "control"} | {TOGETHER: ("",)}
    found = []
    for group, names in places.items():
        there = table[table["group"] == group]["method"].unique()
        for method in [
            m for name in names for m in there if not name or m == name or m.startswith(f"{name} (")
        ]:
            beside = [_as_good(lost, off, method, group, kind) for kind in kinds]
            tenth = [
                f"{kind} {lost[at]:.1f}{'°' * off[at]} ({least[at]:.1f} to {most[at]:.1f})"
                for kind in kinds for at in [(method, kind, 0.1)]
            ]  # fmt: skip
            found.append({
                "method": plain(name_of(method)), "acts": group,
                "good with": "; ".join(f"{kind} {_fewest(lost, off, method, kind)}" for kind in kinds),
                "loses with 10 %": "; ".join(tenth),
                "as good": "; ".join(filter(None, beside)),
                "why it loses": WHY.get(method, ""),
            })  # fmt: skip
    return pd.DataFrame(found)


def _fewest(lost: Any, off: Any, method: str, kind: str) -> str:
    good = [share for share in SHARES if lost[method, kind, share] <= GOOD]
    held = [share for n, share in enumerate(SHARES) if good[: n + 1] == list(SHARES[: n + 1])]
    return f"{100 * held[-1]:.0f} %{'°' * off[method, kind, held[-1]]}" if held else "none"


def _as_good(lost: Any, off: Any, method: str, group: str, kind: str) -> str:
    """Return the controls that act where the method does and lose no more, and at which shares."""
    if group not in BESIDE:
        return ""
    before = group == "before the LLM"
    beside = [name for name in CONTROLS if issubclass(METHODS[name], Merger) == before and name != NEVER]
    said: dict[str, list[str]] = {}
    for share in SHARES:
        same = [name for name in beside if not off[name, kind, share]]
        better = [name for name in same if lost[name, kind, share] <= lost[method, kind, share]]
        if better and lost[method, kind, share] > GOOD and not off[method, kind, share]:
            best = min(better, key=lambda name: lost[name, kind, share])
            said.setdefault(name_of(best), []).append(f"{100 * share:.0f}")
    parts = [f"{name} at {', '.join(shares)} %" for name, shares in said.items()]
    return f"{kind} {', '.join(parts)}" if said else ""


def as_markdown(table: pd.DataFrame) -> str:
    """Return a table of texts as Markdown."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.values.tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
