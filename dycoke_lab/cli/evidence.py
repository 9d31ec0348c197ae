"""Commands that make the committed data: `study`, `evidence`, `sweep`, `summary`, `specimen`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from dycoke_lab.cli.options import THREADS, add, at_least

NAMES = "of a specimen: constructed, footage, footage-qwen2.5-vl"


def add_study(commands: Any) -> None:
    study = commands.add_parser("study", help="run all notebooks; leave figures, tables and a lab book")
    add(study, "videos", 64, "for each setting and specimen", type=at_least(4))
    about = "folder (default: a new one in the results); continues a study that was interrupted there"
    add(study, "out", None, about, type=Path)
    study.set_defaults(
        do=_study, saved="Finished notebooks are saved; the same command with --out continues."
    )


def _study(options: argparse.Namespace) -> None:
    try:
        from dycoke_lab.notebooks import make_study
    except ImportError as error:
        raise SystemExit(
            f"error: {error}: notebooks need Jupyter and Sphinx, pip install 'dycoke_lab[lab,site]'"
        ) from error
    make_study(options.videos, options.out)


def add_grid(commands: Any, kind: str, videos: int, about: str) -> None:
    grid = commands.add_parser(kind, help=about)
    grid.add_argument("name", help=NAMES)
    add(grid, "seed", None, "which specimen", type=int, required=True)
    add(grid, "videos", videos, "for each setting", type=at_least(4))
    add(grid, "threads", None, THREADS, type=at_least(1))
    add(grid, "out", None, f"folder (default: {kind}/NAME/seed-SEED in the results)", type=Path)
    grid.set_defaults(do=_grid, kind=kind, saved="Finished settings are saved; the same command continues.")


def _grid(options: argparse.Namespace) -> None:
    from dycoke_lab.evaluation import grids, settings
    from dycoke_lab.results import RESULTS, RowStore
    from dycoke_lab.specimen.specimens import specimen_named

    out = options.out or RESULTS / options.kind / options.name / f"seed-{options.seed}"
    make = {"evidence": settings.evidence_grid, "sweep": settings.sweep_grid}[options.kind]
    configs = make(options.seed, specimen_named(options.name).name)
    rows = grids.run_grid(configs, options.videos, out)
    with RowStore(out, videos=options.videos) as store:
        store.pack()
    print(f"{rows['config'].nunique()} settings x {options.videos} videos in {out}")


def add_matrix(commands: Any) -> None:
    matrix = commands.add_parser("matrix", help="published methods at equal tokens, on one specimen")
    matrix.add_argument("name", help=NAMES)
    add(matrix, "seed", None, "which specimen", type=int, required=True)
    add(matrix, "videos", 256, "for each question", type=at_least(4))
    add(
        matrix, "question", None, "one of describe, actor, compare (default: all; repeat it)", action="append"
    )
    add(matrix, "share", None, "lines at this share alone: .5, .25 or .1; give --out", type=float)
    add(matrix, "threads", None, THREADS, type=at_least(1))
    add(matrix, "out", None, "folder (default: matrix/NAME/seed-SEED in the results)", type=Path)
    matrix.set_defaults(do=_matrix, saved="Finished lines are saved; the same command continues.")


def _matrix(options: argparse.Namespace) -> None:
    from dycoke_lab.evaluation.matrix import LAYERS, SHARES, plan, plan_at
    from dycoke_lab.evaluation.matrix_runs import QUESTIONS, run_matrix
    from dycoke_lab.results import RESULTS, RowStore
    from dycoke_lab.specimen.specimens import specimen_named

    name = specimen_named(options.name).name
    out = options.out or RESULTS / "matrix" / name / f"seed-{options.seed}"
    asked = options.question or QUESTIONS
    if options.share is not None and (options.share not in SHARES or options.out is None):
        raise ValueError(
            f"--share {options.share} must be one of {', '.join(map(str, SHARES))}, and needs --out: these "
            "rows are a part of the matrix, so they do not lie in its folder"
        )
    lines = plan() if options.share is None else plan_at(options.share)
    rows = run_matrix(name, options.seed, LAYERS[name], lines, options.videos, out, asked)
    if options.share is not None or set(asked) == set(QUESTIONS):
        with RowStore(out, videos=options.videos, from_layer=LAYERS[name]) as store:
            store.pack()
    print(f"{rows['line'].nunique()} lines x {options.videos} videos in {out}")


def add_costs(commands: Any) -> None:
    costs = commands.add_parser("costs", help="what each method of the matrix costs, at the shape of a 0.5B")
    add(costs, "frames", 16, "of the prompt", type=at_least(4))
    add(
        costs,
        "rounds",
        3,
        "in each of which every method runs once; 0: only its parameters are solved",
        type=at_least(0),
    )
    add(costs, "threads", None, THREADS, type=at_least(1))
    add(costs, "out", None, "folder (default: matrix-costs in the results)", type=Path)
    costs.set_defaults(do=_costs, saved="Finished runs are saved; the same command continues.")


def _costs(options: argparse.Namespace) -> None:
    from dycoke_lab.evaluation.matrix_costs import COSTS, lines_at, run_costs

    out = options.out or COSTS
    run_costs(out, lines_at(0.25), options.frames, options.rounds)
    print(f"{options.rounds} rounds of every method in {out}")


def add_diagnoses(commands: Any) -> None:
    about = "diagnose validation videos of one specimen"
    diagnoses = commands.add_parser("validate", help=about)
    diagnoses.add_argument("name", help=NAMES)
    add(diagnoses, "seed", None, "which specimen", type=int, required=True)
    add(diagnoses, "videos", 8, "for each motion of the camera and number of scenes", type=at_least(1))
    add(diagnoses, "threads", None, THREADS, type=at_least(1))
    add(diagnoses, "out", None, "folder (default: diagnoses/NAME/seed-SEED in the results)", type=Path)
    diagnoses.set_defaults(do=_diagnoses, saved="Finished batches are saved; the same command continues.")


def _diagnoses(options: argparse.Namespace) -> None:
    from dycoke_lab.evaluation.predictions import run_diagnoses
    from dycoke_lab.results import DIAGNOSES, RowStore

    out = options.out or DIAGNOSES / options.name / f"seed-{options.seed}"
    rows = run_diagnoses(options.name, options.seed, out, options.videos)
    with RowStore(out, videos=options.videos) as store:
        store.pack()
    print(f"{len(rows)} rows in {out}")


def summarise(options: argparse.Namespace) -> None:
    from dycoke_lab.evaluation import evidence
    from dycoke_lab.results import EVIDENCE, save
    from dycoke_lab.viz import evidence_figures, plots

    plots.style()
    layer = evidence.chosen_layers()["footage"]
    figures = {
        "every-layer": evidence_figures.every_layer(evidence.by_layer("footage")),
        "how-often": evidence_figures.reselections(evidence.reselection(layer), layer),
    }
    for name, figure in figures.items():
        save(EVIDENCE / "footage" / f"{name}.png", figure, dpi=110)
    print("\n\n".join([evidence.readme_table(), *evidence.findings().values()]))


def add_specimen(commands: Any) -> None:
    about = "the tiny trained video LLMs: train, evaluate, clips"
    specimen = commands.add_parser("specimen", help=about)
    parts = specimen.add_subparsers(required=True, title="commands", metavar="COMMAND")
    train = parts.add_parser("train", help="train one from random weights; continues after an interruption")
    train.add_argument("name", help=NAMES)
    add(train, "seed", None, "decides weights and videos", type=int, required=True)
    add(train, "out", None, "folder (default: runs/NAME-SEED; its model into data/specimen)", type=Path)
    add(train, "threads", None, THREADS, type=at_least(1))
    train.set_defaults(do=_train, saved="The last checkpoint is saved; the same command continues.")
    evaluate = parts.add_parser("evaluate", help="print accuracy with the full cache as JSON")
    add(evaluate, "videos", 512, "for each seed and question", type=at_least(4))
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
