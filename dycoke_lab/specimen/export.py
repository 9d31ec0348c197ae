"""Write a trained specimen as a checkpoint folder that stock transformers opens without this library."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig

from dycoke_lab.results.provenance import provenance
from dycoke_lab.specimen.specimens import Specimen

CONFIG = "config.json"


def export(
    model: Any, folder: Path, training: dict[str, Any], specimen: Specimen, log: str | None = None
) -> None:
    """Write config, safetensors, tokenizer, chat template, processor, the training's log if given, and
    training.json with checksums.

    Weights are rounded to float16, which halves the file; they are loaded, and computed with, in float32.
    All is written beside the folder and then moved there, config.json last, without which it is no
    checkpoint: a kill leaves the old one, or none, or the new one.
    """
    whole, folder = folder, folder.with_name(folder.name + ".new")
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    folder.mkdir(parents=True)
    weights = model.state_dict()
    model = type(model)(model.config)  # copies of weights that training shared
    model.load_state_dict(weights)
    model.set_attn_implementation("sdpa")
    model.generation_config = GenerationConfig(
        eos_token_id=specimen.ids["<|end|>"], pad_token_id=specimen.ids["<pad>"], do_sample=False,
        max_new_tokens=40,
    )  # fmt: skip
    model.to(device="cpu", dtype=torch.float32)
    model.save_pretrained(folder)
    path = folder / "model.safetensors"
    save_file({name: part.half() for name, part in load_file(path).items()}, path, {"format": "pt"})
    path.chmod(0o644)
    specimen.processor().save_pretrained(folder)
    if log is not None:
        (folder / "log.jsonl").write_text(log)
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
    record = {**training, "sha256": sums, "provenance": provenance()}
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    whole.mkdir(exist_ok=True)
    (whole / CONFIG).unlink(missing_ok=True)
    for path in sorted(folder.iterdir(), key=lambda path: path.name == CONFIG):
        path.replace(whole / path.name)
    folder.rmdir()
