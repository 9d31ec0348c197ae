"""Tables of notebook 10 and of the appendix on speed, from committed rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dycoke_lab.bench import predictions
from dycoke_lab.bench.break_even import steps_to_pay
from dycoke_lab.bench.configs import BenchmarkConfig
from dycoke_lab.bench.summary import JOB, Line, by_config, device_of, interval, table
from dycoke_lab.results.rows import read_rows

OURS, AGAIN, MERGED = "dycoke K=0.7 P=0.7", "dycoke K=0.7 P=0.7 every step", "merge K=0.7"
MAIN = ("full", "full-in-place", MERGED, OURS, "fastv K=0 P=0.7", "one-shot K=0 P=0.7")
GRAPH_ROWS = {
    "merging alone": MERGED, "DyCoke, selection kept": OURS, "DyCoke, anew at each step": AGAIN,
    "tokens cut by hand: the ideal": "truncated K=0.7 P=0.7",
}  # fmt: skip


def gpu_folders(bench: Path) -> list[Path]:
    """Return the committed runs on GPUs."""
    return [path for path in sorted(bench.iterdir()) if path.is_dir() and not path.name.endswith("-cpu")]


def one_place(lines: Sequence[Line], changed: dict[str, float]) -> pd.DataFrame:
    """Return in one table what a selection costs and saves at a step, as measured at one job, and how
    many tokens change. changed: shares of the active tokens that a step replaces, by where they were
    found."""
    named = {line["config"]: line for line in lines}
    merged, kept, again = named[MERGED], named[OURS], named[AGAIN]
    cost, saved = 1e3 * again["select"], 1e3 * (merged["step"] - (kept["step"] - kept["select"]))
    rows = {
        f"active tokens that a step replaces, {where}": f"{100 * x:.0f} %" for where, x in changed.items()
    }
    rows["the same, forced, in this measurement (random weights)"] = f"{100 * again['changed']:.0f} %"
    rows["a selection costs"] = f"{cost:.1f} ms"
    rows["a step that has its selection saves, against merging alone"] = f"{saved:.1f} ms"
    steps = steps_to_pay(cost, saved)
    rows["a selection has paid after"] = f"{steps:g} step{'s' * (steps != 1)}"
    rows["a step that selects anew / one with merging alone"] = interval(again["step / merge"])
    return pd.DataFrame({"found": rows}).rename_axis("0.5B shape, 32 frames, one prompt, CPU")


def main_rows(lines: Sequence[Line]) -> tuple[list[Line], str]:
    """Return the lines of the settings that notebook 10 shows, and how much faster DyCoke is than the full
    cache in place."""
    named = {line["config"]: line for line in lines}
    vision = next((line["vision"] for line in lines if "vision" in line), 0.0)
    ours, full = named[OURS]["total"], named["full-in-place"]["total"]
    said = (
        f"{full / ours:.1f} x as fast from the prompt on, {(vision + full) / (vision + ours):.2f} x with the "
        "frames' encoding"
    )
    return [line for line in lines if line["config"] in MAIN or "vision" in line], said


def graph_steps(folder: Path) -> pd.DataFrame:
    """Return, by job and setting, a GPU's decoding step and prefill in % of the full cache's, and the
    peak of memory in GB; steps are CUDA graphs with caches in place."""
    rows = []
    lines = [line for line in table(folder) if "step" in line and line["config"].endswith("graph")]
    for job in dict.fromkeys(tuple(line[name] for name in JOB) for line in lines):
        named = {
            line["config"].removesuffix(" graph"): line
            for line in lines
            if tuple(line[name] for name in JOB) == job
        }
        for setting, config in GRAPH_ROWS.items():
            line, full = named[config], named["full"]
            peak = max(line["peak in prefill"], line["peak in decoding"])
            rows.append({
                "job": f"{job[1]} frames, batch {job[2]}", "setting": setting,
                "step": 100 * line["step"] / full["step"],
                "prefill": 100 * line["prefill"] / full["prefill"], "peak, GB": peak / 1e9,
            })  # fmt: skip
    return pd.DataFrame(rows)


def step_ratios(lines: Sequence[Line], capture: Line) -> pd.DataFrame:
    """Return what a step or prefill costs beside another, as "median [low, high]"."""
    named = {line["config"]: line for line in lines}
    ours, in_place = named[OURS], named["full-in-place"]
    found = {
        "prefill of DyCoke at K=0.7 / of the full cache": ours["prefill / full"],
        "step of the full cache in place / of stock": in_place["step / full"],
        "step under capture_attention / of stock": capture["step / full"],
        "step under capture_attention / of the full cache in place": capture["step / full-in-place"],
        "step of DyCoke that keeps its first selection / of merging alone": ours["step / merge"],
        "step of DyCoke that selects anew / of merging alone": named[AGAIN]["step / merge"],
    }
    rows = {what: interval(ratio, 3) for what, ratio in found.items()}
    rows["merging's part of the prefill"] = f"{100 * ours['merge share']:.2f} %"
    return pd.DataFrame({"found": rows})


def least_saved(folder: Path, prune: Sequence[float] = (0.5, 0.7, 0.9)) -> pd.DataFrame:
    """Return the share of a step, in %, that dynamic pruning saves after merging on a run's CPU by its
    own roofline, for the 0.5B shape in float32: P x (frames, batch)."""
    cpu, rows = device_of(folder)[0], []
    for ratio in prune:
        least = predictions.gain("llava-ov-0.5b", cpu, ratio, 0.0, [32, 128], [1, 8], element=4)
        rows += [
            {"P": ratio, "frames": f, "batch": b, "saved of a step, %": 100 * least.loc[f, b]}
            for f in (32, 128)
            for b in (1, 8)
        ]
    return pd.DataFrame(rows).pivot(index="P", columns=["frames", "batch"], values="saved of a step, %")


def gpu_gains(folder: Path) -> pd.DataFrame:
    """Return what dynamic pruning saved of a decoding step after merging, measured beside predicted, in
    %."""
    (device, element), rows = device_of(folder), []
    for line in table(folder):
        if line.get("step / merge") and line["config"].endswith("graph"):
            f, b, changed = line["frames"], line["batch"], line["changed"] or 0.0
            gain = predictions.gain(line["shape"], device, 0.7, changed, [f], [b], element=element)
            row = {"frames": f, "batch": b, "setting": line["config"]}
            row |= {"saved, %": 100 * (1 - line["step / merge"][0]), "predicted, %": 100 * gain.loc[f, b]}
            rows.append(row)
    return pd.DataFrame(rows)


def measured_shapes(bench: Path) -> dict[str, list[str]]:
    """Return which shapes have committed steps on a GPU, and on a CPU."""
    found: dict[str, list[str]] = {"GPU": [], "CPU": []}
    for path in sorted(bench.iterdir()):
        if path.is_dir():
            shapes = {config.shape for config in by_config(read_rows(path)) if _decodes(config)}
            kind = "CPU" if path.name.endswith("-cpu") else "GPU"
            found[kind] = sorted({*found[kind], *shapes})
    return found


def _decodes(config: BenchmarkConfig) -> bool:
    return config.method != "vision"
