"""What the rows of a benchmark say: medians, ratios with intervals, shares of the roofline."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from dycoke_lab.bench.configs import BenchmarkConfig
from dycoke_lab.bench.interleaving import Row
from dycoke_lab.bench.roofline import Device, prediction
from dycoke_lab.results.files import read_json
from dycoke_lab.results.rows import read_rows

Interval = tuple[float, float, float]  # middle, low, high
Line = dict[str, Any]
JOB = ("shape", "frames", "batch", "new_tokens")
JOB_NAMED = "{} · {} frames · batch {} · {} new tokens"
TRUNCATED = ("truncated", "truncated-stock")
RATIOS = {
    "prefill / full": ("prefill", "full"),
    "total / full": ("total", "full"),
    "step / full": ("step", "full"),
    "step / full-in-place": ("step", "full-in-place"),
    "step / truncated": ("step", "truncated"),
    "step / truncated-stock": ("step", "truncated-stock"),
    "step / merge": ("step", "merge"),
}


def value(row: Row, of: str) -> float:
    """Return the seconds of one part of a row.

    of: "prefill"; "step", the median one, without the first; "least step", the minimum; "total", of the
    prefill and all steps; or "merge share", merging's share of the prefill (no seconds).
    """
    if of == "step":
        return statistics.median(_steps(row))
    return {
        "prefill": row["prefill"],
        "least step": min(row["steps"]),
        "total": row["prefill"] + sum(row["steps"]),
        "merge share": row["merge"] / row["prefill"],
    }[of]


def ratio(of: str, rows: Sequence[Row], to: Sequence[Row], draws: int = 2000) -> Interval | None:
    """Divide the time of `rows` by that of the rows `to` of the same run and round; None if there is no such
    pair.

    Returns the median and an interval. Of steps that took turns there are many ratios in a round: 95 %, by
    bootstrap over rounds and over steps in a round, as if steps did not depend on each other. Steps that did
    not take turns are compared by their minimum, since the machine may have been slower for one of them.
    Where there is one ratio in a round, of fewer than six rounds, the interval is from the smallest to the
    largest; NaN of one.
    """
    rounds = []
    for row, other in product(rows, to):
        if (
            "error" in row
            or "error" in other
            or any(row[name] != other[name] for name in ("run", "repeat", "in_turns"))
        ):
            continue
        if of == "step" and row["in_turns"]:
            rounds.append([a / b for a, b in zip(_steps(row), _steps(other), strict=True)])
        else:
            part = "least step" if of == "step" else of
            rounds.append([value(row, part) / value(other, part)])
    if not rounds:
        return None
    if len({len(pairs) for pairs in rounds}) > 1:
        rounds = [[statistics.median(pairs)] for pairs in rounds]
    table = np.array(rounds)  # rounds x steps
    middle = float(np.median(table))
    if table.shape[1] == 1 and len(table) < 6:
        return (
            (middle, float(table.min()), float(table.max()))
            if len(table) > 1
            else (middle, math.nan, math.nan)
        )
    random = np.random.default_rng(0)
    chosen = table[random.integers(len(table), size=(draws, len(table)))]
    steps = random.integers(table.shape[1], size=chosen.shape)
    medians = np.median(np.take_along_axis(chosen, steps, 2).reshape(draws, -1), 1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return middle, float(low), float(high)


def _steps(row: Row) -> list[float]:
    """Leave out the first step, which pays for what is set up once."""
    return row["steps"][1:] or row["steps"]


def by_config(rows: Sequence[Row]) -> dict[BenchmarkConfig, list[Row]]:
    found: dict[BenchmarkConfig, list[Row]] = {}
    for row in rows:
        found.setdefault(BenchmarkConfig(**row["config"]), []).append(row)
    return found


def device_of(folder: Path, run: int = 0) -> tuple[Device, int]:
    """Return the device as one of a folder's runs measured it, and the bytes of a number."""
    record = read_json(folder / "provenance.json")
    element = torch.empty(0, dtype=getattr(torch, record["dtype"])).element_size()
    return Device(**record["runs"][run]["peak"]), element


def mean_changed(rows: Sequence[Row]) -> float | None:
    """Return the share of selected tokens that a step replaced; None where nothing was selected."""
    changed = [row["changed"] for row in rows if row.get("changed") is not None]
    return statistics.mean(changed) if changed else None


def table(folder: Path) -> list[Line]:
    """Return a dict for each config: its job, label, seconds of each stage, bytes, and the RATIOS as (median,
    low, high).

    ttft, end to end: from the frames to the first and to the last token, where their encoding was measured.
    total: from the prompt to the last token. held, read: bytes of keys and values. prefill roofline, step
    roofline: the least possible time divided by the measured one.
    """
    found = by_config(read_rows(folder))
    encoded = {
        (config.frames, config.batch): statistics.median(row["vision"] for row in good)
        for config, rows in found.items()
        if config.method == "vision" and (good := _good(rows))
    }
    lines = []
    for config, rows in found.items():
        line: Line = {**dict(zip(JOB, config.job, strict=True)), "config": config.label}
        if not (good := _good(rows)):
            lines.append({**line, "error": rows[0]["error"]})
            continue
        device, element = device_of(folder, good[0]["run"])
        least = prediction(config, device, element, mean_changed(good) or 0.0)
        if config.method == "vision":
            line["vision"] = statistics.median(row["vision"] for row in good)
            lines.append({**line, "vision roofline": least["vision"] / line["vision"]})
            continue
        line |= _measured(good)
        vision = encoded.get((config.frames, config.batch))
        line["ttft"] = None if vision is None else vision + line["prefill"]
        line["end to end"] = None if vision is None else vision + line["total"]
        line |= {f"{of} roofline": least[of] / line[of] for of in ("prefill", "step")}
        line |= {name: ratio(of, rows, _denominator(config, to, found)) for name, (of, to) in RATIOS.items()}
        lines.append(line)
    return lines


def _good(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if "error" not in row]


def _measured(good: Sequence[Row]) -> Line:
    names = ("held", "read", "peak in prefill", "peak in decoding", "activations")
    line: Line = {
        of: statistics.median(value(row, of) for row in good)
        for of in ("prefill", "step", "total", "merge share")
    }
    line["least step"] = min(value(row, "least step") for row in good)
    selecting = [statistics.median(row["select"]) for row in good if row["select"]]
    line["select"] = statistics.median(selecting) if selecting else 0.0
    line["changed"] = mean_changed(good)
    return line | {name: good[0]["bytes"][name] for name in names}


def _denominator(
    config: BenchmarkConfig, method: str, found: dict[BenchmarkConfig, list[Row]]
) -> Sequence[Row]:
    """Return the rows of another method at the same job, which decoded in the same way."""
    if config.graph and method == "full-in-place":
        method = "full"  # whose static steps write in place
    if method in (*TRUNCATED, "merge") and config.method != "dycoke":
        return []
    wanted = BenchmarkConfig(
        *config.job,
        method,
        from_layer=config.from_layer,
        whole_logits=config.whole_logits,
        graph=config.graph,
    )
    if method == "merge":
        wanted = replace(wanted, merge_ratio=config.merge_ratio)
    if method in TRUNCATED:
        wanted = replace(wanted, merge_ratio=config.merge_ratio, prune_ratio=config.prune_ratio)
    return found.get(wanted, [])


COLUMNS = {
    "prefill": ("prefill", 1, "{:.3f}"),
    "step": ("step", 1e3, "{:.1f}"),
    "least step": ("min", 1e3, "{:.1f}"),
    "step roofline": ("roof", 1, "{:.2f}"),
    "held": ("held", 1e-6, "{:.1f}"),
    "read": ("read", 1e-6, "{:.1f}"),
    "peak": ("peak", 1e-9, "{:.2f}"),
}
SHORT = {
    "prefill / full": "pre/full",
    "step / full": "step/full",
    "step / full-in-place": "/in place",
    "step / truncated": "/trunc.",
}
LEGEND = (
    "prefill: s; step, min: median and fastest step, ms; roof: least possible time of a step / median;\n"
    "held, read: keys and values, MB; peak: memory, GB; pre/full: prefill / that of the full cache;\n"
    "step/full, /in place, /trunc.: a step / one of the full cache, of the full cache written in place,\n"
    "of caches truncated by hand"
)


def summary(folder: Path) -> str:
    """Return the table for a terminal, jobs apart."""
    lines = table(folder)
    text = []
    for job in dict.fromkeys(tuple(line[name] for name in JOB) for line in lines):
        mine = [line for line in lines if tuple(line[name] for name in JOB) == job]
        text.append(JOB_NAMED.format(*job))
        text += [f"encoding the frames: {line['vision']:.3f} s" for line in mine if "vision" in line]
        if measured := [line for line in mine if "step" in line]:
            text.append(_short(measured).to_string())
        text += [f"{line['config']}: {line['error']}" for line in mine if "error" in line]
        text.append("")
    return "\n".join([*text, LEGEND])


def summaries(folder: Path) -> dict[str, pd.DataFrame]:
    """Return the tables of `summary`, by job; of jobs that have one. Their columns: as `LEGEND` says."""
    jobs: dict[str, list[Line]] = {}
    for line in table(folder):
        if "step" in line:
            jobs.setdefault(JOB_NAMED.format(*(line[name] for name in JOB)), []).append(line)
    return {job: _short(lines) for job, lines in jobs.items()}


def _short(lines: Sequence[Line]) -> pd.DataFrame:
    cells = pd.DataFrame([_cells(line) for line in lines], index=[line["config"] for line in lines])
    return cells.loc[:, (cells != "").any()]


def _cells(line: Line) -> dict[str, str]:
    peaks = line["peak in prefill"], line["peak in decoding"]
    line = {**line, "peak": None if peaks[0] is None else max(peaks)}
    cells = {
        name: "" if line[of] is None else shown.format(line[of] * factor)
        for of, (name, factor, shown) in COLUMNS.items()
    }
    return cells | {name: "" if line[of] is None else f"{line[of][0]:.3f}" for of, name in SHORT.items()}


def interval(found: Interval | None, digits: int = 2) -> str:
    """Write "median [low, high]", without the interval where there is one ratio only."""
    if found is None:
        return ""
    middle, low, high = (f"{number:.{digits}f}" for number in found)
    return middle if low == "nan" else f"{middle} [{low}, {high}]"
