"""Make `import torchvision` work where its compiled operators do not load (its wheel is built for CUDA, torch
is not).

transformers' video processors need torchvision's Python side (resize, normalise), never its compiled
operators, yet importing it fails when those are missing. Declaring their names is enough. Nothing is
touched where the plain import works. Import this before anything of transformers that handles images.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path

import torch

_KEEP: list[torch.library.Library] = []  # a library's declarations vanish with the object


def ensure_torchvision() -> bool:
    """Import torchvision. Returns True if its operators had to be declared first, False if it just worked.

    Raises ImportError where torchvision is missing, or fails for another reason than its operators.
    """
    try:
        importlib.import_module("torchvision")
        return False
    except RuntimeError as error:
        if "does not exist" not in str(error):
            raise ImportError(f"torchvision is installed but does not import: {error}") from error
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for name in missing_operators():
        library.define(f"{name}(Tensor x) -> Tensor")
    _KEEP.append(library)
    importlib.import_module("torchvision")
    return True


def missing_operators() -> list[str]:
    """Return the names of the compiled operators that the installed torchvision expects, read from its own
    source."""
    spec = importlib.util.find_spec("torchvision")
    assert spec is not None and spec.origin is not None  # it was found a moment ago
    source = (Path(spec.origin).parent / "_meta_registrations.py").read_text()
    return sorted(
        set(re.findall(r"""register_meta\(["'](\w+)["']""", source))
        | set(re.findall(r"torchvision::(\w+)", source))
    )
