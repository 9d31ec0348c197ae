"""Whether a case of the fuzz ended right: by stock, by a mask on the unmodified model, or by shapes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from dycoke_lab.methods import Compression
from helpers.families import SIDE, Family, decoder_of
from helpers.fuzz_cases import BY_IMAGES, NOTHING, Case
from helpers.fuzz_runs import Ended, composed, ending, lent, parts_of, raised_by_us
from helpers.matrix import compare_attention, run_the_oracle
from helpers.vocabulary import ID

MOST = 40 * 16  # visual tokens of a prompt, for the oracle, which is slow
HARMLESS = {"mask as bools", "mask as floats", "a cache, empty", "ids in 32 bits", "features"}


def check(case: Case) -> str:
    """Run a case, and fail if it does not end as it must. Return how it ended."""
    with lent(case) as (family, model, left):
        compression = composed(case)
        if isinstance(compression, Exception):
            assert raised_by_us(compression), f"composing: {compression!r}"
            return "refused by us: when composed"
        try:
            prompts = parts_of(case)
            raw = family.inputs(*prompts)
        except Exception:
            return "no inputs: transformers' processor refuses"
        stock = ending(case, family, model, raw, None)
        found = ending(case, family, model, raw, compression)
        left.check()
        return judged(case, family, model, compression, prompts, stock, found)


def judged(
    case: Case,
    family: Family,
    model: Any,
    compression: Compression,
    prompts: list[list[Any]],
    stock: Ended,
    found: Ended,
) -> str:
    same, compression = changes_nothing(case, family, compression), compression.on
    if found.error is not None:
        alike = type(found.error) is type(stock.error)
        if not alike:
            assert raised_by_us(found.error), f"{found.error!r}; stock: {stock.error!r}"
            refusable = not same or case.capture or not (found.entered or compression.off)
            assert refusable, f"nothing is to be compressed, and yet: {found.error!r}"
        return "the same error as stock" if alike else "refused by us: in the call"
    assert stock.error is None, f"stock refuses what we take: {stock.error!r}"
    for name, value in found.values["given"].items():
        torch.testing.assert_close(value, stock.values["given"][name], rtol=0, atol=0, equal_nan=True)
    layers = getattr(found.values["cache"], "layers", [])
    assert all(type(layer).__module__.startswith("transformers.") for layer in layers)
    compare_shapes(case, compression, stock, found)
    if same:
        identical(stock.values, found.values)
        return "bit-identical to stock"
    if compression.merger is None and compression.reducer is None:
        if case.call.kind == "forward":
            identical(stock.values, found.values)
            return "bit-identical to stock"
        first = [ended.values["logits"][:, 0] for ended in (stock, found)]
        torch.testing.assert_close(*first, rtol=0, atol=0, equal_nan=True)
    if the_oracle_can(case, family, compression):
        compare_with_a_mask(case, family, model, compression, prompts, found)
        return "right by the masked oracle"
    if leaves_all(case, compression):
        close(case, stock.values, found.values)
        return "close to stock, where no token goes"
    return "right by shapes and finite values"


def changes_nothing(case: Case, family: Family, compression: Compression) -> bool:
    """Whether the call must be stock's, bit for bit: all is off, or there is no video."""
    if compression.off:
        return True
    if case.damage or odd_text(case, family):
        return False
    shown = [[part for part in prompt if not isinstance(part, str)] for prompt in case.prompts]
    if case.family in BY_IMAGES:  # two pictures may be a video
        return all(sum(part[1] if part[0] == "video" else 1 for part in prompt) < 2 for prompt in shown)
    return not any(part[0] == "video" for prompt in shown for part in prompt)


def odd_text(case: Case, family: Family) -> bool:
    words = (family.video, family.image, family.placeholder, "\0")
    texts = [part for prompt in case.prompts for part in prompt if isinstance(part, str)]
    return any(word in text for word in words for text in texts)


def leaves_all(case: Case, compression: Compression) -> bool:
    """Whether no token can go, though methods are at work, and inputs are plain ones."""
    ratios = [
        part.merge_ratio if part is compression.merger else part.prune_ratio  # type: ignore[attr-defined]
        for part in compression.parts
    ]
    if (
        compression.merger is not None
        and compression.merger.positions == "repacked"
        and "qwen" in case.family
    ):
        return False  # whose places in time and space are then numbered anew
    small = all(ratio is not None and ratio <= NOTHING for ratio in ratios)
    plain = not case.damage and case.kernel == "sdpa" and not case.call.free
    return small and plain and "keep_none" not in [name for name, _ in case.parts]


def the_oracle_can(case: Case, family: Family, compression: Compression) -> bool:
    """Whether a mask on the unmodified model says what must come."""
    if set(case.damage) - HARMLESS or odd_text(case, family) or case.call.free:
        return False
    if case.kernel == "eager" and len(case.prompts) > 1:
        return False  # stock's eager attention gives NaN in padded rows, in float64
    names = [name for name, _ in case.parts]
    if "random" in names and case.call.kind == "beams":
        return False  # each beam has a choice of its own, and they are exchanged
    if case.call.kind == "turn" and not case.call.cached:
        return False  # the second turn has no video then
    shown = [[part for part in prompt if not isinstance(part, str)] for prompt in case.prompts]
    kinds = {part[0] for prompt in shown for part in prompt}
    if "video" not in kinds or (len(kinds) > 1 and not family.both):
        return False
    for prompt in case.prompts:
        for one, other in pairwise(prompt):
            if not isinstance(one, str) and not (isinstance(other, str) and other.strip()):
                return False  # two in a row may be one
        visual = 0
        for part in prompt:
            if isinstance(part, str):
                continue
            if part[0] == "image":
                if family.image_is_a_frame and part[1:3] != (SIDE, SIDE):
                    return False  # may be cut into tiles
                continue
            _, count, high, wide, _, how = part
            least = 2 if case.family in BY_IMAGES else 1
            if how not in ("moving", "noise") or count % family.paired or count < least * family.paired:
                return False  # frames that are alike have scores that are equal but for rounding
            if (high, wide) == (1, 1):
                return False
            visual += 16 * count // family.paired
        if visual > MOST:
            return False
    return True


def compare_with_a_mask(
    case: Case,
    family: Family,
    model: Any,
    compression: Compression,
    prompts: list[list[Any]],
    found: Ended,
) -> None:
    call, values = case.call, found.values
    many = [parts for parts in prompts for _ in range(call.answers)]
    inputs = family.inputs(*many)
    prompt = inputs["input_ids"].shape[1]
    steps: list[int] | None = None
    if call.kind == "forward":
        sequences, steps = torch.cat([inputs["input_ids"], inputs["input_ids"][:, :1]], 1), [0]
    elif call.kind == "turn":
        sequences = values["second"]
        steps = [*[1] * (call.steps - 1), 1 + call.more, *[1] * (call.steps - 1)]
    else:
        sequences = values["sequences"]
    videos = [part for parts in many for part in parts if not isinstance(part, str) and part[0] == "video"]
    shown = [len(frames) // family.paired for _, frames in videos]
    tokens = int((inputs["input_ids"] == ID[family.placeholder]).sum()) - family.ending * len(shown)
    per = 16 if family.image_is_a_frame else tokens // sum(shown)
    oracle = run_the_oracle(family, model, many, inputs, compression, sequences, steps, per=per)
    if call.kind == "beams":
        written = sequences[:, prompt:, None]
        scores = oracle.logits.log_softmax(-1).gather(2, written)[..., 0]
        torch.testing.assert_close(values["scores"].double(), scores, atol=1e-4, rtol=0)
        return
    logits = values["logits"][:, -1:] if call.kind == "forward" else values["logits"]
    if call.kind == "turn":
        logits = torch.cat([logits, values["more"]], 1)
    torch.testing.assert_close(logits.double(), oracle.logits, atol=2e-5, rtol=0)
    if found.trace is not None and call.cached and call.kind in ("greedy", "sample", "turn"):
        compare_attention(found.trace, oracle, len(decoder_of(model).layers), 2e-5)


def identical(stock: dict[str, Any], found: dict[str, Any]) -> None:
    for name in stock.keys() - {"cache", "given"}:
        pairs = zip(_list(stock[name]), _list(found[name]), strict=True)
        for one, other in pairs:
            torch.testing.assert_close(other, one, rtol=0, atol=0, equal_nan=True, msg=f"{name} differs")


def close(case: Case, stock: dict[str, Any], found: dict[str, Any]) -> None:
    for name in {"sequences", "second"} & stock.keys():
        assert torch.equal(stock[name], found[name])
    logits = [values["logits"] for values in (stock, found)]
    if case.call.kind == "forward":  # before are rows of padding
        logits = [part[:, -1] for part in logits]
    torch.testing.assert_close(*logits, rtol=0, atol=2e-5)


def compare_shapes(case: Case, compression: Compression, stock: Ended, found: Ended) -> None:
    """Sizes are stock's, but for columns that are gone; and what is finite in stock's row is finite."""
    ours, theirs = found.values, stock.values
    shortens = compression.merger is not None or compression.reducer is not None
    assert ours.keys() == theirs.keys()
    for name in ("sequences", "second"):
        if name in ours:
            assert ours[name].dtype == theirs[name].dtype and len(ours[name]) == len(theirs[name])
    if "sequences" in ours:
        prompt = ours["given"].get("input_ids")
        if prompt is not None and prompt.ndim == 2:
            one, other = (values["sequences"][:, : prompt.shape[1]] for values in (ours, theirs))
            assert torch.equal(one, other)
    for name in ("hidden", "attentions"):
        assert len(ours[name]) == len(theirs[name]) or "sequences" in ours
    one, other = ours["logits"], theirs["logits"]
    assert one.dtype == other.dtype and (len(one), one.shape[-1]) == (len(other), other.shape[-1])
    if case.call.kind == "forward":
        assert one.shape[1] <= other.shape[1] if shortens else one.shape == other.shape
        one, other = one[:, -1:], other[:, -1:]
    if case.kernel == "eager" and len(case.prompts) > 1:
        return  # stock's eager attention gives NaN in padded rows, in float64
    for row, expected in zip(one, other, strict=True):
        if torch.isfinite(expected).all():
            assert torch.isfinite(row).all()


def _list(value: Tensor | list[Tensor]) -> list[Tensor]:
    return value if isinstance(value, list) else [value]
