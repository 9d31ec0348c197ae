"""Models to work with: the embedded specimens, a checkpoint's folder, or one of the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging

from dycoke_lab.models import check_supported, learn
from dycoke_lab.models.folder import check_checkpoint, check_sums
from dycoke_lab.results.folders import DATA

SPECIMENS = DATA / "specimen"


def specimen_names() -> list[str]:
    """Return the names of the trained specimens that lie in data/specimen."""
    return sorted({path.parents[1].name for path in SPECIMENS.glob("*/seed-*/config.json")})


def specimen_seeds(name: str = "constructed") -> list[int]:
    """Return the seeds of the trained specimens of one name."""
    found = (SPECIMENS / name).glob("seed-*/config.json")
    return sorted(int(path.parent.name.removeprefix("seed-")) for path in found)


def load_model(
    name: str = "constructed",
    seed: int = 0,
    dtype: str | torch.dtype = "auto",
    device: str | None = None,
    attention: str | None = None,
) -> tuple[Any, Any]:
    """Return a model in evaluation mode and its processor. Only safetensors are read, and no code that comes
    with a checkpoint is run; what a folder's files name must lie in it.

    name: of a specimen ("constructed", "footage"), the folder of a checkpoint, or its name on the Hugging
    Face hub ("llava-hf/llava-onevision-qwen2-7b-ov-hf"), whose download shows its progress and is kept. seed:
    which of the specimens of this name. dtype: "auto", the checkpoint's own, or torch.bfloat16, "float32",
    ... device: "cuda", "cpu", ...; None: a GPU if there is one, but a specimen stays on the CPU.
    attention: transformers' name of a kernel, "sdpa", "eager", "flash_attention_2"; None: its choice.

    Raises FileNotFoundError for what is not there or cannot be downloaded, TypeError for a family that is not
    supported (before its weights are downloaded), ValueError for a dtype, device or kernel that this machine
    has not, and for a damaged file.
    """
    specimen = name in specimen_names()
    folder = SPECIMENS / name / f"seed-{seed}" if specimen else Path(name)
    local = folder.is_dir() or specimen or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name)
    if local and not (folder / "config.json").is_file():
        known = ", ".join(f'"{known}" (seeds {specimen_seeds(known)})' for known in specimen_names())
        raise FileNotFoundError(
            f"name={name!r}, seed={seed}: {folder} holds no checkpoint. Known: {known}, a folder, or a hub "
            "name"
        )
    if local:
        check_supported(str(check_checkpoint(folder).get("model_type")))
    if specimen:
        check_sums(folder)
    place = str(folder) if local else name
    settings: dict[str, Any] = {"local_files_only": local, "trust_remote_code": False}
    quiet = specimen and logging.is_progress_bar_enabled()  # 4 MB need no bar
    if quiet:
        logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(place, **settings)
        check_supported(config.model_type)
        model = AutoModelForImageTextToText.from_pretrained(
            place,
            config=config,
            dtype=_dtype(dtype),
            attn_implementation=attention,
            use_safetensors=True,
            **settings,
        )
        processor = AutoProcessor.from_pretrained(place, **settings)
    except OSError as error:
        raise FileNotFoundError(_what_to_do(name, local, error)) from error
    except SafetensorError as error:
        raise ValueError(f"name={name!r}: its weights are damaged ({error})") from error
    except ImportError as error:  # a kernel or a package of the processor's that is not installed
        raise ValueError(f"name={name!r}, attention={attention!r}: {error}") from error
    finally:
        if quiet:
            logging.enable_progress_bar()
    if device is None:
        device = "cuda" if torch.cuda.is_available() and not specimen else "cpu"
    try:
        model.to(device)  # type: ignore[arg-type]
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={device!r} cannot be used here: {str(error).splitlines()[0]}") from error
    learn(processor)
    return model.eval(), processor


def _dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    chosen = getattr(torch, dtype, None) if isinstance(dtype, str) and dtype != "auto" else dtype
    if chosen != "auto" and not (isinstance(chosen, torch.dtype) and chosen.is_floating_point):
        raise ValueError(
            f"dtype={dtype!r} must be 'auto', 'bfloat16', 'float16', 'float32' or a torch dtype of that kind"
        )
    return chosen  # type: ignore[return-value]


def _what_to_do(name: str, local: bool, error: OSError) -> str:
    reason = str(error).strip().splitlines()[0]
    if local:
        return (
            f"name={name!r}: {reason}. A checkpoint's folder holds config.json, *.safetensors, and the "
            "processor's files"
        )
    return (
        f"name={name!r} is no folder here, and the Hugging Face hub did not give it: {reason}. Check the "
        "spelling and, for a gated "
        f"model, `hf auth login`. Without a network: `hf download {name} --local-dir FOLDER` where there is "
        "one, bring FOLDER here and give its path as name"
    )
