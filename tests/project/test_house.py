"""The project's own promises: pins agree, modules stay small, shown figures come from committed files."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from pathlib import Path

import pandas as pd
import yaml
from packaging.requirements import Requirement

from dycoke_lab.loading import SPECIMENS
from dycoke_lab.results import EVIDENCE
from dycoke_lab.specimen.world import COLOUR_NAMES
from dycoke_lab.study import read_rows
from dycoke_lab.tables import SETTING, accuracy, by_seed, readme_table

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
    for requirement in map(Requirement, wanted):
        version = names.get(re.sub(r"[-_.]+", "-", requirement.name).lower())
        assert version and version in requirement.specifier, f"{requirement}: requirements.lock has {version}"
    assert (LOCK["torch"], LOCK["transformers"]) == ("2.13.0", "5.23.0")


def test_no_module_over_300_lines():
    long = {str(p): n for p in ROOT.glob("dycoke_lab/**/*.py") if (n := len(p.read_text().splitlines())) > 300}
    assert not long


def test_the_readme_says_what_the_evidence_says():
    table = pd.read_csv(EVIDENCE / "accuracy.csv")
    table = table[(table["question"] == "describe") & table["score_layer"].isin([0, 3])]
    readme = (ROOT / "README.md").read_text()
    assert readme_table(table) in readme
    rows = read_rows(EVIDENCE)
    words = rows.loc[(rows["question"] == "describe") & (rows["method"] == "keep_none"), "words"]
    luck = (1 + (words - 1) / len(COLOUR_NAMES)).sum() / words.sum()  # the first word is written before anything is gone
    assert f"would have {luck:.0%}".replace("%", " %") in readme


def test_the_committed_tables_come_from_the_committed_rows():
    rows = read_rows(EVIDENCE)
    words = rows[(rows["question"] == "describe") & rows["score_layer"].isin([0, 3])]
    made = accuracy(words).set_index([*SETTING, "measure"])
    kept = pd.read_csv(EVIDENCE / "accuracy.csv").set_index([*SETTING, "measure"]).loc[made.index]
    assert (made[["mean", "low", "high"]] - kept[["mean", "low", "high"]]).abs().max(axis=None) < 1e-4
    assert rows["seed"].nunique() == 3 and (kept["videos"] == 512).all()
    alone = pd.read_csv(EVIDENCE / "by-seed.csv").set_index(["merge_ratio", "prune_ratio", "seed"])
    assert (by_seed(words) - alone).abs().max(axis=None) < 1e-4


def test_the_shipped_specimens_are_what_their_checksums_say():
    folders = sorted(SPECIMENS.glob("seed-*"))
    assert len(folders) == 3
    for folder in folders:
        record = json.loads((folder / "training.json").read_text())
        assert "model.safetensors" in record["sha256"]
        for name, wanted in record["sha256"].items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == wanted, f"{folder / name} was changed"
    assert sum(path.stat().st_size for path in SPECIMENS.rglob("*")) < 16 * 2**20


def test_the_shipped_accuracy_meets_its_floor():
    table = pd.DataFrame(json.loads((ROOT / "data" / "results" / "specimen-accuracy.json").read_text())["accuracy"])
    whole = table[(table["question"] == "describe") & (table["scenes"] == "all")].set_index("seed")
    assert (whole["videos"] == 512).all() and len(whole) == 3
    assert (whole["words"] >= 0.99).all() and (whole["exact"] >= 0.95).all()
    short = table[(table["question"] == "actor") & (table["scenes"] == "all")]
    assert len(short) == 3 and (short["words"] >= 0.99).all()
