"""A wheel works outside the checkout, without Jupyter: it brings specimens, clips and the command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from dycoke_lab.models.loading import SPECIMENS
from dycoke_lab.results.folders import ROOT
from dycoke_lab.specimen.clips import CLIPS, truth

JUPYTER = ("IPython", "ipywidgets", "jupyterlab", "nbconvert", "nbformat", "papermill")
CLIP = "constructed-4-scenes.mp4"


def call(*command: object, folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, since setuptools leaves files in the folder that it builds."""
    copy = tmp_path_factory.mktemp("copy")
    for name in ("dycoke_lab", "data/specimen", "data/clips"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", copy / "dist", folder=copy)
    (found,) = (copy / "dist").glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder with a new environment, venv: the wheel and what is installed here, but without Jupyter."""
    folder = tmp_path_factory.mktemp("environment")
    call(sys.executable, "-m", "venv", folder / "venv", folder=folder)
    python = folder / "venv" / "bin" / "python"
    call(python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel, folder=folder)
    where = call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=folder)
    site = Path(where.strip())
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")  # a .pth there is not followed
    absent = f"import sys; sys.modules.update(dict.fromkeys({JUPYTER}))\n"
    (site / "absent.pth").write_text(absent)  # Debian's Python has a sitecustomize of its own
    return folder


@pytest.mark.slow
def test_the_wheel_brings_specimens_and_clips_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    data = [name for name in names if name.startswith("dycoke_lab/_data/")]
    assert {name.split("/")[2] for name in data} == {"clips", "specimen"}
    weights = {name.removeprefix("dycoke_lab/_") for name in data if name.endswith("model.safetensors")}
    assert weights == {str(path.relative_to(ROOT)) for path in SPECIMENS.glob("*/seed-*/model.safetensors")}
    assert {path.name for path in CLIPS.iterdir()} == {
        name.split("/")[3] for name in data if "/clips/" in name
    }
    for world in ("constructed", "footage"):
        assert f"dycoke_lab/specimen/{world}/videos.py" in names
    assert f"dycoke_lab/_data/clips/{CLIP}" in data and "dycoke_lab/methods/dynamic_pruning.py" in names
    assert not any(name.startswith(("tests/", "data/")) for name in names)


@pytest.mark.slow
def test_the_installed_command_answers_outside_the_checkout(installed):
    where = call(
        installed / "venv/bin/python", "-c", "import dycoke_lab as d; print(d.__file__)", folder=installed
    )
    package = Path(where.strip()).parent
    assert package.is_relative_to(installed)
    question, right, *_ = truth(CLIP)
    command = installed / "venv" / "bin" / "dycoke-lab"
    answer = call(command, "run", package / "_data" / "clips" / CLIP, question, folder=installed)
    assert answer.strip() == right


@pytest.mark.slow
def test_the_installed_command_works_without_jupyter(installed):
    command = installed / "venv" / "bin" / "dycoke-lab"
    assert "specimen" in call(command, "--help", folder=installed)
    with pytest.raises(AssertionError, match=r"Jupyter and Sphinx, pip install 'dycoke_lab\[lab,site\]'"):
        call(command, "study", folder=installed)
