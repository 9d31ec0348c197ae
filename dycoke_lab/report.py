"""What the rows of a bench say: medians, ratios with intervals, shares of the roofline."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dycoke_lab.bench import Row, read
from dycoke_lab.case import Case
from dycoke_lab.cost import Device, seconds, work


def value(row: Row, of: str) -> float:
    """Seconds of a row. of: "prefill"; "step", the median one, the first left out; "total", of the prefill and all steps; or
    "share", merging's part of the prefill."""
    if of == "step":
        return statistics.median(_steps(row))
    return {"prefill": row["prefill"], "total": row["prefill"] + sum(row["steps"]), "share": row["merge"] / row["prefill"]}[of]


def ratio(of: str, rows: Sequence[Row], to: Sequence[Row], draws: int = 2000) -> tuple[float, float, float] | None:
    """How long `rows` take, by how long the rows `to` of the same run and round take: the median, and an interval. None if there is
    no ratio.

    Of steps that took turns, there are many ratios in a round: 95 %, by bootstrap over rounds and over steps in a round, as if
    steps did not depend on each other. Else there is one in a round: of fewer than six, the smallest and the largest; NaN of one.
    """
    rounds = []
    for row, other in product(rows, to):
        if "error" in row or "error" in other or any(row[name] != other[name] for name in ("run", "repeat", "in_turns")):
            continue
        if of == "step" and row["in_turns"]:
            rounds.append([a / b for a, b in zip(_steps(row), _steps(other), strict=True)])
        else:
            rounds.append([value(row, of) / value(other, of)])
    if not rounds:
        return None
    if len({len(pairs) for pairs in rounds}) > 1:
        rounds = [[statistics.median(pairs)] for pairs in rounds]
    table = np.array(rounds)  # rounds x steps
    middle = float(np.median(table))
    if table.shape[1] == 1 and len(table) < 6:
        return (middle, float(table.min()), float(table.max())) if len(table) > 1 else (middle, math.nan, math.nan)
    random = np.random.default_rng(0)
    chosen = table[random.integers(len(table), size=(draws, len(table)))]
    steps = random.integers(table.shape[1], size=chosen.shape)
    low, high = np.quantile(np.median(np.take_along_axis(chosen, steps, 2).reshape(draws, -1), 1), [0.025, 0.975])
    return middle, float(low), float(high)


def _steps(row: Row) -> list[float]:
    """The first one out: it pays for what is set up once."""
    return row["steps"][1:] or row["steps"]


def by_case(rows: Sequence[Row]) -> dict[Case, list[Row]]:
    found: dict[Case, list[Row]] = {}
    for row in rows:
        found.setdefault(Case(**row["case"]), []).append(row)
    return found


def device_of(out: Path, run: int = 0) -> tuple[Device, int]:
    """The device as one of a folder's runs measured it; and bytes of a number."""
    record = json.loads((out / "provenance.json").read_text())
    return Device(**record["runs"][run]["peak"]), torch.empty(0, dtype=getattr(torch, record["dtype"])).element_size()


def _like(case: Case, method: str, **settings: float) -> Case:
    """Another method at the same job, decoding in the same way."""
    job = (case.shape, case.frames, case.batch, case.new_tokens)
    return Case(*job, method, **settings, score_layer=case.score_layer, whole_logits=case.whole_logits, graph=case.graph)  # type: ignore[arg-type]


def table(out: Path) -> list[dict[str, Any]]:
    """A line for each case of a run: seconds of each stage, bytes, and ratios to the full cache, to caches cut by hand, to merging
    alone.

    first word, end to end: with the encoding of the frames, if that was measured; total: from the prompt to the last word.
    roofline: the share of the device's measured peak at which the stage runs (least possible time by taken time)."""
    found = by_case(read(out))
    visions = {
        replace(case, new_tokens=0): statistics.median(row["vision"] for row in rows if "error" not in row)
        for case, rows in found.items() if case.method == "vision" and any("error" not in row for row in rows)
    }  # fmt: skip
    lines = []
    for case, rows in found.items():
        line: dict[str, Any] = {**dict(zip(("shape", "frames", "batch", "new_tokens"), case.job, strict=True)), "case": case.label}
        good = [row for row in rows if "error" not in row]
        if not good:
            lines.append({**line, "error": rows[0]["error"]})
            continue
        device, element = device_of(out, good[0]["run"])
        if case.method == "vision":
            line["vision"] = statistics.median(row["vision"] for row in good)
            at_best = seconds(work(case, element), device, 0)["vision"]
            lines.append({**line, "vision roofline": at_best / line["vision"]})
            continue
        changed = [row["changed"] for row in good if row["changed"] is not None]
        least = seconds(work(case, element, statistics.mean(changed) if changed else 0.0), device, case.new_tokens)
        line |= {of: statistics.median(value(row, of) for row in good) for of in ("prefill", "step", "total")}
        vision = visions.get(Case(case.shape, case.frames, case.batch, 0, "vision"))
        line["first word"] = None if vision is None else vision + line["prefill"]
        line["end to end"] = None if vision is None else vision + line["total"]
        line["merge share"] = statistics.median(value(row, "share") for row in good)
        line["select"] = statistics.median(statistics.median(row["select"]) for row in good) if good[0]["select"] else 0.0
        line |= {name: good[0]["bytes"][name] for name in ("held", "read", "peak in prefill", "peak in decoding", "activations")}
        line |= {f"{of} roofline": least[of] / line[of] for of in ("prefill", "step")}
        line["changed"] = statistics.mean(changed) if changed else None
        full = found.get(_like(case, "full"), [])
        cut = _like(case, "cut", merge_ratio=case.merge_ratio, prune_ratio=case.prune_ratio)
        floors = [rows for other, rows in found.items() if replace(other, gate=cut.gate, waiting=cut.waiting) == cut]
        line |= {f"{of} / full": ratio(of, rows, full) for of in ("prefill", "step", "total")}
        merged = found.get(_like(case, "merge", merge_ratio=case.merge_ratio), [])
        line["step / cut"] = ratio("step", rows, floors[0] if floors and case.method == "dycoke" else [])
        line["step / merge"] = ratio("step", rows, merged if case.method == "dycoke" else [])
        lines.append(line)
    return lines


def summary(out: Path) -> str:
    """The table for a terminal, jobs apart."""

    def interval(found: tuple[float, float, float] | None) -> str:
        text = "{:.3f} [{:.3f}, {:.3f}]".format(*found) if found else ""
        return text.removesuffix(" [nan, nan]")

    text, job = [], None
    for line in table(out):
        if job != (job := tuple(line[name] for name in ("shape", "frames", "batch", "new_tokens"))):
            text.append("\n{} · {} frames · batch {} · {} new tokens".format(*job))
            names = ["prefill s", "1st word s", "step ms", "select ms", "changed %", "roofline", "held MB", "read MB", "peak MB"]
            compared = ["prefill / full", "step / full", "step / cut", "all / full"]
            text.append(f"{'':<26}{''.join(f'{name:>11}' for name in names)}  {''.join(f'{name:<23}' for name in compared)}")
        if "error" in line:
            text.append(f"{line['case']:<26}{line['error']}")
        elif "vision" in line:
            text.append(f"{line['case']:<26}{line['vision']:>10.3f} s to encode the frames")
        else:
            first = "" if line["first word"] is None else f"{line['first word']:.3f}"
            peaks = line["peak in prefill"], line["peak in decoding"]
            peak = "" if peaks[0] is None else f"{max(peaks) / 1e6:.1f}"
            numbers = f"{line['prefill']:>11.3f}{first:>11}{1000 * line['step']:>11.1f}{1000 * line['select']:>11.2f}"
            numbers += " " * 11 if line["changed"] is None else f"{100 * line['changed']:>11.0f}"
            numbers += f"{line['step roofline']:>11.2f}{line['held'] / 1e6:>11.1f}{line['read'] / 1e6:>11.1f}{peak:>11}  "
            ratios = [interval(line[name]) for name in ("prefill / full", "step / full", "step / cut", "total / full")]
            text.append(f"{line['case']:<26}{numbers}{''.join(f'{part:<23}' for part in ratios)}")
    return "\n".join(text).strip()
