"""Commands on a user's own videos: `run`."""

from __future__ import annotations

import argparse
from typing import Any

from dycoke_lab.cli.options import add, at_least, one_line
from dycoke_lab.methods import METHODS, DyCoke, Merger, compose

DEFAULTS = DyCoke()


def add_run(commands: Any) -> None:
    run = commands.add_parser("run", help="ask one question about one video")
    run.add_argument("video", help="a file (mp4, webm, gif, ...) or a folder of pictures")
    run.add_argument("question", help='for the specimen, for example "describe the four scenes"')
    add(run, "model", "constructed", "name of a specimen, folder of a checkpoint, or name on the hub")
    add(run, "merge-ratio", DEFAULTS.merge_ratio, "K, the share of tokens that merging removes")
    add(run, "prune-ratio", DEFAULTS.prune_ratio, "P, the share of the others that is inactive at a step")
    layer = f"L, the first pruned layer (default: {DEFAULTS.from_layer}, or the next one possible)"
    add(run, "from-layer", None, layer, type=int)
    methods = [name for name, cls in METHODS.items() if name != "hindsight" and not issubclass(cls, Merger)]
    add(run, "method", "dynamic", "what prunes; full: nothing", choices=["full", *methods])
    frames = run.add_mutually_exclusive_group()
    add(frames, "frames", None, "at most so many, at even distances (default: all)", type=at_least(1))
    add(frames, "fps", None, "so many frames for each second of the video", type=float)
    add(run, "max-new-tokens", 128, "the longest answer", type=at_least(1))
    run.add_argument("--compare", action="store_true", help="compare words, memory, time with the full cache")
    add(run, "dtype", "auto", "bfloat16, float32, ...; auto: the checkpoint's")
    add(run, "device", None, "cuda, cpu, ... (default: a GPU if there is one; the CPU for the specimen)")
    add(run, "attention", None, "sdpa, eager, flash_attention_2 (default: transformers' choice)")
    add(run, "seed", 0, "which specimen")
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
        raise SystemExit(one_line(error)) from error
    if options.from_layer is None:
        compression = compose(*settings, from_layer_for(model))
    inputs = prompt(processor, video, options.question)
    compressed = answer_prompt(model, processor, inputs, compression, options.max_new_tokens)
    if not options.compare:
        print(compressed.text)
        return
    full = answer_prompt(model, processor, inputs, Compression(), options.max_new_tokens)
    print(comparison(full, compressed, compression))
