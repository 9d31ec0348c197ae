"""What changes where visual tokens are hidden: by scene, by word, by layer, by head.

Blocks act in prompt and answer (`attention.blocking`). "Changed" is against the same model's own answer with
everything in sight, so that no labels are needed; labels only say which words name which tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import product
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from dycoke_lab.attention.blocking import Block
from dycoke_lab.attention.capture import capture_attention
from dycoke_lab.attention.trace import Trace
from dycoke_lab.evaluation.grids import answer_task
from dycoke_lab.models import decoder_of
from dycoke_lab.specimen.tasks import Task
from dycoke_lab.specimen.world import Videos


def part_of(task: Task, samples: Sequence[int]) -> Task:
    """Return the task with these videos only."""
    index = list(samples)
    videos = task.videos
    fields = (videos.pixels, videos.label, videos.scene, videos.actor, videos.motion)
    chosen = Videos(*(field[index] for field in fields))
    tensors = {name: getattr(task, name)[index] for name in ("ids", "answer", "scene", "actor")}
    return replace(task, videos=chosen, **tensors)


def answers(model: Any, task: Task, blocks: Sequence[Block | None]) -> Tensor:
    """Return what the model writes, (videos, words), each video under a block of its own; None hides nothing.
    Videos that have equal blocks are one batch."""
    groups: dict[Block | None, list[int]] = {}
    for sample, block in enumerate(blocks):
        groups.setdefault(block, []).append(sample)
    found = torch.empty_like(task.answer)
    for block, samples in groups.items():
        with ExitStack() as stack:
            if block is not None:
                stack.enter_context(block(model))
            found[samples] = answer_task(model, part_of(task, samples))
    return found


def frames_of(task: Task, sample: int, scene: int) -> tuple[int, ...]:
    """Return the frames of one scene of a video."""
    return tuple((task.videos.scene[sample] == scene).nonzero()[:, 0].tolist())


def scene_losses(model: Any, task: Task, *from_layers: int) -> pd.DataFrame:
    """Hide each scene's frames from each of these layers on, and decode again. Return columns from_layer,
    hidden, words_of (both count scenes from 1), and changed: the share of these words that come out
    otherwise."""
    count, scenes = len(task.ids), task.videos.scenes
    whole = answers(model, task, [None] * count)
    rows = []
    for from_layer, hidden in product(from_layers, range(scenes)):
        blocks = [Block(frames=frames_of(task, n, hidden), from_layer=from_layer) for n in range(count)]
        changed = answers(model, task, blocks) != whole
        for words in range(scenes):
            share = float(changed[task.scene == words].float().mean())
            about = {"from_layer": from_layer, "hidden": hidden + 1, "words_of": words + 1}
            rows.append({**about, "changed": share})
    return pd.DataFrame(rows)


def layer_losses(model: Any, task: Task) -> pd.DataFrame:
    """Hide the whole video from each layer on, and decode again. Return columns from_layer (0 to the number
    of layers, where nothing is hidden) and changed: the share of the words that name something."""
    names = task.scene >= 0
    whole = answer_task(model, task)
    rows = []
    for layer in range(len(decoder_of(model).layers)):
        with Block(from_layer=layer)(model):
            changed = answer_task(model, task) != whole
        rows.append({"from_layer": layer, "changed": float(changed[names].float().mean())})
    return pd.DataFrame([*rows, {"from_layer": len(rows), "changed": 0.0}])


def aim_of(attention: Tensor, named: Tensor) -> Tensor:
    """Return the share of the attention within the video, (..., visual), that falls on the tokens named."""
    within = attention / attention.sum(-1, keepdim=True).clamp(min=1e-12)
    return (within * named).sum(-1)


def head_aims(trace: Trace, task: Task) -> Tensor:
    """Return the aim of each head, (layers, heads), mean over a task's videos and the words that name
    something. The trace has every head."""
    steps = (task.scene[0] >= 0).nonzero()[:, 0]
    attention = torch.stack([trace.attention[step] for step in steps.tolist()])
    named = torch.stack([task.tokens_of(sample)[1] for sample in range(len(task.ids))], 1)[steps]
    return aim_of(attention, named[:, None, None]).mean((0, 3))


def head_losses(model: Any, task: Task, from_layer: int) -> pd.DataFrame:
    """Ask of each head whether it is needed, and whether it is enough. Return columns layer, head, aim, and
    two shares of words that come out otherwise when the answer so far is given: hidden (the video is hidden
    from this head of this layer) and alone (from `from_layer` on, it is hidden from all other heads; NaN in
    layers below)."""
    with capture_attention(model, heads="all") as trace:
        whole = answer_task(model, task)
    aims, names = head_aims(trace, task), task.scene >= 0
    layers, heads = aims.shape

    def changed(blocks: Sequence[Block]) -> float:
        with ExitStack() as stack:
            for block in blocks:
                stack.enter_context(block(model))
            return float((_forced(model, task, whole) != whole)[names].float().mean())

    rows = []
    for layer in range(layers):
        for head in range(heads):
            one = changed([Block(heads=[head], from_layer=layer, layers=1)])
            alone = float("nan")
            if layer >= from_layer:
                alone = changed(_all_but(layer, head, from_layer, layers, heads))
            about = {"layer": layer, "head": head, "aim": float(aims[layer, head])}
            rows.append({**about, "hidden": one, "alone": alone})
    return pd.DataFrame(rows)


def _all_but(layer: int, head: int, from_layer: int, layers: int, heads: int) -> list[Block]:
    """Return blocks that hide the video from `from_layer` on from all heads but one of one layer."""
    blocks = []
    if layer > from_layer:
        blocks.append(Block(from_layer=from_layer, layers=layer - from_layer))
    if others := [other for other in range(heads) if other != head]:
        blocks.append(Block(heads=others, from_layer=layer, layers=1))
    if layer < layers - 1:
        blocks.append(Block(from_layer=layer + 1))
    return blocks


@torch.inference_mode()
def _forced(model: Any, task: Task, answer: Tensor) -> Tensor:
    """Return each step's first choice, (videos, words), when the answer so far is given."""
    ids = torch.cat([task.ids, answer], 1)
    inputs = dict(task.inputs)
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = torch.nn.functional.pad(
            inputs["mm_token_type_ids"], (0, answer.shape[1])
        )
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs, use_cache=False).logits
    first: Tensor = logits[:, task.ids.shape[1] - 1 : -1].argmax(-1)
    return first
