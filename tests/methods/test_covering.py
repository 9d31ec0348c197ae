"""`make test` tries each published method on two families, and six methods on each family."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from helpers.covering import can_run
from helpers.families import FAMILIES
from methods import (
    test_oracle_matrix,
    test_published_cache,
    test_published_mergers,
    test_published_reducers_in_generation,
    test_published_segments,
)

from dycoke_lab.methods import METHODS, PUBLISHED
from dycoke_lab.results.folders import ROOT

FILES = (
    test_oracle_matrix,
    test_published_cache,
    test_published_mergers,
    test_published_reducers_in_generation,
    test_published_segments,
)
NAMES = {kind: name for name, kind in METHODS.items()}
ALL = {(family, name) for family in FAMILIES for name in METHODS if can_run(family, METHODS[name])}


def tried_by(target):
    """The pairs of family and method that a target of the Makefile compares with the mask."""
    wanted = re.search(rf'^{target}:.*\n\t.* -m "(.*)"$', (ROOT / "Makefile").read_text(), re.M)[1]
    left_out, pairs = set(re.findall(r"not (\w+)", wanted)), set()
    for file in FILES:
        for mark in file.test_generation_equals_a_mask_on_the_unmodified_model.pytestmark:
            for one in mark.args[1] if mark.args[0][0] == "family" else []:
                family, method, *_ = one.values
                if left_out.isdisjoint(each.name for each in one.marks):
                    kind = method if isinstance(method, type) else type(method)
                    pairs.add((family, method if isinstance(method, str) else NAMES[kind]))
    return pairs & ALL


def not_covered(pairs):
    """Name the methods on fewer than two families, and the families with fewer than six methods."""
    families, methods = Counter(name for _, name in pairs), Counter(family for family, _ in pairs)
    few = [name for name in PUBLISHED if families[name] < 2]
    return few + [family for family in FAMILIES if methods[family] < 6]


def test_make_test_tries_each_method_on_two_families_and_six_methods_on_each():
    assert not not_covered(tried_by("test"))


def test_make_test_all_tries_each_method_on_each_family():
    published = {(family, name) for family, name in ALL if name in PUBLISHED}
    assert published <= tried_by("test-all") and not published <= tried_by("test")


@pytest.mark.parametrize("lost", ["quest", "gemma3"])
def test_what_is_not_covered_is_named(lost):
    assert lost in not_covered({pair for pair in tried_by("test") if lost not in pair})
