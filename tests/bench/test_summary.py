"""Ratios, the table, its text, and the table of the docs."""

from __future__ import annotations

import pytest

from dycoke_lab.bench.configs import BenchmarkConfig
from dycoke_lab.bench.predictions import gain
from dycoke_lab.bench.published_tables import gpu_table, speed_table
from dycoke_lab.bench.roofline import seconds, work
from dycoke_lab.bench.summary import device_of, interval, ratio, summary, table, value
from dycoke_lab.results.folders import BENCH, ROOT

DOCS = ROOT / "docs" / "speed-and-memory.md"


def row(repeat, seconds, turns=None, run=0):
    steps = [9.0, seconds, seconds, 4 * seconds]
    return {"run": run, "repeat": repeat, "prefill": seconds, "merge": 0.1, "steps": steps, "in_turns": turns}


def test_value_leaves_out_the_first_step():
    one = row(0, 2.0)
    assert value(one, "step") == 2.0 and value(one, "least step") == 2.0
    assert value(one, "total") == 2.0 + 9.0 + 2.0 + 2.0 + 8.0 and value(one, "merge share") == 0.05


def test_ratio_is_taken_within_rounds():
    full, other = [row(n, 2.0 * (n + 1)) for n in range(3)], [row(n, float(n + 1)) for n in range(3)]
    assert ratio("prefill", other, full) == (0.5, 0.5, 0.5) == ratio("step", other, full)
    assert ratio("step", other, []) is None
    assert ratio("step", [{"run": 0, "repeat": 0, "error": "no"}], full) is None
    assert ratio("prefill", [row(0, 3.0)], [row(0, 2.0, run=1)]) is None
    assert str(ratio("prefill", [row(0, 3.0)], [row(0, 2.0)])) == "(1.5, nan, nan)"
    spread = [row(n, seconds) for n, seconds in enumerate((3.0, 4.0, 9.0))]
    assert ratio("prefill", spread, [row(n, 2.0) for n in range(3)]) == (
        2.0,
        1.5,
        4.5,
    )  # smallest and largest


def test_ratio_of_steps_in_turns_is_taken_step_by_step():
    turns = [row(0, 3.0, 17.5)], [row(0, 2.0, 17.5)], [row(0, 1.0, 99.0)]
    assert ratio("step", turns[0], turns[1]) == (1.5, 1.5, 1.5)
    assert ratio("step", turns[0], turns[2]) is None  # at another time, when the machine was not the same
    other_run = [row(0, 3.0, 17.5), {**row(1, 3.0, 18.5), "steps": [9.0, 3.0]}]
    assert ratio("step", other_run, other_run) == (1.0, 1.0, 1.0)
    alone = {**row(0, 3.0, 17.5), "steps": [3.0]}
    assert ratio("step", [alone], [alone])[0] == 1.0


def test_ratio_of_steps_without_turns_is_that_of_minima():
    slow = {**row(0, 3.0), "steps": [9.0, 90.0, 88.0, 3.0]}  # a busy host
    assert ratio("step", [slow], [row(0, 2.0)])[0] == 1.5


def test_table_has_a_line_for_each_config(measured, no_peak):
    found, rows, folder = measured
    lines = table(folder)
    assert [line["config"] for line in lines] == [config.label for config in found]
    named = {line["config"]: line for line in lines}
    dycoke, full = named["dycoke K=0.7 P=0.7"], named["full"]
    for of in ("full", "full-in-place", "truncated", "merge"):
        middle, low, high = dycoke[f"step / {of}"]
        assert 0 < low <= middle <= high
    assert full["step / full"] == (1, 1, 1) == named["full-in-place"]["step / full-in-place"]
    assert full["step / truncated"] is None and full["step / full-in-place"] is not None
    graph = named["dycoke K=0.7 P=0.7 graph"]
    assert graph["step / full"] == graph["step / full-in-place"] is not None  # static steps write in place
    assert graph["step / truncated"] is not None and named["full graph"]["step / full"] == (1, 1, 1)
    assert named["dycoke K=0.7 P=0.7 every step"]["step / truncated"] is not None
    config = BenchmarkConfig(**rows[1]["config"])
    least = seconds(work(config, 4), no_peak, 5)
    assert config.method == "full" and full["step roofline"] == pytest.approx(least["step"] / full["step"])
    assert full["ttft"] == named["vision"]["vision"] + full["prefill"]
    assert full["least step"] <= full["step"]


def test_summary_fits_a_terminal_and_names_every_config(measured):
    found, _, folder = measured
    text = summary(folder)
    assert all(config.label in text for config in found if config.method != "vision")
    assert "tiny · 8 frames · batch 2 · 5 new tokens" in text and "encoding the frames: 0.0" in text
    assert max(map(len, text.splitlines())) <= 110


def test_speed_table_says_what_the_table_says(measured):
    lines = {line["config"]: line for line in table(measured[2])}
    head, _, dycoke, again, merging, fastv, one_shot = speed_table(measured[2]).splitlines()
    assert head.count("|") == dycoke.count("|") == 7
    cells = [cell.strip() for cell in dycoke.strip("|").split("|")]
    ours = lines["dycoke K=0.7 P=0.7"]
    assert cells[1:5] == [interval(ours[of]) for of in (
        "prefill / full", "step / full", "step / full-in-place", "step / truncated")]  # fmt: skip
    assert cells[5] == f"{ours['held'] / lines['full']['held']:.2f}"
    assert interval(lines["dycoke K=0.7 P=0.7 every step"]["step / full"]) in again
    for line, name in (
        (merging, "merge K=0.7"),
        (fastv, "fastv K=0 P=0.7"),
        (one_shot, "one-shot K=0 P=0.7"),
    ):
        assert interval(lines[name]["step / full-in-place"]) in line


@pytest.mark.data
def test_docs_have_the_tables_that_the_rows_give():
    page = DOCS.read_text()
    assert speed_table(BENCH / "main-32-frames-cpu") in page
    for frames, batch in ((32, 1), (128, 8)):
        assert gpu_table(BENCH / "llava-ov-7b-h100", frames, batch) in page


@pytest.mark.data
def test_docs_say_what_pruning_adds_to_merging():
    lines = {line["config"]: line for line in table(BENCH / "main-32-frames-cpu")}
    page = " ".join(DOCS.read_text().split())
    for config, told in (
        ("dycoke K=0.7 P=0.7", "takes {} of one with merging alone"),
        ("dycoke K=0.7 P=0.7 every step", "and {} when it selects anew each time"),
    ):
        assert told.format(interval(lines[config]["step / merge"])) in page


@pytest.mark.data
def test_docs_say_what_an_h100_gained():
    lines = {
        (line["frames"], line["batch"], line["config"]): line for line in table(BENCH / "llava-ov-7b-h100")
    }
    page = " ".join(DOCS.read_text().split())
    full, ours = (lines[32, 1, name] for name in ("full graph", "dycoke K=0.7 P=0.7 graph"))
    large, small = (lines[128, 8, name] for name in ("full graph", "dycoke K=0.7 P=0.7 graph"))
    peaks = [a["peak in prefill"] / b["peak in prefill"] for a, b in ((full, ours), (large, small))]
    assert f"{full['end to end'] / ours['end to end']:.2f} times as fast" in page
    assert "{:.2f} times less for one prompt, and {:.2f} times less for eight".format(*peaks) in page
    prefills = [a["prefill"] / b["prefill"] for a, b in ((full, ours), (large, small))]
    assert "{:.1f} times as fast at 32 frames, {:.1f} times at 128".format(*prefills) in page
    saved = 1 - small["step / merge"][0]
    assert f"it was {abs(round(100 * saved))} %" in page


@pytest.mark.data
def test_docs_say_what_the_hardest_case_and_capturing_cost():
    lines = {line["config"]: line for line in table(BENCH / "capture-32-frames-cpu")}
    page = " ".join(DOCS.read_text().split())
    for config, of, told in (
        ("dycoke K=0.5 P=0.7 every step", "step / truncated", "a step takes {} of one on truncated caches,"),
        (
            "dycoke K=0.5 P=0.7 every step",
            "step / truncated-stock",
            "and {} of one on truncated caches as stock",
        ),
        ("capture", "step / full", "makes a step of the full cache {} times as long as stock's"),
        ("capture", "step / full-in-place", "and {} times as long as one in place"),
    ):
        assert told.format(interval(lines[config][of])) in page


@pytest.mark.data
def test_docs_say_what_an_h100_does_not_gain():
    lines = [line for line in table(BENCH / "llava-ov-7b-h100") if "step" in line]
    named = {(line["frames"], line["batch"], line["new_tokens"], line["config"]): line for line in lines}
    page = " ".join(DOCS.read_text().split())
    one = [line for line in lines if (line["frames"], line["batch"], line["new_tokens"]) == (32, 1, 64)]
    eager = [1e3 * line["least step"] for line in one if not line["config"].endswith("graph")]
    assert f"the fastest step takes {min(eager):.1f} to {max(eager):.1f} ms" in page
    slower = [
        line["least step"] / named[*job, "full-in-place"]["least step"]
        for (*job, config), line in named.items()
        if config.endswith("offload")
    ]
    assert f"the fastest step {min(slower):.1f} to {max(slower):.1f} times as slow" in page
    device, element = device_of(BENCH / "llava-ov-7b-h100")
    predicted = gain("llava-ov-7b", device, 0.7, 0.0, [128], [8], element=element).loc[128, 8]
    assert f"predicted {100 * predicted:.0f} % less than merging alone" in page
    full, evicted = named[128, 8, 32, "full"], named[128, 8, 32, "dycoke K=0.7 P=0.7 evict"]
    assert f"falls from {full['held'] / 1e9:.1f} to {evicted['held'] / 1e9:.1f} GB" in page
