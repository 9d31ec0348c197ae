"""Where a result comes from: commit, command, versions, hardware."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGE = Path(__file__).resolve().parents[1]
ROOT = PACKAGE.parent  # the checkout; of an installed wheel, the folder that holds the package
IN_CHECKOUT = (ROOT / "pyproject.toml").is_file()
PACKAGES = ("torch", "transformers", "torchvision", "numpy", "pandas", "scikit-learn", "seaborn", "av")


def provenance() -> dict[str, Any]:
    """Return what a result says about how it was made.

    `commit` ends in "-dirty" if there are uncommitted changes. Without git it is what the environment
    variable DYCOKE_LAB_COMMIT says; of an installed wheel, its version.
    """
    return {
        "command": _command(),
        "commit": _commit(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "hardware": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "threads": torch.get_num_threads(),
            "load": os.getloadavg()[0],  # the mean number of running processes in the last minute
        },
    }


def cpu_name() -> str:
    """Return the CPU's name as Linux gives it, else as Python's `platform` does."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _command() -> str:
    program, *arguments = sys.argv
    path = Path(program)
    if path.name == "dycoke-lab" or path.parent == PACKAGE:  # the console script, or python -m dycoke_lab
        return shlex.join(["dycoke-lab", *arguments])
    return path.name  # a notebook's kernel or a test, whose arguments say nothing


def _commit() -> str:
    if (
        not IN_CHECKOUT
    ):  # git would name the commit of some other project, if the wheel is installed inside one
        return f"dycoke_lab {_version('dycoke_lab')}"
    git = ["git", "-C", str(ROOT)]
    try:
        commit = _output(*git, "rev-parse", "HEAD")
        changed = _output(*git, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("DYCOKE_LAB_COMMIT", "unknown")
    return commit + ("-dirty" if changed else "")


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
