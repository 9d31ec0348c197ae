"""A checkpoint's folder must be whole, name no files elsewhere, and ask for no downloads."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from dycoke_lab.results.files import damaged, read_json

INDEX = "model.safetensors.index.json"
READ = (  # by transformers
    "config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json",
    "video_preprocessor_config.json", "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "chat_template.json", INDEX,
)  # fmt: skip
TRAINING = "training.json"  # a specimen's, with checksums
KERNEL = ("attn_implementation", "_attn_implementation")


def check_checkpoint(folder: Path) -> dict[str, Any]:
    """Return a folder's config. Raises ValueError, which names the file, if one is damaged, lies outside
    the folder, or asks for a download."""
    for path in folder.iterdir():
        _check_link(folder, path)
    read = {name: read_json(folder / name) for name in READ if (folder / name).exists()}
    for name in _shards(folder, read.get(INDEX, {})):
        inside = os.path.normpath(name)
        if os.path.isabs(inside) or inside.split(os.sep)[0] == os.pardir:
            raise ValueError(f"{folder / INDEX} names {name!r}, which is not in {folder}: it is not read")
        _check_link(folder, folder / inside)
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt"):  # reads the header, which says how long the file is
                pass
        except SafetensorError as error:
            raise damaged(path, error) from error
    for name in (name for name in read if name.endswith("config.json")):
        for key, value in _pairs(read[name]):
            if key == "audio_tokenizer" or (key in KERNEL and "/" in str(value)):
                raise ValueError(
                    f"{folder / name} asks for a download by {key}={value!r}: only files of the folder "
                    "are read. Delete this entry"
                )
    return read.get("config.json", {})


def check_sums(folder: Path) -> None:
    """Raise ValueError if a file of a specimen's is not what its training left."""
    about = folder / TRAINING
    sums = read_json(about).get("sha256", {}) if about.exists() else {}
    for name, wanted in sums.items():
        path = folder / name
        if hashlib.sha256(path.read_bytes()).hexdigest() != wanted:
            raise damaged(path, f"its checksum in {TRAINING} is another")


def _shards(folder: Path, index: dict[str, Any]) -> list[str]:
    found = index.get("weight_map", {})
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise damaged(folder / INDEX, "weight_map names no files")
    return sorted(set(found.values()))


def _check_link(folder: Path, path: Path) -> None:
    """A link may lead to another file of the folder or, as the hub's cache has it, to ../../blobs."""
    if not path.is_symlink():
        return
    home = folder.resolve()
    target = Path(os.path.normpath(home / os.readlink(path)))
    cached = home.parent.name == "snapshots" and target.parent == home.parents[1] / "blobs"
    if not cached and not path.resolve().is_relative_to(home):
        raise ValueError(f"{path} is a link to {target}, which is not in {folder}: copy the file there")


def _pairs(tree: Any) -> Iterator[tuple[str, Any]]:
    """All names and values of an object, and of what is in it."""
    todo = [tree]
    while todo:
        part = todo.pop()
        if isinstance(part, dict):
            yield from part.items()
            todo += part.values()
        elif isinstance(part, list):
            todo += part
