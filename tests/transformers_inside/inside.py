"""Run each call of a model inside a context that compresses nothing, and compare it with stock."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache

from dycoke_lab import DyCoke
from dycoke_lab.models import ADAPTERS
from dycoke_lab.runtime.session import active_session


@contextmanager
def every_call_inside() -> Iterator[list[str]]:
    """Until this ends, `generate` and `__call__` run twice: as they are, then in a context of their own.

    Gives the names of the models that were called inside. AssertionError where the two outputs differ.
    """
    inside: list[str] = []
    stock_runs = False

    def wrapped(call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def twice(model: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal stock_runs
            if stock_runs or not _enters(model):
                return call(model, *args, **kwargs)
            given = _copied(model, (args, kwargs))
            stock_runs = True
            try:
                with torch.random.fork_rng(devices=[]):
                    expected = outcome(lambda: call(model, *given[0], **given[1]))
            finally:
                stock_runs = False
            inside.append(type(model).__name__)
            with DyCoke(merge_ratio=0, prune_ratio=0)(model):
                output = outcome(lambda: call(model, *args, **kwargs))
            assert_equal(output, expected)
            if isinstance(output, Exception):
                raise output
            return output

        return twice

    generate = GenerationMixin.generate
    GenerationMixin.generate = wrapped(generate)  # type: ignore[method-assign]
    PreTrainedModel.__call__ = wrapped(nn.Module.__call__)  # type: ignore[method-assign]
    try:
        yield inside
    finally:
        GenerationMixin.generate = generate  # type: ignore[method-assign]
        del PreTrainedModel.__call__


def outcome(call: Callable[[], Any]) -> Any:
    """Return what a call returns, or the exception that it raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return call()
        except Exception as error:
            return error


def assert_equal(ours: Any, stock: Any) -> None:
    """Check that all tensors are equal, bit for bit, or that both raise the same."""
    assert type(ours) is type(stock), f"{ours!r:.300}, and stock: {stock!r:.300}"
    if isinstance(stock, Exception):
        assert str(ours) == str(stock)
    one, two = _tensors(ours), _tensors(stock)
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def _enters(model: Any) -> bool:
    """Whether this is a whole model of a supported family, outside a context."""
    supported = model.config.model_type in ADAPTERS and hasattr(model, "model")
    return supported and not active_session(model) and not torch.compiler.is_compiling()


def _copied(model: Any, given: Any) -> Any:
    """Return a copy of a call's arguments; the model itself, and its parameters, are not copied."""
    same: dict[int, Any] = {id(part): part for part in (model, *model.parameters())}
    for tensor in _tensors(given):
        if not tensor.is_leaf:
            same[id(tensor)] = tensor.detach().clone().requires_grad_()
    return copy.deepcopy(given, same)


def _tensors(value: Any) -> list[Tensor]:
    """Return all tensors in an output, in their order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Cache):
        parts = [part for layer in value.layers for part in (layer.keys, layer.values)]
    elif isinstance(value, dict):
        parts = list(value.values())
    else:
        parts = list(value) if isinstance(value, (list, tuple)) else []
    return [tensor for part in parts for tensor in _tensors(part)]
