"""Write a trained specimen as a checkpoint folder that stock transformers opens without this library."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig

from dycoke_lab.results.provenance import provenance
from dycoke_lab.specimen.specimens import Specimen


def export(model: Any, folder: Path, training: dict[str, Any], specimen: Specimen) -> None:
    """Write config, safetensors, tokenizer, chat template, processor, and training.json with checksums.

    Weights are rounded to float16, which halves the file; they are loaded, and computed with, in float32.
    """
    folder.mkdir(parents=True, exist_ok=True)
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
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
    sums.pop("training.json", None)
    record = {**training, "sha256": sums, "provenance": provenance()}
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")
