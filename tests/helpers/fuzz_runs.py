"""How the fuzz runs a case: its inputs, its call under stock and under a composition, and what is left."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from dycoke_lab import METHODS, capture_attention
from dycoke_lab.methods import Compression
from dycoke_lab.runtime import attention_hooks, session
from helpers.families import FAMILIES, SIDE, Family, frames
from helpers.fuzz_cases import Case
from helpers.fuzz_damage import DAMAGE
from helpers.matrix import PLACEHOLDERS
from helpers.vocabulary import ID

OURS = (ValueError, TypeError, RuntimeError, NotImplementedError, FileNotFoundError)


def raised_by_us(error: BaseException) -> bool:
    """Whether an error's words are the library's: the last line that ran is one of its `raise`."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    here = "/dycoke_lab/" in last.filename and (last.line or "").startswith("raise ")
    return here and isinstance(error, OURS)


def pictures(count: int, high: int, wide: int, seed: int, how: str) -> np.ndarray:
    """Frames of any size: moving boxes, one frame again and again, black, or noise."""
    if how == "black":
        return np.zeros((count, high, wide, 3), np.uint8)
    if how == "noise":
        return np.random.default_rng(seed).integers(0, 256, (count, high, wide, 3)).astype(np.uint8)
    moving = frames(1 if how == "still" else count, seed, max(high, wide, SIDE))[:, :high, :wide]
    return np.repeat(moving, count, 0) if how == "still" else moving


def parts_of(case: Case) -> list[list[Any]]:
    """The prompts, with pixels."""
    found = []
    for prompt in case.prompts:
        row: list[Any] = []
        for part in prompt:
            if isinstance(part, str):
                row.append(part)
            elif part[0] == "video":
                row.append(("video", pictures(*part[1:])))
            else:
                row.append(("image", pictures(1, *part[1:], "moving")[0]))
        found.append(row)
    return found


def composed(case: Case) -> Compression | Exception:
    """Compose the methods of a case, or return the error."""
    total = Compression()
    try:
        for name, fields in case.parts:
            total = total + (object() if name == "wrong" else METHODS[name](**fields))  # type: ignore[operator]
    except Exception as error:
        return error
    return total


@dataclass
class Ended:
    """How a call ended: what came back, or the error; the attention that was captured; and whether the
    contexts were entered at all."""

    values: dict[str, Any] = field(default_factory=dict)
    error: BaseException | None = None
    trace: Any = None
    entered: bool = False


@contextmanager
def contexts(case: Case, model: Any, compression: Compression | None) -> Iterator[Any]:
    """Enter the compression, and the captures of a case, and yield a trace."""
    trace = None
    with ExitStack() as stack:
        if compression is not None and case.capture in ("outside", "twice"):
            trace = stack.enter_context(capture_attention(model))
        if compression is not None:
            stack.enter_context(compression(model))
        if compression is not None and case.capture in ("inside", "inside, all heads", "twice"):
            heads = "all" if "heads" in case.capture else "mean"
            trace = stack.enter_context(capture_attention(model, heads))  # type: ignore[arg-type]
        yield trace


def ending(case: Case, family: Family, model: Any, raw: dict[str, Any], under: Compression | None) -> Ended:
    """Run a case's call under a composition, or under stock; never raise."""
    ended = Ended()
    given = {name: value.clone() for name, value in raw.items()}
    if hasattr(model.model, "rope_deltas"):
        model.model.rope_deltas = None  # what the last case left
    try:
        if case.seed % 2:
            damage(case, given, family, model)
        with contexts(case, model, under) as ended.trace:
            ended.entered = True
            if not case.seed % 2:
                damage(case, given, family, model)
            before = {name: value.clone() for name, value in given.items() if isinstance(value, Tensor)}
            torch.manual_seed(case.seed)
            ended.values = answer(case, model, given)
            ended.values["given"] = before
    except Exception as error:
        ended.error = error
    return ended


def damage(case: Case, given: dict[str, Any], family: Family, model: Any) -> None:
    for name in case.damage:
        DAMAGE[name](given, family, model)


def answer(case: Case, model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Make the call of a case, and return what came back."""
    call = case.call
    extra: dict[str, Any] = {} if call.cached else {"use_cache": False}
    extra |= {"output_hidden_states": True} if call.hidden else {}
    extra |= {"output_attentions": True} if call.attentions else {}
    if call.kind == "forward":
        modes = {"no_grad": torch.no_grad, "inference": torch.inference_mode, "grad": nullcontext}
        with modes[call.gradients]():
            out = model(**inputs, **extra, **({"logits_to_keep": call.keep} if call.keep else {}))
        return dict(
            logits=out.logits.detach(),
            hidden=list(out.hidden_states or []),
            attentions=list(out.attentions or []),
            cache=out.past_key_values,
        )
    settings = dict(
        max_new_tokens=call.steps,
        do_sample=call.kind == "sample",
        num_return_sequences=call.answers,
        num_beams=2 if call.kind == "beams" else 1,
        return_dict_in_generate=True,
        output_logits=True,
        output_scores=True,
        **extra,
    )
    if not call.free:
        settings["min_new_tokens"] = call.steps
    if not call.free or not call.cached:  # without a cache, the next call would miss a picture for one
        settings["suppress_tokens"] = [ID[name] for name in PLACEHOLDERS]
    out = model.generate(**inputs, **settings)
    values = dict(
        sequences=out.sequences,
        logits=torch.stack(out.logits, 1),
        hidden=[part for step in out.hidden_states or [] for part in step],
        attentions=[part for step in out.attentions or [] for part in step],
        cache=out.past_key_values,
    )
    if call.kind == "beams":
        values["scores"] = model.compute_transition_scores(out.sequences, out.scores, out.beam_indices)
    if call.kind == "turn":
        numbers = torch.Generator().manual_seed(case.seed)
        more = torch.randint(20, 60, (len(out.sequences), call.more), generator=numbers)
        asked = torch.cat([out.sequences, more], 1)
        mask = torch.ones_like(asked)
        if (given := inputs.get("attention_mask")) is not None and given.ndim == 2:
            mask[:, : given.shape[1]] = given
        turn = dict(input_ids=asked, attention_mask=mask, past_key_values=out.past_key_values)
        second = model.generate(**turn, **settings)
        values |= dict(second=second.sequences, more=torch.stack(second.logits, 1))
    return values


class Left:
    """What must be as it was when a case has ended. Fails otherwise, and says what is not."""

    def __init__(self, model: Any, reference: dict[str, Any]) -> None:
        self.model, self.reference = model, reference
        self.tensors = {name: part.clone() for name, part in _tensors(model).items()}
        self.state = self._state()
        self.logits = self._logits()

    def _logits(self) -> Tensor:
        with torch.no_grad():
            return self.model(**self.reference).logits

    def _state(self) -> dict[str, Any]:
        return {
            "config": copy.deepcopy(self.model.config.to_dict()),
            "generation config": copy.deepcopy(self.model.generation_config.to_dict()),
            "kernel": [part._attn_implementation for part in _configs(self.model)],
            "kernels": dict(ALL_ATTENTION_FUNCTIONS._local_mapping),
            "masks": dict(ALL_MASK_ATTENTION_FUNCTIONS._local_mapping),
            "modes": [(part.training, len(part.__dict__["_modules"])) for part in self.model.modules()],
            "gradients": [(part.requires_grad, part.grad is None) for part in self.model.parameters()],
        }

    def check(self) -> None:
        now = _tensors(self.model)
        assert now.keys() == self.tensors.keys()
        changed = [name for name, part in self.tensors.items() if not torch.equal(now[name], part)]
        assert not changed, f"changed: {changed}"
        for name, value in self._state().items():
            assert value == self.state[name], f"{name}: {value}, was {self.state[name]}"
        hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        left = [
            hook
            for part in self.model.modules()
            for kind in hooks
            for hook in getattr(part, kind).values()
            if "transformers." not in str(getattr(hook, "__module__", ""))  # it leaves some of its own
        ]
        assert not left, f"hooks are left: {left}"
        for name in ("_LAYERS", "_CONFIGS", "_KERNELS"):
            assert not getattr(attention_hooks, name), f"{name} is not empty"
        assert not len(session._ACTIVE)
        assert torch.equal(self._logits(), self.logits), "stock gives other logits than before"


def _configs(model: Any) -> list[Any]:
    found = [part.config for part in model.modules() if hasattr(part, "config")]
    return [config for config in found if hasattr(config, "_attn_implementation")]


def _tensors(model: Any) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


_MODELS: dict[str, Any] = {}


@contextmanager
def lent(case: Case) -> Iterator[tuple[Family, Any, Left]]:
    """Yield a family, its model, and what must be left of it; a model with which a case failed is built
    anew."""
    family = FAMILIES[case.family]
    if case.family not in _MODELS:
        reference = family.inputs(["user\n", ("video", frames(4 * family.paired)), "then?"])
        _MODELS[case.family] = family.model(), reference
    model, reference = _MODELS.pop(case.family)
    model.set_attn_implementation(case.kernel)
    yield family, model, Left(model, reference)
    _MODELS[case.family] = model, reference
