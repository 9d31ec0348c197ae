"""What the roofline says of settings, measured or not; and the paper's FLOPs beside an honest count."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import pandas as pd

from dycoke_lab.bench import flops
from dycoke_lab.bench.configs import BenchmarkConfig
from dycoke_lab.bench.model_shapes import SHAPES
from dycoke_lab.bench.roofline import Device, columns, prediction, work
from dycoke_lab.bench.summary import by_config, device_of, mean_changed, value
from dycoke_lab.results.rows import read_rows

# the paper's Table 1: method, K, P, retained tokens in %; FastV keeps 35 % from L = 3 on
PAPER_SETTINGS = [
    ("full", 0.0, 0.0, 100.0),
    ("fastv", 0.0, 0.65, 35.0),
    ("dycoke", 0.3, 0.7, 23.25),
    ("dycoke", 0.5, 0.7, 18.75),
    ("dycoke", 0.7, 0.7, 14.25),
]
PAPER_FLOPS = {  # in T, of these settings
    "llava-ov-0.5b": (3.4, 1.4, 2.4, 1.8, 1.2),
    "llava-ov-7b": (41.4, 17.9, 30.8, 24.1, 17.9),
}


def agreement(folder: Path) -> pd.DataFrame:
    """Return the least time of each stage, by the roofline, beside the measured one."""
    rows = []
    for config, found in by_config(read_rows(folder)).items():
        good = [row for row in found if "error" not in row]
        if not good or config.method == "capture":
            continue
        device, element = device_of(folder, good[0]["run"])
        least = prediction(config, device, element, mean_changed(good) or 0.0)
        for of in ("vision",) if config.method == "vision" else ("prefill", "step"):
            took = statistics.median(row["vision"] if of == "vision" else value(row, of) for row in good)
            row = {"config": config.label, "stage": of, "roofline, s": least[of], "measured, s": took}
            rows.append({**row, "roofline / measured": least[of] / took})
    return pd.DataFrame(rows)


def gain(
    shape: str,
    device: Device,
    prune: float,
    changed: float,
    frames: Sequence[int],
    batches: Sequence[int],
    merge: float = 0.7,
    element: int = 2,
) -> pd.DataFrame:
    """Return the share of a step that dynamic pruning saves after merging, by the roofline: frames x batch.

    Both write in place. changed: the share of the selected tokens that a step replaces.
    """
    found = pd.DataFrame(
        index=pd.Index(frames, name="frames"), columns=pd.Index(batches, name="batch"), dtype=float
    )
    for number, batch in product(frames, batches):
        pruned = BenchmarkConfig(shape, number, batch, 64, "dycoke", merge, prune)
        merged = prediction(replace(pruned, prune_ratio=0.0), device, element)["step"]
        found.loc[number, batch] = 1 - prediction(pruned, device, element, changed)["step"] / merged
    return found


def memory(
    shape: str,
    frames: Sequence[int],
    batches: Sequence[int],
    merge: float = 0.7,
    prune: float = 0.7,
    element: int = 2,
) -> pd.DataFrame:
    """Return the gigabytes on the device after 64 tokens: weights, and keys and values of each setting."""

    def held(config: BenchmarkConfig) -> float:
        return work(config, element).held / 1e9

    rows = []
    for number, batch in product(frames, batches):
        full = BenchmarkConfig(shape, number, batch, 64, "full")
        ours = BenchmarkConfig(shape, number, batch, 64, "dycoke", merge, prune)
        rows.append(
            {
                "frames": number,
                "batch": batch,
                "weights": SHAPES[shape].parameters * element / 1e9,
                "full cache": held(full),
                "merged": held(replace(ours, prune_ratio=0.0)),
                "inactive on the device": held(ours),
                "inactive offloaded": held(replace(ours, inactive="offload")),
                "evicted": held(replace(ours, inactive="evict")),
                "logits of the whole prompt": work(replace(full, whole_logits=True), element).logits_bytes
                / 1e9,
            }
        )
    return pd.DataFrame(rows)


def paper() -> pd.DataFrame:
    """Return the paper's FLOPs column beside its formula and an honest count, and the share that is saved."""
    rows = []
    published = [
        (name, *setting, theirs)
        for name, column in PAPER_FLOPS.items()
        for setting, theirs in zip(PAPER_SETTINGS, column, strict=True)
    ]
    for name, method, k, p, retained, theirs in published:
        shape = SHAPES[name]
        config = BenchmarkConfig(name, 32, 1, 64, method, k, p)
        tokens, own, full = columns(config), work(config), work(BenchmarkConfig(name, 32, 1, 64, "full"))
        visual = [tokens.visual] * shape.layers
        if method == "fastv":
            visual = [tokens.visual] * config.from_layer + [tokens.attended] * tokens.pruned
        formula = sum(flops.prefill_flops(n, 1, shape.hidden, shape.mlp) for n in visual)
        whole = flops.prefill_flops(6272, shape.layers, shape.hidden, shape.mlp)
        honest = 1 - (own.prefill_flops + own.merge_flops) / full.prefill_flops
        rows.append(
            {
                "model": name,
                "setting": config.label,
                "retained, % (paper)": retained,
                "FLOPs, T (paper)": theirs,
                "its formula, T": formula / 1e12,
                "honest, T": own.prefill_flops / 1e12,
                "merging, G": own.merge_flops / 1e9,
                "one token, G": own.step_flops / 1e9,
                "selecting, G": own.select_flops / 1e9,
                "saved, % (its formula)": 100 * (1 - formula / whole),
                "saved, % (honest)": 100 * honest,
            }
        )
    return pd.DataFrame(rows)
