"""The unmodified model with a mask for each layer, head and row: what every compression must equal."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from helpers.oracles import Look, Slow, Stage, share_of


def places_of(videos: list[tuple[int, Tensor]]) -> list[tuple[int, int, int, int]]:
    """Return video, frame, row and column of each visual token of a prompt: 16 a frame are a square."""
    places = []
    for video, (count, columns) in enumerate(videos):
        per = len(columns) // count
        rows = 4 if per == 16 else 1
        cols = per // rows
        places += [(video, t // per, t % per // cols, t % cols) for t in range(len(columns))]
    return places


class MaskedModel:
    """Run the unmodified model on prompt and answer at once; what a compression takes away is masked.

    columns: for each batch element those of its visual tokens. into: for each, what its tokens are merged
    into. features: new ones of them, or none. padding: (batch, prompt). steps: how many tokens each call
    after the prompt's read. blocks: (batch, prompt), tokens with one number above 0 see each other (Gemma 3).
    places: of each batch element's visual tokens (video, frame, row, column).

    attention, visible: by layer, (batch, calls, columns), of each call's last row, over the heads their mean,
    and whether any may attend there.
    """

    def __init__(
        self,
        model: Any,
        decoder: Any,
        columns: list[Tensor],
        into: list[list[int]],
        features: list[Tensor],
        padding: Tensor,
        slow: Slow,
        blocks: Tensor | None = None,
        steps: list[int] | None = None,
        places: list[list[tuple[int, int, int, int]]] | None = None,
    ) -> None:
        self.places = places or [[] for _ in columns]
        self.memories: list[dict[str, Any]] = [{} for _ in columns]  # of those who reduce
        self.text: dict[int, list[Tensor]] = {}  # by layer, of the prompt's rows after the last video
        self.model, self.decoder, self.columns, self.into = model, decoder, columns, into
        self.features = features
        self.padding, self.slow, self.rule, self.blocks = padding, slow, slow.rule, blocks
        self.prompt, self.steps = padding.shape[1], steps or [1] * 99
        kinds = getattr(decoder.config, "layer_types", None)
        self.kinds = kinds or ["full_attention"] * len(decoder.layers)
        self.alive = [[v for v, end in enumerate(row) if end == v] for row in into]  # after merging
        self.dropped: dict[tuple[int, int], set[int]] = {}  # by batch element and layer, in the prefill
        self.looks: dict[Any, Look] = {}  # the last one of each who chooses
        self.chosen: dict[Any, list[set[int] | None]] = {}  # what was selected after each call
        self.scores: dict[int, list[list[float]]] = {}  # by layer, of the prompt's last row
        self.attention: dict[int, Tensor] = {}
        self.visible: dict[int, Tensor] = {}
        self.above: list[list[float]] = []  # for a rule that foresees: of each batch element

    def logits(self, **inputs: Any) -> Tensor:
        """(batch, calls, vocabulary): after each call's last row."""
        if self.rule is not None and self.rule.foresees and not self.above:
            self.above = self._foreseen(inputs)
        AttentionInterface.register("tests_oracle", self._attend)
        AttentionMaskInterface.register("tests_oracle", eager_mask)
        config = self.decoder.config
        before, config._attn_implementation = config._attn_implementation, "tests_oracle"
        hooks = [self.decoder.register_forward_pre_hook(self._merge, with_kwargs=True)]
        for layer in self.slow.reduce:
            reduce = partial(self._reduce, layer)
            hooks.append(self.decoder.layers[layer].register_forward_pre_hook(reduce, with_kwargs=True))
        try:
            with torch.no_grad():
                logits = self.model(**inputs, use_cache=False).logits
        finally:
            for hook in hooks:
                hook.remove()
            config._attn_implementation = before
        return logits[:, [rows.stop - 1 for rows in self._calls(logits.shape[1])]]

    def _foreseen(self, inputs: dict[str, Any]) -> list[list[float]]:
        """What the layers that will be pruned attend to at the prompt's end, mean over them: when none is
        pruned, since that row is the same then."""
        about = self.into, self.features, self.padding, replace(self.slow, rule=None), self.blocks, self.steps
        about = *about, self.places
        free = MaskedModel(self.model, self.decoder, self.columns, *about)
        free.logits(**inputs)
        pruned = [layer for layer in range(len(self.kinds)) if self._prunes(layer)]
        mean = torch.stack([free.attention[layer][:, 0] for layer in pruned]).mean(0)
        return [row[columns].tolist() for row, columns in zip(mean, self.columns, strict=True)]

    def _calls(self, length: int) -> list[slice]:
        """The rows that each call reads: the prompt's, then those of each step."""
        calls = [slice(0, self.prompt)]
        for count in self.steps:
            start = calls[-1].stop
            if start < length:
                calls.append(slice(start, min(start + count, length)))
        return calls

    def _merge(self, _: Any, args: Any, inputs: dict[str, Any]) -> Any:
        """Before the first layer: new features, and means."""
        given = inputs["inputs_embeds"].clone()
        for b, rows in enumerate(self.features):
            given[b, self.columns[b]] = rows
        changes = {"inputs_embeds": self._means(given, self.into)}
        if inputs.get("deepstack_visual_embeds") is not None:  # Qwen3-VL's, one row for each visual token
            where = inputs["visual_pos_masks"]
            spread = [
                part.new_zeros(*where.shape, part.shape[-1]) for part in inputs["deepstack_visual_embeds"]
            ]
            for empty, part in zip(spread, inputs["deepstack_visual_embeds"], strict=True):
                empty[where] = part
            changes["deepstack_visual_embeds"] = [self._means(part, self.into)[where] for part in spread]
        return args, {**inputs, **changes}

    def _reduce(self, layer: int, _: Any, args: Any, inputs: dict[str, Any]) -> Any:
        """Before a layer that gets fewer tokens."""
        hidden, into = args[0].clone(), []
        for b in range(len(self.into)):
            present = self._present(b, layer)
            scores, text = (self.scores[layer - 1][b], self.text[layer - 1][b]) if layer else ([], None)
            about = layer, len(self.kinds), self.places[b], text, self.memories[b]
            found = self.slow.reduce[layer](Stage(hidden[b, self.columns[b]], scores, present, *about))
            found, features = found if isinstance(found, tuple) else (found, None)
            for v in present if features is not None else []:
                hidden[b, self.columns[b][v]] = features[v]
            self.dropped[b, layer] = {v for v in present if found[v] != v}
            into.append([end if v in present else -1 for v, end in enumerate(found)])
        return (self._means(hidden, into), *args[1:]), inputs

    def _means(self, given: Tensor, into: list[list[int]]) -> Tensor:
        """Let each token that others were merged into be the mean of all of them, if that is asked for."""
        found = given.clone()
        for b, row in enumerate(into if self.slow.average else []):
            for end in set(row) - {-1}:
                members = [v for v, other in enumerate(row) if other == end]
                found[b, self.columns[b][end]] = given[b, self.columns[b][members]].mean(0)
        return found

    def _gone(self, b: int) -> list[int]:
        """The columns that no layer has: padding, and tokens that were merged away."""
        merged = set(range(len(self.into[b]))) - set(self.alive[b])
        padding = (self.padding[b] == 0).nonzero()[:, 0].tolist()
        return sorted({int(self.columns[b][v]) for v in merged} | set(padding))

    def _present(self, b: int, layer: int) -> list[int]:
        """The visual tokens that this layer has read in the prefill."""
        dropped = {
            v for (who, first), lost in self.dropped.items() if who == b and first <= layer for v in lost
        }
        return [v for v in self.alive[b] if v not in dropped]

    def _may_see(self, b: int, layer: int, length: int) -> Tensor:
        """(rows, columns), True where a row may attend, before any selection."""
        seen = torch.ones(length, length, dtype=torch.bool).tril()
        if self.blocks is not None:
            block = self.blocks[b]
            seen[: self.prompt, : self.prompt] |= (block[:, None] == block) & (block != 0)
        gone = self._gone(b)
        seen[:, gone] = False
        dropped = set(self.alive[b]) - set(self._present(b, layer))
        seen[:, [int(self.columns[b][v]) for v in dropped]] = False
        if self.kinds[layer] == "sliding_attention":
            there = torch.ones(length, dtype=torch.long)
            there[gone] = 0
            order = there.cumsum(0) - there
            seen &= order[:, None] - order < self.decoder.config.sliding_window
        return seen

    def _attend(self, module: Any, q: Tensor, k: Tensor, v: Tensor, _: Any, scaling: float, **__: Any) -> Any:
        layer, groups, keys = module.layer_idx, q.shape[1] // k.shape[1], k
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        batch, heads, length, _ = q.shape
        logits = q @ k.transpose(-1, -2) * scaling
        seen = torch.stack([self._may_see(b, layer, length) for b in range(batch)])
        seen = seen[:, None].repeat(1, heads, 1, 1)
        weights = torch.zeros_like(logits)
        for b in range(batch):
            for number, rows in enumerate(self._calls(length)):
                for head in range(heads // groups if number and self._prunes(layer) else 0):
                    mine = slice(head * groups, (head + 1) * groups)
                    seen[b, mine, rows, self._unselected(b, layer, number, head)] = False
                hidden = logits[b, :, rows].masked_fill(~seen[b, :, rows], -torch.inf)
                weights[b, :, rows] = hidden.softmax(-1).nan_to_num(0)
                self._choose(b, layer, number, weights[b, :, rows], keys[b], q[b, :, rows.stop - 1])
        ends = [rows.stop - 1 for rows in self._calls(length)]
        self.attention[layer], self.visible[layer] = weights.mean(1)[:, ends], seen.any(1)[:, ends]
        self.text[layer] = []
        for b, columns in enumerate(self.columns):
            after = min(1 + max(columns.tolist(), default=0), self.prompt - 1)
            self.text[layer].append(weights[b, :, after : self.prompt][:, :, columns])
        rows = weights[:, :, self.prompt - 1].mean(1)
        self.scores[layer] = [row[columns].tolist() for row, columns in zip(rows, self.columns, strict=True)]
        return (weights @ v).transpose(1, 2).contiguous(), None

    def _prunes(self, layer: int) -> bool:
        rule = self.rule
        return rule is not None and layer >= rule.from_layer and self.kinds[layer] == "full_attention"

    def _chooser(self, b: int, layer: int, head: int) -> Any:
        """Whose choice it is that a head of a layer attends to."""
        return {"shared": b, "layer": (b, layer), "head": (b, layer, head)}[self.rule.scope]  # type: ignore[union-attr]

    def _unselected(self, b: int, layer: int, number: int, head: int) -> list[int]:
        """The columns that a pruned layer's call may not attend to, by what has been selected."""
        chosen = self.chosen[self._chooser(b, layer, head)]
        now = chosen[number if self.rule.scope == "shared" else number - 1]  # type: ignore[union-attr]
        if now is None:
            return []
        return [int(column) for v, column in enumerate(self.columns[b]) if v not in now]

    def _choose(
        self, b: int, layer: int, number: int, weights: Tensor, keys: Tensor, queries: Tensor
    ) -> None:
        """Have all choose that do so at this layer. weights: (heads, rows of this call, columns). keys: (key
        heads, columns, dim). queries: (heads, dim), the last row's."""
        rule = self.rule
        if rule is None or (
            layer != rule.from_layer - 1 if rule.scope == "shared" else not self._prunes(layer)
        ):
            return
        rows = list(range(weights.shape[1]))
        if number == 0:
            rows = sorted(set(rows) - set(self._gone(b)))
        parts = list(weights.chunk(len(keys))) if rule.scope == "head" else [weights]
        present = self._present(b, layer)
        for head, part in enumerate(parts):
            who = self._chooser(b, layer, head)
            last, selected = self.looks.get(who), self.chosen.setdefault(who, [])[-1:]
            now = selected[0] if selected else None
            asked = now is None or rule.every_step
            lower = range(max(0, layer + 1 - rule.layers_below), layer) if rule.scope == "shared" else ()
            rows_below = [self.attention[n][b, number] for n in lower if self.kinds[n] == "full_attention"]
            by_layer = torch.stack([*rows_below, part[:, -1].mean(0)])[:, self.columns[b]]
            look = Look(
                b,
                number,
                by_layer.mean(0).tolist(),
                last.scores if last else None,
                part[:, rows][:, :, self.columns[b]],
                (keys[head : head + 1] if rule.scope == "head" else keys)[:, self.columns[b]],
                present if now is None or rule.returns else sorted(now),
                share_of(len(present), 1 - rule.prune_ratio),
                now,
                last.memory if last else {},
                by_layer.tolist(),
                self.above[b] if self.above and number else None,
                layer,
                [n for n in range(len(self.kinds)) if self._prunes(n)],
                queries,
            )
            choice = rule.choose(look) if asked else None
            self.looks[who] = look
            self.chosen[who].append(now if choice is None else choice)
