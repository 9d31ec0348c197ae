"""What pages tell is followed to the letter: how a family is added, the examples."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
from helpers.families import frames
from helpers.matrix import CASES, compare_with_the_oracle

from dycoke_lab import DyCoke
from dycoke_lab.models import ADAPTERS, HOW_TO
from dycoke_lab.results.folders import ROOT


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def test_add_a_model_family_adds_one(tmp_path, monkeypatch):
    page = (ROOT / HOW_TO).read_text()
    assert len(page.splitlines()) < 80
    adapter, registration, family = blocks(HOW_TO)
    name = re.search(r"`(\w+\.py)` in `dycoke_lab/models/`", page).group(1)
    assert len(adapter.splitlines()) < 20
    (tmp_path / name).write_text(adapter)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("dycoke_lab.models.ADAPTERS", dict(ADAPTERS))
    spaces: dict[str, Any] = {}
    exec(family, spaces)
    family = spaces["family"]
    model = family.model()
    with pytest.raises(TypeError, match="has no adapter here"), DyCoke()(model):
        pass
    exec(registration, {})
    try:
        prompts = [["user\n", ("video", frames(n * family.paired, n)), "then?"] for n in (6, 4)]
        for case in CASES:
            compare_with_the_oracle(family, model, prompts, case.compression("dynamic"))
    finally:
        sys.modules.pop(name.removesuffix(".py"))


def test_the_readmes_example_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (example,) = blocks("README.md")
    assert len([line for line in example.splitlines() if line and "import" not in line]) <= 8
    space: dict[str, Any] = {}
    exec(example, space)
    written = space["answer"][:, space["inputs"]["input_ids"].shape[1] :]
    words = space["processor"].batch_decode(written, skip_special_tokens=True)
    assert len(words[0].split()) > 12
    (named,) = re.findall(r"trace.to_frame\(\)  # (.*)", example)
    assert set(named.split(", ")) == set(space["frame"].columns)
    assert words[0] in capsys.readouterr().out


@pytest.mark.slow
def test_the_how_tos_grid_runs(monkeypatch, tmp_path, capsys):
    (example,) = [block for block in blocks("docs/how-to.md") if "Block" not in block]
    monkeypatch.chdir(tmp_path)
    exec(example, {"__name__": "__main__"})
    assert "last_query" in capsys.readouterr().out


def test_the_how_tos_block_changes_words(monkeypatch):
    monkeypatch.chdir(ROOT)
    (example,) = [block for block in blocks("docs/how-to.md") if "Block" in block]
    space: dict[str, Any] = {}
    exec(blocks("README.md")[0], space)
    whole = space["model"].generate(**space["inputs"])
    exec(example, space)
    assert (space["without"] != whole).any()


def test_the_methods_page_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (example,) = blocks("docs/methods.md")
    space: dict[str, Any] = {}
    exec(blocks("README.md")[0], space)
    exec(example, space)
    assert "merger" in capsys.readouterr().out


def test_the_readme_is_one_screen():
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 90 and len(readme.split()) <= 700
