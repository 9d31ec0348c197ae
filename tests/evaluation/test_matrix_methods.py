"""Where methods are good and where not, on numbers that can be checked by hand."""

from __future__ import annotations

import pandas as pd

from dycoke_lab.evaluation.matrix import SHARES, plan_at
from dycoke_lab.evaluation.matrix_methods import as_markdown, good_and_bad

WORDS = {
    "ttm": (99, 97, 40), "fewer_frames": (98, 97.5, 10), "dynamic": (99, 96, 99), "uniform": (50, 50, 50),
}  # fmt: skip


def table():
    """All lines have 1 % of words right, but for those of `WORDS`; the full cache has 100 %."""
    full = {
        "group": "control",
        "share": 1.0,
        "method": "full",
        "line": "full",
        "words": 100.0,
        "survive": 100,
    }
    rows = [full]
    for place, share in enumerate(SHARES):
        for line in plan_at(share):
            parts = [(p.method, [f"{a}={b}" for a, b in p.fields]) for p in line.parts]
            name = " + ".join(f"{m} ({', '.join(f)})" if f else m for m, f in parts)
            words = WORDS.get(name, (1, 1, 1))[place]
            survive = 100 * share + 5 * (name == "evs")
            rows.append(full | {
                "group": line.group, "share": share, "method": name, "line": line.key, "words": words,
                "survive": survive,
            })  # fmt: skip
    rows = pd.DataFrame(rows).assign(specimen="footage")
    lost = 100 - rows["words"]
    return rows.assign(**{"lost": lost, "lost least": lost - 0.5, "lost most": lost + 0.5})


def test_by_hand():
    found = good_and_bad(table()).set_index("method")
    ttm = found.loc["temporal merging (TTM)"]
    assert ttm["good with"] == "footage 50 %"  # 97 at 25 % is 3 points less
    assert ttm["loses with 10 %"] == "footage 60.0 (59.5 to 60.5)"
    assert ttm["as good"] == "footage fewer frames at 25 %"
    dynamic = found.loc["dynamic (DyCoke)"]  # what it loses at 25 % counts, though it loses less at 10 %
    assert dynamic["good with"] == "footage 50 %" and dynamic["as good"] == ""
    tova = found.loc["TOVA"]
    assert tova["good with"] == "footage none" and tova["as good"] == "footage uniform at 50, 25, 10 %"
    evs = found.loc["EVS"]  # which leaves more than it should: no control stands beside it
    assert evs["loses with 10 %"] == "footage 99.0° (98.5 to 99.5)" and evs["as good"] == ""
    assert found.loc["one-shot, FastV", "as good"] == ""  # no control costs as much
    assert {"TOVA (answer_counts False)", "DyCoke (TTM + dynamic)"} <= set(found.index)
    assert not {"uniform", "hindsight (knows the future)"} & set(found.index)


def test_as_markdown():
    text = as_markdown(pd.DataFrame({"a": ["x", "y"], "b": ["1", ""]}))
    assert text == "| a | b |\n| --- | --- |\n| x | 1 |\n| y |  |"
