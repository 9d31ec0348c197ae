"""One run of one case: its prefill, its decoding steps, and what they took."""

from __future__ import annotations

import copy
import time
from contextlib import ExitStack
from itertools import chain
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache

from dycoke_lab.apply import DyCoke, forget, generation_of
from dycoke_lab.capture import capture_attention
from dycoke_lab.case import Case
from dycoke_lab.compat import CACHE
from dycoke_lab.cost import work
from dycoke_lab.graph import WARM, StaticSteps
from dycoke_lab.models import decoder_of
from dycoke_lab.prune import keep_counts
from dycoke_lab.run import cache_bytes
from dycoke_lab.shapes import SHAPES, TEXT, prompt

FIRST = 2  # steps before those of static shapes
EXTRA = 4  # steps after the measured ones, in which selections are timed, since that makes a GPU wait


def twin(model: Any) -> Any:
    """Another model with the same weights, in the same memory: what is hung on one does not concern the other."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())})


class Trial:
    """Times are wall-clock seconds; on a GPU it is waited for before and after each. prefill: of the whole call, merging included;
    merge: until the decoder begins. steps: of each decoding step. select: of those parts of the steps after that select."""

    def __init__(self, model: Any, case: Case) -> None:
        self.case, self.model, self.cuda = case, twin(model), model.device.type == "cuda"
        self.inputs = prompt(case.shape, model, case.frames, case.batch)
        self.columns = self.inputs["input_ids"].shape[1]
        self.place = torch.full((case.batch, 1), self.columns, device=model.device)
        random = torch.Generator().manual_seed(1)
        words = torch.randint(TEXT, SHAPES[case.shape].vocab, (case.new_tokens + EXTRA, case.batch, 1), generator=random)
        self.words = words.to(model.device)
        self.steps: list[float] = []
        self.static: StaticSteps | None = None
        self.stack, self.still = ExitStack(), ExitStack()
        self.cache: Cache = DynamicCache(config=model.config.get_text_config())

    def now(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    @torch.inference_mode()
    def read(self) -> None:
        """The prefill. What it sets up stays until `finish`."""
        self._peak()
        decoder, marks = decoder_of(self.model), []

        def mark(*_: Any) -> None:
            marks.append(self.now())

        config = self.case.config()
        with decoder.register_forward_pre_hook(mark):
            if self.case.method == "capture":
                self.stack.enter_context(capture_attention(self.model))
            if config:
                self.stack.enter_context(DyCoke(config)(self.model))
            with decoder.register_forward_pre_hook(mark):
                logits = 0 if self.case.whole_logits else 1
                began = self.now()
                self.model(**self.inputs, logits_to_keep=logits, **{CACHE: self.cache})
                self.prefill = self.now() - began
        self.merge = marks[1] - marks[0]
        self.peaks = [self._peak()]
        if self.case.method == "cut":
            self.cache = self._cut()
        if self.case.graph:
            for number in range(FIRST):
                self._write(number)
            first = self.place + FIRST
            self.static = StaticSteps(self.model, self.cache, first, WARM + 1 + self.case.new_tokens)
            self.still.enter_context(self.static)
            for number in range(WARM + 1):  # the last of them makes the graph
                self.static(self.words[number])
        self._peak()  # of cutting and of setting up, which is no decoding

    @torch.inference_mode()
    def step(self) -> None:
        began = self.now()
        self._write(len(self.steps))
        self.steps.append(self.now() - began)

    @torch.inference_mode()
    def finish(self) -> dict[str, Any]:
        """A row of results."""
        self.still.close()
        self.peaks.append(self._peak())
        held, read = cache_bytes(self.cache)
        weights = sum(p.numel() * p.element_size() for p in self.model.parameters())
        select, changed = self._selections()
        self.close()
        own = work(self.case, self.inputs["mm_encoder_outputs"]["video"].pooler_output[0].element_size())
        return {
            "columns": self.columns, "prefill": self.prefill, "merge": self.merge, "steps": self.steps, "select": select,
            "changed": changed, "bytes": {
                "weights": weights, "held": held, "read": read, "peak in prefill": self.peaks[0], "peak in decoding": self.peaks[1],
                "activations": None if self.peaks[0] is None else self.peaks[0] - weights - own.prompt_bytes,
            },
        }  # fmt: skip

    def close(self) -> None:
        """Let go of all it holds; nothing waiting is put back first."""
        self.still.close()
        self.static, self.cache = None, DynamicCache()
        forget(self.model)
        self.stack.close()

    def _peak(self) -> int | None:
        """Bytes on the GPU at most since this was last asked."""
        if not self.cuda:
            return None
        most = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return most

    def _write(self, number: int) -> None:
        if self.static:
            self.static(self.words[number])
            return
        self.model(input_ids=self.words[number], position_ids=self.place + number, **{CACHE: self.cache})

    def _cut(self) -> DynamicCache:
        """A stock cache with the last columns of another's, as many as DyCoke's layers would attend to."""
        generation = generation_of(self.model, self.cache)
        available = generation.available  # type: ignore[union-attr]
        gone = int((available.sum(1) - keep_counts(available, self.case.prune_ratio))[0])
        short = DynamicCache(config=self.model.config.get_text_config())
        layers: list[Any] = short.layers  # type: ignore[assignment]
        old: list[Any] = self.cache.layers  # type: ignore[assignment]
        for number, (whole, layer) in enumerate(zip(old, layers, strict=True)):
            first = gone if number >= self.case.score_layer else 0
            keys, values = whole.keys[:, :, first:].clone(), whole.values[:, :, first:].clone()
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values
        self.stack.close()  # from here on the model is as it was
        return short

    def _selections(self) -> tuple[list[float], float | None]:
        """The time of each, and the share of selected tokens that one replaces, on average."""
        generation = generation_of(self.model, self.cache)
        if generation is None or not self.case.prune_ratio or self.static:  # a replay has no parts
            return [], None
        see, spent, changed = generation.see, [0.0] * EXTRA, []

        def timed(call: Any) -> None:
            began = self.now()
            see(call)
            spent[number] = self.now() - began

        generation.see = timed  # type: ignore[method-assign]
        try:
            for number in range(EXTRA):
                before = generation.moves
                self._write(len(self.steps) + number)
                if (moves := generation.moves) is not None:
                    changed.append(0.0 if moves is before else moves.share())
        finally:
            del generation.see  # else it holds itself, and with it all that waits
        return spent, sum(changed) / len(changed) if changed else None
