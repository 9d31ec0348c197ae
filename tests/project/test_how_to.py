"""What pages tell is followed, word for word: how a family is added, and the README's example."""

from __future__ import annotations

import re
import sys

import pytest
from test_methods import CASES, compare_with_the_oracle

from dycoke_lab import DyCoke
from dycoke_lab.methods import METHODS
from dycoke_lab.models import ADAPTERS, HOW_TO
from dycoke_lab.provenance import ROOT


def test_the_how_to_adds_a_family(tmp_path, monkeypatch):
    page = (ROOT / HOW_TO).read_text()
    assert len(page.splitlines()) < 60
    adapter, registration, family = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    name = re.search(r"`(\w+\.py)` in this folder", page).group(1)
    (tmp_path / name).write_text(adapter)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("dycoke_lab.models.ADAPTERS", dict(ADAPTERS))
    spaces: dict = {}
    exec(family, spaces)
    family = spaces["family"]
    model = family.model()
    with pytest.raises(TypeError, match="has no adapter here"), DyCoke()(model):
        pass
    exec(registration, {})
    try:
        from families import frames

        prompts = [["user\n", ("video", frames(count * family.paired, count)), "then?"] for count in (6, 4)]
        for settings in CASES:
            compare_with_the_oracle(family, model, prompts, "dynamic", **settings)
    finally:
        sys.modules.pop(name.removesuffix(".py"))


def test_the_readmes_examples_run(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(ROOT)
    example, own = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    space: dict = {}
    exec(example, space)
    words = space["processor"].batch_decode(space["answer"][:, space["inputs"]["input_ids"].shape[1] :], skip_special_tokens=True)
    assert len(words[0].split()) > 12
    (named,) = re.findall(r"trace.to_frame\(\)  # (.*)", example)
    assert set(named.split(", ")) == set(space["frame"].columns)
    assert words[0] in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    try:
        exec(own, {"__name__": "__main__"})
    finally:
        METHODS.pop("least_attended", None)
    assert "least_attended" in capsys.readouterr().out and (tmp_path / "runs" / "least-attended" / "rows.csv").exists()
