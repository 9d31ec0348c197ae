"""The page that tells how a family is added is followed, word for word."""

from __future__ import annotations

import re
import sys

import pytest
from test_methods import CASES, compare_with_the_oracle

from dycoke_lab import DyCoke
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
