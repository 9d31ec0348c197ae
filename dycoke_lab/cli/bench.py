"""`dycoke-lab bench`: time and memory."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dycoke_lab.cli.options import THREADS, add, at_least, numbers
from dycoke_lab.methods.dynamic_pruning import INACTIVE


def add_bench(commands: Any) -> None:
    bench = commands.add_parser("bench", help="measure time and memory, with random weights")
    add(bench, "shape", "tiny", "tiny, llava-ov-0.5b, llava-ov-7b, qwen2.5-vl-3b, qwen2.5-vl-7b")
    add(bench, "frames", 32, "of each video", type=at_least(1))
    add(bench, "batch", 1, "prompts at once", type=at_least(1))
    add(bench, "new-tokens", 64, "measured decoding steps", type=at_least(1))
    methods = (
        "with commas: vision (encoding frames), full, full-in-place, capture, merge, "
        "truncated (caches truncated by hand), dycoke, or methods of `run`"
    )
    add(bench, "methods", "vision,full,full-in-place,dycoke,fastv,one-shot", methods)
    add(bench, "merge-ratio", ".3,.5,.7", "K, with commas", type=numbers)
    add(bench, "prune-ratio", ".7", "P, with commas", type=numbers)
    add(bench, "reselect-below", ".9", "cosines, with commas; 2 selects at each step", type=numbers)
    add(bench, "inactive", "device", "where inactive tokens' keys and values are", choices=INACTIVE)
    plan = "what one GPU can measure in ten minutes, instead of the above"
    bench.add_argument("--gpu-plan", action="store_true", help=plan)
    add(bench, "minutes", None, "start nothing new after so many; the same command continues", type=float)
    add(bench, "device", "cpu", "cpu or cuda")
    add(bench, "dtype", None, "float32, bfloat16, float16 (default: float32 on a CPU, bfloat16 on a GPU)")
    add(bench, "repeats", 3, "rounds of all configs", type=at_least(1))
    add(bench, "threads", None, THREADS, type=at_least(1))
    add(bench, "out", None, "folder (default: bench/SHAPE-DEVICE in the results)", type=Path)
    bench.set_defaults(do=_bench, saved="Finished rounds are saved; the same command continues.")


def _bench(options: argparse.Namespace) -> None:
    import torch

    from dycoke_lab.bench.benchmark import run_benchmark
    from dycoke_lab.bench.configs import METHODS_TO_MEASURE, configs, gpu_plan
    from dycoke_lab.bench.model_shapes import SHAPES
    from dycoke_lab.bench.summary import summary
    from dycoke_lab.results.folders import BENCH

    methods = [name.strip() for name in options.methods.split(",")]
    for name, given, known in (("shape", [options.shape], SHAPES), ("methods", methods, METHODS_TO_MEASURE)):
        if unknown := set(given) - set(known):
            raise ValueError(f"--{name} {', '.join(sorted(unknown))}: known are {', '.join(known)}")
    job = options.shape, options.frames, options.batch, options.new_tokens
    ratios = options.merge_ratio, options.prune_ratio, options.reselect_below, options.inactive
    found = list(gpu_plan(options.shape)) if options.gpu_plan else configs(*job, methods, *ratios)
    for config in found:
        config.compression()  # raises for parameters out of range, before anything is measured
    dtype = options.dtype or ("float32" if options.device == "cpu" else "bfloat16")
    out = options.out or BENCH / f"{options.shape}-{options.device}"
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"--device {options.device}: torch {torch.__version__} sees no GPU here. The 7B shape needs an "
            "NVIDIA GPU with 24 GB or more, its driver, and torch's CUDA build (pip install torch)"
        )
    rows = run_benchmark(found, options.repeats, out, options.device, dtype, options.minutes)
    if not rows and options.minutes is not None:
        raise SystemExit(f"error: --minutes {options.minutes:g} were over before the first job began")
    print(f"{summary(out)}\n\nRows and provenance: {out}")
