"""The project's own promises: pins agree, modules stay small."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
LOCK = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().split())


def test_the_lock_pyproject_and_environment_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert "python=3.11" in environment and project["requires-python"].startswith(">=3.11")
    wanted += [line for line in environment[-1]["pip"] if not line.startswith("-")]
    assert "-r requirements.lock" in environment[-1]["pip"]
    names = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in LOCK.items()}
    for requirement in wanted:
        name, _, version = requirement.partition("==")
        assert re.sub(r"[-_.]+", "-", name).lower() in names, f"{name} is not in requirements.lock"
        assert version in ("", names[re.sub(r"[-_.]+", "-", name).lower()])
    assert (LOCK["torch"], LOCK["transformers"]) == ("2.13.0", "5.23.0")


def test_no_module_over_300_lines():
    long = {str(p): n for p in ROOT.glob("dycoke_lab/**/*.py") if (n := len(p.read_text().splitlines())) > 300}
    assert not long
