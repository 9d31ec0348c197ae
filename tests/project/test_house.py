"""The project's own promises: pins agree, files stay small, shown figures come from committed files."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from importlib.metadata import metadata

import pandas as pd
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from dycoke_lab.evaluation.evidence import findings, readme_table
from dycoke_lab.models.loading import SPECIMENS
from dycoke_lab.results.folders import RESULTS, ROOT
from dycoke_lab.specimen.specimens import SPECIMENS as KINDS

LOCK = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().split())
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SEEDS = ["seed-0", "seed-1", "seed-2"]
CODE = [path for folder in ("dycoke_lab", "tests") for path in (ROOT / folder).rglob("*.py")]


def test_the_lock_pyproject_and_environment_agree():
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["lab"], *extras["site"], *extras["dev"]]
    assert set(extras["site"]) <= set(extras["dev"])  # `make site` and tests need it
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert "python=3.11" in environment and project["requires-python"].startswith(">=3.11")
    wanted += [line for line in environment[-1]["pip"] if not line.startswith("-")]
    assert "-r requirements.lock" in environment[-1]["pip"]
    names = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in LOCK.items()}
    for requirement in map(Requirement, wanted):
        version = names.get(re.sub(r"[-_.]+", "-", requirement.name).lower())
        assert version and version in requirement.specifier, f"{requirement}: requirements.lock has {version}"
    assert (LOCK["torch"], LOCK["transformers"]) == ("2.13.0", "5.23.0")


def test_every_pinned_package_installs_on_the_pythons_that_the_readme_names():
    assert "Python 3.11 to 3.13" in (ROOT / "README.md").read_text()
    for name in LOCK:
        needs = SpecifierSet(metadata(name).get("Requires-Python") or "")
        for python in ("3.11.2", "3.12.0", "3.13.0"):  # 3.11.2: Debian 12's
            assert python in needs, f"{name}=={LOCK[name]} needs Python {needs}"


def test_the_core_installs_without_jupyter():
    core = {Requirement(line).name for line in PYPROJECT["project"]["dependencies"]}
    assert not core & {"jupyterlab", "ipywidgets", "papermill", "nbconvert", "sphinx", "myst-nb"}


def test_pyproject_lists_every_package():
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "dycoke_lab").rglob("__init__.py")}
    packages = {".".join(folder.parts) for folder in folders} | {"dycoke_lab._data"}
    assert packages == set(PYPROJECT["tool"]["setuptools"]["packages"])


def test_no_file_is_over_300_lines():
    long = {str(path): n for path in CODE if (n := len(path.read_text().splitlines())) > 300}
    assert not long


def test_no_page_has_a_line_over_110_characters():
    """Of code, ruff checks it."""
    pages = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "data/README.md")]
    long = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in [*pages, *(ROOT / "docs").glob("*.md")]
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > 110 and not line.startswith(("|", "!["))  # a table's row and an image need one line
    ]
    assert not long
    assert PYPROJECT["tool"]["ruff"]["line-length"] == 110


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = PYPROJECT["project"]
    assert (citation["title"], citation["version"]) == (project["name"], project["version"])
    assert citation["license"] == project["license"] and citation["references"][0]["title"].startswith(
        "DyCoke"
    )


@pytest.mark.data
def test_the_readme_says_what_the_evidence_says():
    page = (ROOT / "README.md").read_text()
    assert readme_table() in page
    for finding in findings().values():
        assert finding in " ".join(page.split())


@pytest.mark.data
def test_the_shipped_specimens_are_what_their_checksums_say():
    folders = sorted(SPECIMENS.glob("*/seed-*"))
    assert {folder.parent.name for folder in folders} <= set(KINDS)
    assert [folder.name for folder in folders if folder.parent.name == "constructed"] == SEEDS
    for folder in folders:
        record = json.loads((folder / "training.json").read_text())
        assert "model.safetensors" in record["sha256"]
        for name, wanted in record["sha256"].items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == wanted, (
                f"{folder / name} was changed"
            )
        assert record["sha256"].keys() | {"training.json"} == {path.name for path in folder.iterdir()}
    assert sum(path.stat().st_size for path in SPECIMENS.rglob("*")) < 32 * 2**20


@pytest.mark.data
def test_the_shipped_specimens_say_with_which_settings_they_were_trained():
    for folder in sorted(SPECIMENS.glob("*/seed-*")):
        record = json.loads((folder / "training.json").read_text())
        assert record["config"]["seed"] == int(folder.name.removeprefix("seed-"))
        assert record["config"].get("specimen", "constructed") == folder.parent.name
        assert record["provenance"]["packages"]["torch"]
        assert (folder / "log.jsonl").read_text().count("\n") > 50


@pytest.mark.data
def test_the_constructed_specimens_accuracy_meets_its_floor():
    table = pd.DataFrame(json.loads((RESULTS / "specimen-accuracy.json").read_text())["accuracy"])
    if "specimen" in table:
        table = table[table["specimen"] == "constructed"]
    whole = table[(table["question"] == "describe") & (table["scenes"] == "all")].set_index("seed")
    assert (whole["videos"] == 512).all() and len(whole) == 3
    assert (whole["words"] >= 0.99).all() and (whole["exact"] >= 0.95).all()
    short = table[(table["question"] == "actor") & (table["scenes"] == "all")]
    assert len(short) == 3 and (short["words"] >= 0.99).all()


@pytest.mark.data
def test_the_committed_results_are_small():
    runs = ("study-", "notebook-")  # not committed
    paths = [path for path in RESULTS.rglob("*") if not path.relative_to(RESULTS).parts[0].startswith(runs)]
    assert sum(path.stat().st_size for path in paths) < 8 * 2**20
