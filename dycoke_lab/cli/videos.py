"""Commands on one's own videos: `run`, `diagnose`, `fidelity`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

from dycoke_lab.cli.options import add, at_least, numbers
from dycoke_lab.methods import METHODS, Compression, DyCoke, compose, composed
from dycoke_lab.methods.registry import FULL

DEFAULTS = DyCoke()
FRAMES = 32  # as many as the paper takes
QUESTION = 'for the constructed specimen, for example "describe the four scenes"'


def _add_prompt(parser: Any) -> None:
    """Add what decides model, frames and answer."""
    add(parser, "model", "constructed", "name of a specimen, folder of a checkpoint, or name on the hub")
    frames = parser.add_mutually_exclusive_group()
    add(frames, "frames", FRAMES, "at most so many, at even distances", type=at_least(1))
    add(frames, "fps", None, "what is shown at 0, 1/FPS, 2/FPS, ... seconds", type=float)
    add(parser, "rate", None, "frames for each second of a folder of pictures", type=float)
    add(parser, "max-new-tokens", 128, "the longest answer", type=at_least(1))
    add(parser, "dtype", "auto", "bfloat16, float32, ...; auto: the checkpoint's")
    add(parser, "device", None, "cuda, cpu, ... (default: a GPU if there is one; the CPU for a specimen)")
    add(parser, "attention", None, "sdpa, eager, flash_attention_2 (default: transformers' choice)")
    add(parser, "seed", 0, "which specimen")


def add_run(commands: Any) -> None:
    run = commands.add_parser("run", help="ask one question about one video")
    run.add_argument("video", help="a file (mp4, webm, gif, ...) or a folder of pictures")
    run.add_argument("question", help=QUESTION)
    add(run, "merge-ratio", DEFAULTS.merge_ratio, "K, the share of tokens that merging removes")
    add(run, "prune-ratio", DEFAULTS.prune_ratio, "P, the share of the others that is inactive at a step")
    layer = f"L, the first pruned layer (default: {DEFAULTS.from_layer}, or the next one possible)"
    add(run, "from-layer", None, layer, type=int)
    about = (
        "full, or a method: dynamic (the default), visionzip, ...; with + between several, and fields after "
        "a colon: 'visionzip: dominant=0.2 + dynamic'; repeat it to compare several"
    )
    add(run, "method", None, about, action="append", type=_known)
    compare = "compare words, memory, time with the full cache; all: fidelity of DyCoke's parts and controls"
    run.add_argument("--compare", nargs="?", const="full", choices=["full", "all"], help=compare)
    _add_prompt(run)
    run.set_defaults(do=_run)


def _run(options: argparse.Namespace) -> None:
    from dycoke_lab.apply import from_layer_for
    from dycoke_lab.evaluation.one_prompt import answer_prompt, comparison
    from dycoke_lab.video import prompt

    methods = options.method or ["dynamic"]
    if len(methods) > 1 and options.compare != "full":
        raise ValueError("several --method need --compare: they are compared with the full cache")
    layer = DEFAULTS.from_layer if options.from_layer is None else options.from_layer

    def made(from_layer: int) -> list[Compression]:
        return [composed(name, options.merge_ratio, options.prune_ratio, from_layer) for name in methods]

    compressions = made(layer)  # raises before a model is loaded
    video = _read(options.video, options)
    model, processor = _load(options)
    if options.from_layer is None:
        compressions = made(from_layer_for(model))
    inputs = prompt(processor, video, options.question)
    if options.compare == "all":
        _compare_all(model, processor, inputs, compressions[0])
        return
    answers = [answer_prompt(model, processor, inputs, c, options.max_new_tokens) for c in compressions]
    if not options.compare:
        print(answers[0].text)
        return
    full = answer_prompt(model, processor, inputs, Compression(), options.max_new_tokens)
    print("\n\n".join(map(comparison, repeat(full), answers, compressions)))


def _known(text: str) -> str:
    """Return a method's text, if all its names are known: for argparse."""
    names = [part.partition(":")[0].strip() for part in text.split("+")]
    if unknown := [name for name in names if name not in METHODS and text.strip() != FULL]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is no method: known are {', '.join(METHODS)}")
    return text


def _load(options: argparse.Namespace) -> tuple[Any, Any]:
    from dycoke_lab.models.loading import load_model

    where = options.dtype, options.device, options.attention
    return load_model(options.model, options.seed, *where)


def _read(source: str | Path, options: argparse.Namespace) -> Any:
    from dycoke_lab.video import read_video

    frames = options.frames if options.fps is None else None
    return read_video(source, frames, options.fps, options.rate)


def _compare_all(model: Any, processor: Any, inputs: Any, compression: Any) -> None:
    from dycoke_lab.evaluation.fidelity import Setting, fidelity_rows, fidelity_summary, methods_for

    kept = round(1 - compression.prune_ratio, 6)
    common = kept, compression.from_layer, compression.merge_ratio
    settings = [Setting(name, *common) for name in methods_for(compression.from_layer, model)]
    rows = [{"video": "1", **row} for row in fidelity_rows(model, processor, inputs, settings)]
    print(f"full cache: {rows[0]['reference']}")
    for row in rows:
        print(f"{row['setting']['method']}: {row['text']}")
    print(f"\n{fidelity_summary(rows).to_string(index=False)}")


def _add_videos(parser: Any) -> None:
    parser.add_argument("videos", nargs="+", help="files, or folders of files or of pictures")
    add(parser, "question", None, QUESTION, required=True)


def add_diagnose(commands: Any) -> None:
    about = "which layer can prune, and what to expect of it"
    diagnose = commands.add_parser("diagnose", help=about)
    _add_videos(diagnose)
    add(diagnose, "prune-ratio", DEFAULTS.prune_ratio, "P")
    add(diagnose, "merge-ratio", 0.0, "K, of temporal merging before it")
    add(diagnose, "out", None, "file for the whole table, as CSV", type=Path)
    _add_prompt(diagnose)
    diagnose.set_defaults(do=_diagnose)


def _diagnose(options: argparse.Namespace) -> None:
    import pandas as pd
    from tqdm.auto import tqdm

    from dycoke_lab.evaluation.diagnosis import diagnose, diagnosis_text
    from dycoke_lab.results import save
    from dycoke_lab.results.files import check_folder
    from dycoke_lab.video import on_model, prompt, video_paths

    merging = compose("full", options.merge_ratio)
    compose("dynamic", 0, options.prune_ratio)  # raises before a model is loaded
    if options.out:
        check_folder(options.out.parent)
    paths = video_paths(options.videos)
    model, processor = _load(options)
    tables = []
    for path in tqdm(paths, desc="videos", disable=len(paths) < 2):
        inputs = on_model(prompt(processor, _read(path, options), options.question), model)
        settings = {"merging": merging, "max_new_tokens": options.max_new_tokens}
        tables.append(diagnose(model, inputs, [options.prune_ratio], **settings).assign(video=str(path)))
    table = pd.concat(tables, ignore_index=True)
    if options.out:
        save(options.out, table)
    print(diagnosis_text(table, options.prune_ratio))


def add_fidelity(commands: Any) -> None:
    about = "how near methods stay to the full cache, no labels needed"
    fidelity = commands.add_parser("fidelity", help=about)
    _add_videos(fidelity)
    add(fidelity, "methods", "dynamic,last_query,fastv,random,uniform", "names, with commas")
    own = "a method of your own, my.py:Class; may be given several times"
    fidelity.add_argument("--method", action="append", default=[], help=own)
    add(fidelity, "kept", ".5,.25,.1", "shares of visual tokens to keep, with commas", type=numbers)
    add(fidelity, "from-layer", None, "L (default: 3, or the next one possible)", type=int)
    add(fidelity, "merge-ratio", 0.0, "K, of temporal merging before it")
    add(fidelity, "out", None, "folder for rows and figure (default: a new one in the results)", type=Path)
    _add_prompt(fidelity)
    fidelity.set_defaults(
        do=_fidelity, saved="Finished videos are saved; the same command with --out continues."
    )


def _fidelity(options: argparse.Namespace) -> None:
    from dycoke_lab.apply import from_layer_for
    from dycoke_lab.evaluation.fidelity import Setting, class_from, fidelity_summary, run_fidelity
    from dycoke_lab.results import RESULTS, new_folder, save
    from dycoke_lab.results.files import check_folder
    from dycoke_lab.video import on_model, prompt, video_paths
    from dycoke_lab.viz import evidence_figures, plots

    names = [name.strip() for name in options.methods.split(",") if name.strip()]
    for place in options.method:
        name, METHODS[name] = class_from(place)
        names.append(name)
    settings = [
        Setting(
            name,
            kept,
            DEFAULTS.from_layer if options.from_layer is None else options.from_layer,
            options.merge_ratio,
        )
        for name in names
        for kept in options.kept
    ]
    for setting in settings:
        setting.compression()  # raises before a model is loaded
    check_folder(options.out or RESULTS)
    paths = video_paths(options.videos)
    model, processor = _load(options)
    if options.from_layer is None:
        layer = from_layer_for(model)
        settings = [replace(setting, from_layer=layer) for setting in settings]

    def inputs_of(path: Path) -> Any:
        return on_model(prompt(processor, _read(path, options), options.question), model)

    out = options.out or new_folder("fidelity")
    about = {
        "model": options.model,
        "question": options.question,
        "frames": options.frames,
        "fps": options.fps,
        "rate": options.rate,
    }
    rows = run_fidelity(model, processor, paths, inputs_of, settings, out, options.max_new_tokens, about)
    plots.style()
    save(out / "fidelity.png", evidence_figures.fidelity(rows))
    table = fidelity_summary(rows)
    save(out / "fidelity.csv", table)
    print(f"{table.to_string(index=False)}\n\nRows, table and figure: {out}")
