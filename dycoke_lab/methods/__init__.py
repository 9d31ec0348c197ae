"""Selection methods, one registry: DyCoke's parts, one-shot baselines, controls, and an oracle."""

from dycoke_lab.methods.base import Method, Step, check_choice
from dycoke_lab.methods.controls import KeepFirst, KeepNone, Random, Uniform
from dycoke_lab.methods.dynamic import Dynamic
from dycoke_lab.methods.fastv import FastV
from dycoke_lab.methods.first_step import FirstStep
from dycoke_lab.methods.last_query import LastQuery
from dycoke_lab.methods.oracle import Oracle
from dycoke_lab.methods.reference import ReferenceCode

METHODS: dict[str, type[Method]] = {
    "dynamic": Dynamic,
    "first_step": FirstStep,
    "reference_code": ReferenceCode,
    "last_query": LastQuery,
    "fastv": FastV,
    "random": Random,
    "uniform": Uniform,
    "keep_first": KeepFirst,
    "keep_none": KeepNone,
    "oracle": Oracle,
}

BUILT_IN = frozenset(METHODS.values())  # whose choices are tested, and need no check


def method_of(named: str | Method) -> Method:
    """The method of this name, or the one given."""
    return METHODS[named]() if isinstance(named, str) else named


__all__ = [*(cls.__name__ for cls in METHODS.values()), "BUILT_IN", "METHODS", "Method", "Step", "check_choice", "method_of"]
