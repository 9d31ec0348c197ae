"""The command line: `dycoke-lab run`, `study`, `bench`, and commands that make the committed data."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dycoke_lab.methods import METHODS, DyCoke, Merger, compose
from dycoke_lab.methods.dynamic_pruning import INACTIVE

DEFAULTS = DyCoke()
THREADS = "of the CPU (default: torch's choice)"


def main(arguments: list[str] | None = None) -> None:
    """Run a command. Errors that the user can mend are one line, with exit code 1; wrong usage has 2."""
    parser = argparse.ArgumentParser("dycoke-lab", description="Study token compression for video LLMs.")
    commands = parser.add_subparsers(required=True, title="commands", metavar="COMMAND")
    _add_run(commands)
    _add_study(commands)
    _add_bench(commands)
    _add_grid(commands, "evidence", 512, "all methods, ratios and questions on one specimen")
    _add_grid(commands, "sweep", 128, "ratios and similarity thresholds on one specimen")
    summary = commands.add_parser("summary", help="tables and figure of the committed evidence")
    summary.set_defaults(do=_summary)
    _add_specimen(commands)
    options = parser.parse_args(arguments)
    if getattr(options, "threads", None):
        import torch

        torch.set_num_threads(options.threads)
    try:
        options.do(options)
    except KeyboardInterrupt:
        print(f"\nInterrupted. {getattr(options, 'saved', '')}", file=sys.stderr)
        raise SystemExit(130) from None  # a shell's code for Ctrl-C
    except BrokenPipeError:  # the reader, as `head`, has read enough
        raise SystemExit(141) from None
    except (OSError, ValueError) as error:
        raise SystemExit(_one_line(error)) from error


def _one_line(error: Exception) -> str:
    return f"error: {' '.join(str(error).split())}"


def _at_least(least: int) -> Callable[[str], int]:
    """Return argparse's type of a whole number from `least` on."""

    def whole(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} must be at least {least}")
        return int(text)

    whole.__name__ = "whole number"  # which argparse names in its message
    return whole


def _add(parser: Any, name: str, default: Any, about: str, **how: Any) -> None:
    """Add an option that says its default: a value, or what None means as "(...)" at the end of `about`."""
    kind = {} if default is None or "choices" in how else {"type": type(default)}
    shown = "" if default is None else f" (default: {default})"
    parser.add_argument(f"--{name}", default=default, help=about + shown, **(kind | how))


def _add_run(commands: Any) -> None:
    run = commands.add_parser("run", help="ask one question about one video")
    run.add_argument("video", help="a file (mp4, webm, gif, ...) or a folder of pictures")
    run.add_argument("question", help='for the specimen, for example "describe the four scenes"')
    _add(run, "model", "constructed", "name of a specimen, folder of a checkpoint, or name on the hub")
    _add(run, "merge-ratio", DEFAULTS.merge_ratio, "K, the share of tokens that merging removes")
    _add(run, "prune-ratio", DEFAULTS.prune_ratio, "P, the share of the others that is inactive at a step")
    layer = f"L, the first pruned layer (default: {DEFAULTS.from_layer}, or the next one possible)"
    _add(run, "from-layer", None, layer, type=int)
    methods = [name for name, cls in METHODS.items() if name != "hindsight" and not issubclass(cls, Merger)]
    _add(run, "method", "dynamic", "what prunes; full: nothing", choices=["full", *methods])
    frames = run.add_mutually_exclusive_group()
    _add(frames, "frames", None, "at most so many, at even distances (default: all)", type=_at_least(1))
    _add(frames, "fps", None, "so many frames for each second of the video", type=float)
    _add(run, "max-new-tokens", 128, "the longest answer", type=_at_least(1))
    run.add_argument("--compare", action="store_true", help="compare words, memory, time with the full cache")
    _add(run, "dtype", "auto", "bfloat16, float32, ...; auto: the checkpoint's")
    _add(run, "device", None, "cuda, cpu, ... (default: a GPU if there is one; the CPU for the specimen)")
    _add(run, "attention", None, "sdpa, eager, flash_attention_2 (default: transformers' choice)")
    _add(run, "seed", 0, "which specimen")
    run.set_defaults(do=_run)


def _run(options: argparse.Namespace) -> None:
    from dycoke_lab.apply import from_layer_for
    from dycoke_lab.evaluation.one_prompt import answer_prompt, comparison
    from dycoke_lab.methods import Compression
    from dycoke_lab.models.loading import load_model
    from dycoke_lab.video import prompt, read_video

    settings = options.method, options.merge_ratio, options.prune_ratio
    layer = DEFAULTS.from_layer if options.from_layer is None else options.from_layer
    compression = compose(*settings, layer)  # raises before a model is loaded
    video = read_video(options.video, options.frames, options.fps)
    where = options.dtype, options.device, options.attention
    try:
        model, processor = load_model(options.model, options.seed, *where)
    except TypeError as error:  # a family without an adapter
        raise SystemExit(_one_line(error)) from error
    if options.from_layer is None:
        compression = compose(*settings, from_layer_for(model))
    inputs = prompt(processor, video, options.question)
    compressed = answer_prompt(model, processor, inputs, compression, options.max_new_tokens)
    if not options.compare:
        print(compressed.text)
        return
    full = answer_prompt(model, processor, inputs, Compression(), options.max_new_tokens)
    print(comparison(full, compressed, compression))


def _add_study(commands: Any) -> None:
    study = commands.add_parser("study", help="run all notebooks; leave figures, tables and a lab book")
    _add(study, "videos", 64, "for each setting and specimen", type=_at_least(4))
    study.set_defaults(do=_study)


def _study(options: argparse.Namespace) -> None:
    try:
        from dycoke_lab.notebooks import make_study
    except ImportError as error:
        raise SystemExit(f"error: {error}: notebooks need Jupyter, pip install 'dycoke_lab[lab]'") from error
    make_study(options.videos)


def _add_bench(commands: Any) -> None:
    bench = commands.add_parser("bench", help="measure time and memory, with random weights")
    _add(bench, "shape", "tiny", "tiny, llava-ov-0.5b, llava-ov-7b, qwen2.5-vl-3b, qwen2.5-vl-7b")
    _add(bench, "frames", 32, "of each video", type=_at_least(1))
    _add(bench, "batch", 1, "prompts at once", type=_at_least(1))
    _add(bench, "new-tokens", 64, "measured decoding steps", type=_at_least(1))
    methods = (
        "with commas: vision (encoding frames), full, full-in-place, capture, merge, "
        "truncated (caches truncated by hand), dycoke, or methods of `run`"
    )
    _add(bench, "methods", "vision,full,full-in-place,dycoke,fastv,one-shot", methods)
    _add(bench, "merge-ratio", ".3,.5,.7", "K, with commas", type=_numbers)
    _add(bench, "prune-ratio", ".7", "P, with commas", type=_numbers)
    _add(bench, "reselect-below", ".9", "cosines, with commas; 2 selects at each step", type=_numbers)
    _add(bench, "inactive", "device", "where inactive tokens' keys and values are", choices=INACTIVE)
    plan = "what one GPU can measure in ten minutes, instead of the above"
    bench.add_argument("--gpu-plan", action="store_true", help=plan)
    _add(bench, "minutes", None, "start nothing new after so many; the same command continues", type=float)
    _add(bench, "device", "cpu", "cpu or cuda")
    _add(bench, "dtype", None, "float32, bfloat16, float16 (default: float32 on a CPU, bfloat16 on a GPU)")
    _add(bench, "repeats", 3, "rounds of all configs", type=_at_least(1))
    _add(bench, "threads", None, THREADS, type=_at_least(1))
    _add(bench, "out", None, "folder (default: bench/SHAPE-DEVICE in the results)", type=Path)
    bench.set_defaults(do=_bench, saved="Finished rounds are saved; the same command continues.")


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _bench(options: argparse.Namespace) -> None:
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
    try:
        rows = run_benchmark(found, options.repeats, out, options.device, dtype, options.minutes)
    except (AssertionError, RuntimeError) as error:  # torch asserts that it was built for CUDA
        raise SystemExit(_one_line(error)) from error
    if not rows and options.minutes is not None:
        raise SystemExit(f"error: --minutes {options.minutes:g} were over before the first job began")
    print(f"{summary(out)}\n\nRows and provenance: {out}")


def _add_grid(commands: Any, name: str, videos: int, about: str) -> None:
    grid = commands.add_parser(name, help=about)
    _add(grid, "seed", None, "which specimen", type=int, required=True)
    _add(grid, "videos", videos, "for each setting", type=_at_least(4))
    _add(grid, "threads", None, THREADS, type=_at_least(1))
    _add(grid, "out", None, f"folder (default: {name}/seed-SEED in the results)", type=Path)
    grid.set_defaults(do=_grid, name=name, saved="Finished settings are saved; the same command continues.")


def _grid(options: argparse.Namespace) -> None:
    from dycoke_lab.evaluation import grids
    from dycoke_lab.results import RESULTS, RowStore

    out = options.out or RESULTS / options.name / f"seed-{options.seed}"
    configs = {"evidence": grids.evidence_grid, "sweep": grids.sweep_grid}[options.name](options.seed)
    rows = grids.run_grid(configs, options.videos, out)
    RowStore(out, videos=options.videos).pack()
    print(f"{rows['config'].nunique()} settings x {options.videos} videos in {out}")


def _summary(options: argparse.Namespace) -> None:
    from dycoke_lab.evaluation.grids import read_grid
    from dycoke_lab.evaluation.metrics import README_METHODS, accuracy, by_seed, readme_table
    from dycoke_lab.results import EVIDENCE
    from dycoke_lab.viz import plots

    rows = read_grid(EVIDENCE)
    table = accuracy(rows).round(5)  # what is shown is what the file says
    table.to_csv(EVIDENCE / "accuracy.csv", index=False)
    paper = [0, DEFAULTS.from_layer]  # 0: the full cache
    describe = rows[(rows["question"] == "describe") & rows["from_layer"].isin(paper)]
    by_seed(describe).round(5).to_csv(EVIDENCE / "by-seed.csv")
    table = table[(table["question"] == "describe") & table["from_layer"].isin(paper)]
    words = table[table["measure"] == "words"].set_index(["merge_ratio", "prune_ratio", "method"])["mean"]
    full = words[0.7, 0.0, "full"]
    once, dynamic = (100 * (full - words[0.7, 0.7, name]) for name in ("last_query", "dynamic"))
    title = (
        f"At K = 0.7, P = 0.7, choosing once loses {once:.0f} points of words, dynamic pruning {dynamic:.1f}"
    )
    plots.style()
    figure = plots.by_position(table[table["prune_ratio"].isin([0.0, 0.7, 0.9])], title, README_METHODS)
    figure.savefig(EVIDENCE / "by-position.png", dpi=110)
    print(readme_table(table))


def _add_specimen(commands: Any) -> None:
    about = "the tiny trained video LLMs: train, evaluate, clips"
    specimen = commands.add_parser("specimen", help=about)
    parts = specimen.add_subparsers(required=True, title="commands", metavar="COMMAND")
    train = parts.add_parser("train", help="train one from random weights; continues after an interruption")
    train.add_argument("name", help="constructed, footage, footage-qwen2.5-vl")
    _add(train, "seed", None, "decides weights and videos", type=int, required=True)
    _add(train, "out", None, "folder (default: runs/NAME-SEED; its model into data/specimen)", type=Path)
    _add(train, "threads", None, THREADS, type=_at_least(1))
    train.set_defaults(do=_train, saved="The last checkpoint is saved; the same command continues.")
    evaluate = parts.add_parser("evaluate", help="print accuracy with the full cache as JSON")
    _add(evaluate, "videos", 512, "for each seed and question", type=_at_least(4))
    evaluate.set_defaults(do=_evaluate)
    clips = parts.add_parser("clips", help="write the sample clips of data/clips again")
    clips.set_defaults(do=_clips)


def _train(options: argparse.Namespace) -> None:
    from dycoke_lab.specimen.specimens import specimen_named
    from dycoke_lab.specimen.train import TrainConfig, train_and_export

    specimen = specimen_named(options.name)
    out = options.out or Path("runs") / f"{options.name}-{options.seed}"
    checkpoint = options.out / "export" if options.out else specimen.folder(options.seed)
    config = TrainConfig(options.name, options.seed, threads=options.threads or 0)
    minutes = train_and_export(config, out, checkpoint)
    print(f"trained in {minutes:.0f} minutes; checkpoint in {checkpoint}")


def _evaluate(options: argparse.Namespace) -> None:
    from dycoke_lab.evaluation.grids import specimen_accuracy
    from dycoke_lab.results.provenance import provenance

    about = {"accuracy": specimen_accuracy(options.videos), "provenance": provenance()}
    print(json.dumps(about, indent=1))


def _clips(options: argparse.Namespace) -> None:
    from dycoke_lab.specimen.clips import CLIPS, write_clips

    write_clips()
    print(f"wrote {CLIPS}")
