"""Command line: `python -m dycoke_lab run|bench|study|evidence|sweep|summary`, `... specimen train|evaluate|clips`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dycoke_lab.apply import score_layer_for
from dycoke_lab.config import DyCokeConfig
from dycoke_lab.loading import SPECIMENS, load_model, specimen_seeds
from dycoke_lab.methods import METHODS
from dycoke_lab.provenance import provenance


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m dycoke_lab", description="Token compression for video LLMs, to study")
    commands = parser.add_subparsers(required=True)
    _add_run(commands)
    _add_bench(commands)
    specimen = commands.add_parser("specimen", help="the tiny trained video LLM").add_subparsers(required=True)

    train = specimen.add_parser("train", help="train one from nothing; goes on after an interruption")
    train.add_argument("--seed", type=int, required=True, help="decides weights and videos")
    train.add_argument("--out", type=Path, help="folder (default runs/specimen-SEED; its model into data/specimen/seed-SEED)")
    train.add_argument("--threads", type=_at_least(0), default=0, help="CPU threads (default: torch's choice)")
    train.set_defaults(do=_train)

    evaluate = specimen.add_parser("evaluate", help="full-cache accuracy on held-out videos, as JSON")
    evaluate.add_argument("--videos", type=_at_least(4), default=512, help="for each seed and question (default 512)")
    evaluate.set_defaults(do=_evaluate)

    for name, videos, about in (
        ("evidence", 512, "the committed grid of one specimen: all methods, ratios and questions"),
        ("sweep", 128, "the grid that thresholds are chosen by: dynamic pruning over K x P and similarity"),
    ):
        grid = commands.add_parser(name, help=f"{about}; goes on after an interruption")
        grid.add_argument("--seed", type=int, required=True, help="which specimen")
        grid.add_argument("--videos", type=_at_least(4), default=videos, help=f"for each setting (default {videos})")
        grid.add_argument("--threads", type=_at_least(0), default=0, help="CPU threads (default: torch's choice)")
        grid.add_argument("--out", type=Path, help=f"default data/results/{name}/seed-SEED")
        grid.set_defaults(do=_grid, name=name, saved="Whole settings are saved; the same command goes on.")

    summary = commands.add_parser("summary", help="tables and picture of the committed grids; prints the README's table")
    summary.set_defaults(do=_summary)

    study = commands.add_parser("study", help="run the notebooks; figures, tables and a lab book in a new folder")
    study.add_argument("--videos", type=_at_least(4), default=64, help="held-out videos for each setting and specimen (default 64)")
    study.set_defaults(do=_study)

    clips = specimen.add_parser("clips", help="write the sample clips in data/clips anew")
    clips.set_defaults(do=_clips)
    options = parser.parse_args(arguments)
    try:
        options.do(options)
    except KeyboardInterrupt:
        print(f"\nInterrupted. {getattr(options, 'saved', '')}", file=sys.stderr)
        raise SystemExit(130) from None  # as a shell has it
    except (OSError, ValueError) as error:  # a broken pipe: the reader has seen enough
        raise SystemExit(141 if isinstance(error, BrokenPipeError) else f"error: {error}") from error


def _at_least(least: int) -> Callable[[str], int]:
    """A whole number for argparse, from `least` on."""

    def whole(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} must be at least {least}")
        return int(text)

    whole.__name__ = "whole number"  # as argparse calls it
    return whole


def _add_run(commands: Any) -> None:
    default = DyCokeConfig()
    run = commands.add_parser("run", help="ask one question about one video")
    run.add_argument("video", help="a file (mp4, webm, gif, ...) or a folder of pictures")
    run.add_argument("question", help='for the specimen, say, "describe the four scenes"')
    run.add_argument("--model", default="specimen", help='"specimen", a checkpoint\'s folder, or its hub name (default specimen)')
    run.add_argument("--dtype", default="auto", help="bfloat16, float32, ... (default: the checkpoint's)")
    run.add_argument("--device", help="cuda, cpu, ... (default: a GPU if there is one; the CPU for the specimen)")
    run.add_argument("--attention", help="sdpa, eager, flash_attention_2 (default: transformers' choice)")
    run.add_argument("--seed", type=int, default=0, help="which specimen (default 0)")
    chosen = run.add_mutually_exclusive_group()
    chosen.add_argument("--frames", type=int, help="at most this many, at even distances (default: all)")
    chosen.add_argument("--fps", type=float, help="this many frames for each second of the video")
    run.add_argument(
        "--merge-ratio",
        type=float,
        default=default.merge_ratio,
        help=f"K, share of tokens merged away (default {default.merge_ratio})",
    )
    run.add_argument(
        "--prune-ratio",
        type=float,
        default=default.prune_ratio,
        help=f"P, share of the rest that waits at each step (default {default.prune_ratio})",
    )
    run.add_argument(
        "--score-layer",
        type=int,
        help=f"L, first pruned layer (default {default.score_layer}, or the next that the model can have)",
    )
    run.add_argument(
        "--method",
        choices=[name for name in METHODS if name != "oracle"],
        default=default.method,
        help=f"who chooses (default {default.method})",
    )
    run.add_argument("--max-new-tokens", type=int, default=128, help="end of the answer at the latest (default 128)")
    run.add_argument("--compare", action="store_true", help="answer with the full cache, too: words, tokens, memory, time")
    run.set_defaults(do=_run)


def _add_bench(commands: Any) -> None:
    bench = commands.add_parser("bench", help="time and memory at a published shape, with random weights")
    bench.add_argument(
        "--shape", default="tiny", help="tiny, llava-ov-0.5b, llava-ov-7b, qwen2.5-vl-3b, qwen2.5-vl-7b (default tiny)"
    )
    bench.add_argument("--frames", type=_at_least(1), default=32, help="of each video (default 32)")
    bench.add_argument("--batch", type=_at_least(1), default=1, help="prompts at once (default 1)")
    bench.add_argument("--new-tokens", type=_at_least(1), default=64, help="measured decoding steps (default 64)")
    bench.add_argument(
        "--methods",
        default="vision,full,dycoke,fastv,one-shot",
        help="vision (encoding frames), full, capture (full, looked at), dycoke, merge (its merging alone), cut (and caches cut by "
        "hand: the floor), or methods of `run` (default %(default)s)",
    )
    bench.add_argument("--merge-ratio", default=".3,.5,.7", help="K, for dycoke, with commas (default %(default)s)")
    bench.add_argument("--prune-ratio", default=".7", help="P, with commas (default %(default)s)")
    bench.add_argument("--gate", default=f"{DyCokeConfig.gate}", help="with commas; 2 selects at each step (default %(default)s)")
    bench.add_argument(
        "--waiting", choices=["device", "host", "nowhere"], default="device", help="where tokens wait (default device)"
    )
    bench.add_argument(
        "--gpu-plan", action="store_true", help="the cases that a GPU is asked in ten minutes, in place of those above"
    )
    bench.add_argument("--minutes", type=float, help="start nothing new after so many; the same command goes on where it stopped")
    bench.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    bench.add_argument("--dtype", help="float32, bfloat16, float16 (default: float32 on a CPU, bfloat16 on a GPU)")
    bench.add_argument("--repeats", type=_at_least(1), default=3, help="rounds of all cases (default 3)")
    bench.add_argument("--threads", type=_at_least(0), default=0, help="CPU threads (default: torch's choice)")
    bench.add_argument("--out", type=Path, help="default data/results/bench/SHAPE-DEVICE")
    bench.set_defaults(do=_bench, saved="Whole rounds are saved; the same command goes on.")


def _bench(options: argparse.Namespace) -> None:
    import torch

    from dycoke_lab import bench, report
    from dycoke_lab.case import METHODS_TO_MEASURE, cases, gpu_plan
    from dycoke_lab.results import RESULTS
    from dycoke_lab.shapes import SHAPES

    names = [name.strip() for name in options.methods.split(",")]
    if options.shape not in SHAPES or not set(names) <= set(METHODS_TO_MEASURE):
        raise SystemExit(f"error: --shape must be one of {', '.join(SHAPES)}; --methods of {', '.join(METHODS_TO_MEASURE)}")
    if options.threads:
        torch.set_num_threads(options.threads)
    merge, prune, gates = (
        [float(part) for part in text.split(",")] for text in (options.merge_ratio, options.prune_ratio, options.gate)
    )
    found = cases(
        options.shape, options.frames, options.batch, options.new_tokens, names, merge, prune, gates, options.waiting
    )  # fmt: skip
    found = list(gpu_plan(options.shape)) if options.gpu_plan else found
    for case in found:
        case.config()  # raises for settings out of range, before anything is measured
    dtype = options.dtype or ("float32" if options.device == "cpu" else "bfloat16")
    out = options.out or RESULTS / "bench" / f"{options.shape}-{options.device}"
    try:
        bench.run(found, options.repeats, out, options.device, dtype, options.minutes)
    except (AssertionError, RuntimeError) as error:  # torch asserts that it was built for CUDA
        raise SystemExit(f"error: {error}") from error
    print(f"{report.summary(out)}\n\nRows and provenance: {out}")


def _run(options: argparse.Namespace) -> None:
    from dycoke_lab.run import answer, comparison
    from dycoke_lab.video import prompt, read_video

    layer = DyCokeConfig.score_layer if options.score_layer is None else options.score_layer
    config = DyCokeConfig(
        merge_ratio=options.merge_ratio, prune_ratio=options.prune_ratio, score_layer=layer, method=options.method
    )
    video = read_video(options.video, options.frames, options.fps)
    try:
        model, processor = load_model(options.model, options.seed, options.dtype, options.device, options.attention)
    except TypeError as error:  # a family without an adapter
        raise SystemExit(f"error: {error}") from error
    if options.score_layer is None:
        config = replace(config, score_layer=score_layer_for(model))
    inputs = prompt(processor, video, options.question)
    compressed = answer(model, processor, inputs, config, options.max_new_tokens)
    if not options.compare:
        print(compressed.text)
        return
    nothing = DyCokeConfig(merge_ratio=0.0, prune_ratio=0.0)
    print(comparison(answer(model, processor, inputs, nothing, options.max_new_tokens), compressed, config))


def _train(options: argparse.Namespace) -> None:
    import torch

    from dycoke_lab.specimen.export import export
    from dycoke_lab.specimen.train import TrainConfig, Trainer

    if options.threads:
        torch.set_num_threads(options.threads)
    out = options.out or Path("runs") / f"specimen-{options.seed}"
    trainer = Trainer(TrainConfig(seed=options.seed, threads=options.threads), out)
    model = trainer.run()
    log = (out / "log.jsonl").read_text()
    folder = options.out / "export" if options.out else SPECIMENS / f"seed-{options.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.jsonl").write_text(log)
    made = {
        "began": trainer.began,
        "config": asdict(trainer.config),
        "precision": trainer.precision,
        "minutes": round(trainer.seconds / 60, 1),
    }
    export(model, folder, made)
    print(f"trained in {trainer.seconds / 60:.0f} minutes; checkpoint in {folder}")


def _grid(options: argparse.Namespace) -> None:
    import torch

    from dycoke_lab import study
    from dycoke_lab.results import RESULTS

    if options.threads:
        torch.set_num_threads(options.threads)
    out = options.out or RESULTS / options.name / f"seed-{options.seed}"
    cells = {"evidence": study.evidence, "sweep": study.sweep}[options.name](options.seed)
    rows = study.run(cells, options.videos, out)
    study.pack_rows(out)
    print(f"{rows['cell'].nunique()} settings x {options.videos} videos in {out}")


def _summary(options: argparse.Namespace) -> None:
    from dycoke_lab import plots
    from dycoke_lab.results import EVIDENCE
    from dycoke_lab.study import read_rows
    from dycoke_lab.tables import README_METHODS, accuracy, by_seed, readme_table

    rows = read_rows(EVIDENCE)
    table = accuracy(rows).round(5)  # what is shown is what the file says
    table.to_csv(EVIDENCE / "accuracy.csv", index=False)
    describe = rows[(rows["question"] == "describe") & rows["score_layer"].isin([0, 3])]
    by_seed(describe).round(5).to_csv(EVIDENCE / "by-seed.csv")
    table = table[(table["question"] == "describe") & table["score_layer"].isin([0, 3])]
    plots.style()
    words = table[table["measure"] == "words"].set_index(["merge_ratio", "prune_ratio", "method"])["mean"]
    gap = {method: 100 * (words[0.7, 0.0, "full"] - words[0.7, 0.7, method]) for method in ("dynamic", "last_query")}
    title = (
        f"At K = 0.7 and P = 0.7, choosing once loses {gap['last_query']:.0f} points of words, dynamic pruning {gap['dynamic']:.1f}"
    )
    figure = plots.by_position(table[table["prune_ratio"].isin([0.0, 0.7, 0.9])], title, README_METHODS)
    figure.savefig(EVIDENCE / "by-position.png", dpi=110)
    print(readme_table(table))


def _study(options: argparse.Namespace) -> None:
    from dycoke_lab.book import make_study

    make_study(options.videos)


def _clips(options: argparse.Namespace) -> None:
    from dycoke_lab.specimen.clips import CLIPS, write_clips

    write_clips()
    print(f"wrote {CLIPS}")


def _evaluate(options: argparse.Namespace) -> None:
    from dycoke_lab.specimen.tasks import QUESTIONS
    from dycoke_lab.study import Cell, evaluate

    accuracy = []
    for seed in specimen_seeds():
        model, _ = load_model("specimen", seed)
        for question in QUESTIONS:
            rows = list(evaluate(model, Cell(seed, question, 0.0, 0.0, 0, "full"), options.videos))
            for scenes in (None, *sorted({row["scenes"] for row in rows})):
                chosen = [row for row in rows if scenes in (None, row["scenes"])]
                right = sum(sum(map(int, row["right"])) for row in chosen)
                accuracy.append({
                    "seed": seed, "question": question, "scenes": scenes or "all", "videos": len(chosen),
                    "words": right / sum(row["words"] for row in chosen),
                    "exact": sum(row["exact"] for row in chosen) / len(chosen),
                })  # fmt: skip
    print(json.dumps({"accuracy": accuracy, "provenance": provenance()}, indent=1))
