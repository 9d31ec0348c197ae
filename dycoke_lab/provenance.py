"""Where a result comes from: commit, command, versions, hardware."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "transformers", "torchvision", "numpy", "pandas", "scikit-learn", "seaborn", "av")


def provenance() -> dict[str, Any]:
    """What a result file says about how it was made. `commit` ends in "-dirty" with uncommitted changes; in a copy
    without git, it is what DYCOKE_LAB_COMMIT says."""
    return {
        "command": _command(),
        "commit": _commit(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "hardware": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "gpu": _gpu(),
            "threads": torch.get_num_threads(),
            "load": os.getloadavg()[0],  # processes that ran, on average, in the minute before
        },
    }


def replace_text(path: Path, text: str) -> None:
    """Write a file so that whoever is killed meanwhile leaves the old one or the new one."""
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.replace(path)


def _command() -> str:
    program, *arguments = sys.argv
    if Path(program).parent == Path(__file__).resolve().parent:
        return shlex.join(["python", "-m", "dycoke_lab", *arguments])
    return Path(program).name  # a notebook's kernel, a test: its arguments say nothing


def _commit() -> str:
    try:
        git = ["git", "-C", str(ROOT)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        status = [*git, "status", "--porcelain", "--untracked-files=no"]
        changed = subprocess.run(status, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("DYCOKE_LAB_COMMIT", "unknown")
    return commit + ("-dirty" if changed.strip() else "")


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] \
        if info.exists() else []  # fmt: skip
    return names[0] if names else platform.processor() or "unknown"


def _gpu() -> str | None:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None
