"""Provenance: command, commit and versions, also where something is missing."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import pytest

from dycoke_lab.results import provenance as module
from dycoke_lab.results.provenance import PACKAGE, provenance


def test_provenance_works_without_a_package(monkeypatch):
    def without_av(name):
        if name == "av":
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(module, "version", without_av)
    packages = provenance()["packages"]
    assert packages["av"] == "not installed" and packages["torch"] == "1.0"


@pytest.mark.parametrize("program", ["/somewhere/bin/dycoke-lab", str(PACKAGE / "__main__.py")])
def test_provenance_gives_the_command_to_repeat(monkeypatch, program):
    monkeypatch.setattr(sys, "argv", [program, "run", "a clip.mp4", "what?"])
    assert provenance()["command"] == "dycoke-lab run 'a clip.mp4' 'what?'"
    monkeypatch.setattr(sys, "argv", ["/somewhere/ipykernel_launcher.py", "-f", "connection.json"])
    assert provenance()["command"] == "ipykernel_launcher.py"


def test_commit_without_git_and_of_a_wheel(monkeypatch):
    def no_git(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", no_git)
    monkeypatch.setattr(module, "IN_CHECKOUT", True)
    monkeypatch.setenv("DYCOKE_LAB_COMMIT", "abc")
    assert provenance()["commit"] == "abc"
    monkeypatch.delenv("DYCOKE_LAB_COMMIT")
    assert provenance()["commit"] == "unknown"
    monkeypatch.setattr(module, "IN_CHECKOUT", False)
    assert provenance()["commit"].startswith("dycoke_lab ")
