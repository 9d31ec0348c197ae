"""What several tests share: generation of known length, prompts, compressions to try, and the comparison with
a mask on the unmodified model."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch
from torch import Tensor

from dycoke_lab import METHODS, TTM, DyCoke, capture_attention
from dycoke_lab.methods import Dynamic as DynamicPruning
from dycoke_lab.methods import LastQuery
from helpers.families import FAMILIES, Family, decoder_of, frames
from helpers.masked_model import MaskedModel, places_of
from helpers.oracles import Slow, Video
from helpers.slow_methods import slow_version
from helpers.vocabulary import ID

STEPS = 6
WORDS = (
    "You are provided the following series of frames then compare Here is what happens first then compare "
    "with the question"
)
FEW = ("llava_onevision", "qwen3_vl", "gemma3")  # that differ most; `make test` tries the others, too
FEW_BEFORE_ALL = [pytest.param(name, marks=[] if name in FEW else pytest.mark.slow) for name in FAMILIES]
PLACEHOLDERS = ("<image>", "<video>", "<|image_pad|>", "<|video_pad|>", "<IMG_CONTEXT>", "<image_soft_token>")


@dataclass(frozen=True)
class Case:
    """Settings in which every selector, and FastV, is tried."""

    merger: TTM | None
    prune_ratio: float
    from_layer: int
    reselect_below: float = 0.9  # of the methods that have it

    def compression(self, method: str, future: Tensor | None = None, **changes: Any) -> Any:
        """This case with a method by its registered name. future: what hindsight knows."""
        settings = dict(
            prune_ratio=self.prune_ratio,
            from_layer=self.from_layer,
            reselect_below=self.reselect_below,
            future=future,
        )
        settings |= changes
        kind = METHODS[method]
        method = kind(
            **{field.name: settings[field.name] for field in fields(kind) if field.name in settings}
        )
        return method if self.merger is None else self.merger + method


CASES = [
    Case(None, 0.7, from_layer=2),
    Case(TTM(0.7), 0.5, from_layer=1, reselect_below=0.97),
    Case(TTM(0.5), 0.9, from_layer=3, reselect_below=2.0),
    Case(TTM(0.3, positions="repacked"), 0.6, from_layer=2, reselect_below=-1.0),
    Case(TTM(threshold=0.9), 0.7, from_layer=2),
]
SETTINGS = [
    DyCoke(merge_ratio=0.5, prune_ratio=0.6, from_layer=2, reselect_below=0.97),
    TTM(0.5),
    TTM(threshold=0.9) + DynamicPruning(0.5, from_layer=2, reselect_below=2.0),
    TTM(0.3, positions="repacked") + LastQuery(0.5, from_layer=2),
]


def generate(
    model: Any, inputs: dict[str, Any], steps: int = STEPS, **settings: Any
) -> tuple[Tensor, Tensor, Any]:
    """Return the sequences, the logits of each step, and the cache of a generation of so many steps."""
    out = model.generate(
        suppress_tokens=[ID[token] for token in PLACEHOLDERS],  # a random model might write them
        **inputs,
        **{"max_new_tokens": steps, "min_new_tokens": steps, "do_sample": False, **settings},
        return_dict_in_generate=True,
        output_logits=True,
    )
    return out.sequences, torch.stack(out.logits, 1), out.past_key_values


def longer(inputs: dict[str, Any], sequences: Tensor) -> dict[str, Any]:
    """Return a call's inputs with what was written after the prompt."""
    more = sequences.shape[1] - inputs["input_ids"].shape[1]
    changes = {"input_ids": sequences}
    for name, value in (("attention_mask", 1), ("mm_token_type_ids", 0), ("token_type_ids", 0)):
        if name in inputs:
            changes[name] = torch.nn.functional.pad(inputs[name], (0, more), value=value)
    return {**inputs, **changes}


def turn_of(sequences: Tensor) -> dict[str, Tensor]:
    """Return the inputs of a later turn: all tokens so far, none of them padding."""
    return {"input_ids": sequences, "attention_mask": torch.ones_like(sequences)}


def together(family: Family, singles: list[dict[str, Any]]) -> dict[str, Any]:
    """Join the inputs of several prompts to one left-padded batch, as a processor would."""
    length = max(single["input_ids"].shape[1] for single in singles)
    joined = {}
    for name in singles[0]:
        values = [single[name] for single in singles]
        if name in ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"):
            values = [torch.nn.functional.pad(v, (length - v.shape[1], 0)) for v in values]
        elif family.name == "smolvlm":  # its pictures are padded to the longest prompt's
            most = max(v.shape[1] for v in values)
            values = [
                torch.nn.functional.pad(v, (0,) * (2 * v.ndim - 4) + (0, most - v.shape[1])) for v in values
            ]
        joined[name] = torch.cat(values)
    return joined


def mixed_prompts(family: Family) -> list[list[Any]]:
    """Three prompts of different lengths, with videos of different lengths, or, where all videos of a batch
    have one length, another number of them."""
    one, two, three = (
        frames(count * family.paired, seed) for count, seed in ((6, 1), (6 if family.equal else 3, 2), (6, 5))
    )
    if family.equal:
        return [
            ["user\n", ("video", one), "then?"],
            ["Here is ", ("video", two), WORDS, ("video", three), "what?"],
            ["question ", ("video", three), "what is first?"],
        ]
    longest = frames(9 * family.paired, 4)
    return [
        ["user\n", ("video", one), "then?"],
        ["Here is ", ("video", two), "what happens first?"],
        ["You ", ("video", longest), WORDS],
    ]


def visual_columns(family: Family, parts: list[Any], row: Tensor, per: int = 16) -> list[tuple[int, Tensor]]:
    """Find a prompt's videos, from what went into it: the number of frames of each, and their columns. per:
    tokens of a frame."""
    at, videos = (row == ID[family.placeholder]).nonzero()[:, 0], []
    for kind, pixels in (part for part in parts if not isinstance(part, str)):
        if kind == "video":
            count = len(pixels) // family.paired
            videos.append((count, at[: count * per]))
            at = at[count * per + family.ending :]
        elif family.image_is_a_frame:
            at = at[16:]
    assert not len(at)
    return videos


def positions_for(model: Any, inputs: dict[str, Any]) -> Tensor:
    """Return the position ids that `generate` gives, (batch, length) or (3, batch, length)."""
    if hasattr(model.model, "get_rope_index"):
        wanted = (
            "input_ids", "mm_token_type_ids", "image_grid_thw", "video_grid_thw", "second_per_grid_ts",
            "attention_mask",
        )  # fmt: skip
        return model.model.get_rope_index(**{name: inputs[name] for name in wanted if name in inputs})[0]
    return (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)


def compare_with_the_oracle(
    family: Family,
    model: Any,
    prompts: list[list[Any]],
    compression: Any,
    slow: Slow | None = None,
    attention: str = "sdpa",
    more: Tensor | None = None,
) -> list[Tensor]:
    """Compare logits, what is attended to, and how much, with a mask on the unmodified model. Return for each
    batch element which visual tokens were merged away.

    slow: what to equal, if not the loops of registered methods. more: (batch, length) tokens of a second
    turn, on the same cache.
    """
    inputs = family.inputs(*prompts)
    ids, decoder = inputs["input_ids"], decoder_of(model)
    model.set_attn_implementation(attention)
    with compression(model), capture_attention(model) as trace:
        sequences, logits, cache = generate(model, inputs, STEPS if more is None else 3)
        steps = None
        if more is not None:
            turn = turn_of(torch.cat([sequences, more], 1))
            turn["attention_mask"][:, : ids.shape[1]] = inputs["attention_mask"]
            sequences, second, _ = generate(model, turn, 3, past_key_values=cache)
            logits, steps = torch.cat([logits, second], 1), [1, 1, 1 + more.shape[1], 1, 1]

    found = run_the_oracle(family, model, prompts, inputs, compression, sequences, steps, slow)
    torch.testing.assert_close(logits, found.logits.float(), atol=2e-5, rtol=0)
    assert len(trace) == STEPS
    rounding = 1e-5 if attention == "sdpa" else 2e-5  # eager takes its softmax in float32, in float64 too
    compare_attention(trace, found, len(decoder.layers), rounding)
    return found.gone


@dataclass(frozen=True)
class Found:
    """What the oracle gives: the logits after each call, and of each batch element the columns of its visual
    tokens, and which of them were merged away."""

    oracle: MaskedModel
    logits: Tensor
    columns: list[Tensor]
    gone: list[Tensor]


def run_the_oracle(
    family: Family,
    model: Any,
    prompts: list[list[Any]],
    inputs: dict[str, Any],
    compression: Any,
    sequences: Tensor,
    steps: list[int] | None = None,
    slow: Slow | None = None,
    per: int = 16,
) -> Found:
    """Run the unmodified model with a mask on prompts and what was written after them.

    sequences: as generation returns them: the last token is read no more. steps: how many tokens each call
    after the prompt's read; None: one. per: tokens of a frame.
    """
    decoder, nothing = decoder_of(model), torch.empty(0, dtype=torch.long)
    rows = zip(prompts, inputs["input_ids"], strict=True)
    videos = [visual_columns(family, parts, row, per) for parts, row in rows]
    columns = [torch.cat([nothing, *(where for _, where in sample)]) for sample in videos]
    slow = slow or slow_version(compression, len(columns), max(map(len, columns)))
    whole = longer(inputs, sequences[:, :-1])
    into, features = _merged(model, decoder, whole, videos, slow, inputs["attention_mask"])
    gone = [torch.tensor([end != token for token, end in enumerate(row)]) for row in into]
    positions = positions_for(model, whole)
    if slow.repacked:
        stays = whole["attention_mask"].bool()
        for b, row in enumerate(columns):
            stays[b, row[gone[b].bool()]] = False
        positions = (stays.cumsum(1) - 1).clamp(min=0).expand_as(positions)
    oracle = MaskedModel(
        model, decoder, columns, into, features, inputs["attention_mask"], slow, _blocks(inputs), steps,
        [places_of(sample) for sample in videos],
    )  # fmt: skip
    return Found(oracle, oracle.logits(**whole, position_ids=positions), columns, gone)


def compare_attention(trace: Any, found: Found, layers: int, rounding: float) -> None:
    """Compare what was captured with what the oracle attends to."""
    for layer in range(layers):
        for b, columns in enumerate(found.columns):
            want = found.oracle.attention[layer][b][:, columns].float()
            torch.testing.assert_close(trace.stack(layer, b).float(), want, atol=rounding, rtol=0)
            assert torch.equal(trace.kept(layer, b), found.oracle.visible[layer][b][:, columns])


def _merged(
    model: Any, decoder: Any, whole: dict[str, Any], videos: Any, slow: Slow, padding: Tensor
) -> tuple[list[list[int]], list[Tensor]]:
    """For each batch element what its visual tokens are merged into, and their new features, if they get
    some, by the unmodified model's embeddings."""
    given = []

    def stop(module: Any, args: Any, inputs: dict[str, Any]) -> None:
        given.append(inputs["inputs_embeds"])
        raise StopIteration  # the decoder need not run

    hook = decoder.register_forward_pre_hook(stop, with_kwargs=True)
    with torch.no_grad(), suppress(StopIteration):
        model(**whole, use_cache=False)
    hook.remove()
    numbers, into, features = iter(range(99)), [], []
    for b, sample in enumerate(videos):
        text = padding[b].bool()
        for _, where in sample:
            text[where] = False
        row: list[int] = []
        for count, where in sample:
            start, ends = len(row), list(range(len(where)))
            grid = given[0][b, where].unflatten(0, (count, 4 if len(where) == count * 16 else 1, -1))
            video = Video(grid, next(numbers), given[0][b, : len(text)][text])
            if slow.merge is not None:
                ends = slow.merge(video)
            if slow.features is not None:
                features.append(slow.features(video))
            row += [-1 if end == -1 else start + end for end in ends]
        into.append(row)
    return into, features


def _blocks(inputs: dict[str, Any]) -> Tensor | None:
    """Number the images whose tokens see each other (Gemma 3)."""
    if "token_type_ids" not in inputs:
        return None
    image = inputs["token_type_ids"] == 1
    starts = image & ~torch.nn.functional.pad(image, (1, 0))[:, :-1]
    return starts.cumsum(1) * image
