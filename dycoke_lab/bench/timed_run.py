"""One run of one benchmark config: its prefill, its decoding steps, and what they took."""

from __future__ import annotations

import copy
import time
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache

from dycoke_lab.apply import compress
from dycoke_lab.attention.capture import capture_attention
from dycoke_lab.bench.configs import WARM_UP, BenchmarkConfig
from dycoke_lab.bench.cuda_graph import RECORDED_AFTER, StaticSteps
from dycoke_lab.bench.model_shapes import SHAPES, TEXT, random_prompt
from dycoke_lab.bench.roofline import columns, work
from dycoke_lab.models import decoder_of
from dycoke_lab.runtime.compat import CACHE
from dycoke_lab.runtime.compressed_cache import cache_bytes, write_in_place
from dycoke_lab.runtime.session import forget, generation_of

# steps after the measured ones, in which selecting is timed: for that a GPU has to be synchronised
SELECTIONS = 4
STATIC_FROM = WARM_UP - RECORDED_AFTER - 1  # ordinary steps before those of static shapes


def sharing_weights(model: Any) -> Any:
    """Return a copy that shares parameters and buffers, and has hooks of its own."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())})


class TimedRun:
    """Times are wall-clock seconds; a GPU is synchronised before and after each.

    `prefill()`, then `step()` for each new token, then `finish()` returns a row of results. `close()`
    releases everything in any case.
    """

    def __init__(self, model: Any, config: BenchmarkConfig) -> None:
        self.config, self.model, self.cuda = config, sharing_weights(model), model.device.type == "cuda"
        self.prompt_tokens = columns(replace(config, merge_ratio=0.0)).prompt
        self.first_position = torch.full((config.batch, 1), self.prompt_tokens, device=model.device)
        random = torch.Generator().manual_seed(1)
        size = (WARM_UP + config.new_tokens + SELECTIONS, config.batch, 1)
        self.tokens = torch.randint(TEXT, SHAPES[config.shape].vocab, size, generator=random).to(model.device)
        self.written = 0  # tokens since the prompt
        self.steps: list[float] = []
        self.static: StaticSteps | None = None
        self.compressing, self.static_steps = ExitStack(), ExitStack()
        self.cache: Cache = DynamicCache(config=model.config.get_text_config())

    def now(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    @torch.inference_mode()
    def prefill(self) -> None:
        """Read the prompt. What this sets up stays until `finish`."""
        self._peak()
        inputs = random_prompt(self.config.shape, self.model, self.config.frames, self.config.batch)
        decoder, marks = decoder_of(self.model), []

        def mark(*_: Any) -> None:
            marks.append(self.now())

        compression = self.config.compression()
        with decoder.register_forward_pre_hook(mark):
            if self.config.method == "capture":
                self.compressing.enter_context(capture_attention(self.model))
            if compression is not None:
                self.compressing.enter_context(compress(compression, self.model))
            with decoder.register_forward_pre_hook(mark):
                logits = 0 if self.config.whole_logits else 1
                began = self.now()
                self.model(**inputs, logits_to_keep=logits, **{CACHE: self.cache})
                if self.config.method == "full-in-place":
                    write_in_place(self.cache)
                self.prefill_seconds = self.now() - began
        self.merge_seconds = marks[1] - marks[0]  # between the two hooks the merging runs, if there is any
        self.prefill_peak = self._peak()
        if self.config.method in ("truncated", "truncated-stock"):
            self.cache = self._truncated()
        if self.config.graph:
            self._start_static_steps()
        self._peak()  # of this preparation, which is no decoding

    def _start_static_steps(self) -> None:
        for _ in range(STATIC_FROM):
            self._decode()
        position = self.first_position + STATIC_FROM
        self.static = StaticSteps(
            self.model, self.cache, position, WARM_UP - STATIC_FROM + self.config.new_tokens
        )
        self.static_steps.enter_context(self.static)
        for _ in range(WARM_UP - STATIC_FROM):  # the last of them records the graph
            self._decode()

    @torch.inference_mode()
    def step(self) -> None:
        """Write one token."""
        began = self.now()
        self._decode()
        self.steps.append(self.now() - began)

    @torch.inference_mode()
    def finish(self) -> dict[str, Any]:
        """Return the row of results, and release everything."""
        decoding_peak = self._peak()
        self.static_steps.close()
        held, read = cache_bytes(self.cache)
        weights = sum(p.numel() * p.element_size() for p in self.model.parameters())
        select, changed = self._selections()
        self.close()
        activations = None
        if self.prefill_peak is not None:
            activations = (
                self.prefill_peak - weights - work(self.config, self.model.dtype.itemsize).prompt_bytes
            )
        return {
            "prompt_tokens": self.prompt_tokens,
            "prefill": self.prefill_seconds,
            "merge": self.merge_seconds,
            "steps": self.steps,
            "select": select,
            "changed": changed,
            "bytes": {
                "weights": weights,
                "held": held,
                "read": read,
                "peak in prefill": self.prefill_peak,
                "peak in decoding": decoding_peak,
                "activations": activations,
            },
        }

    def close(self) -> None:
        """Release everything; inactive tokens are not put back first."""
        self.static_steps.close()
        self.static, self.cache = None, DynamicCache()
        forget(self.model)
        self.compressing.close()

    def _peak(self) -> int | None:
        """Return the most bytes allocated on the GPU since the last call."""
        if not self.cuda:
            return None
        most = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return most

    def _decode(self) -> None:
        token, position = self.tokens[self.written], self.first_position + self.written
        if self.static:
            self.static(token)
        else:
            self.model(input_ids=token, position_ids=position, **{CACHE: self.cache})
        self.written += 1

    def _truncated(self) -> DynamicCache:
        """Return a stock cache with the last tokens of the merged prompt, as many as DyCoke's layers would
        attend to.
        """
        tokens = columns(self.config)
        short = DynamicCache(config=self.model.config.get_text_config())
        layers: list[Any] = short.layers  # type: ignore[assignment]
        old: list[Any] = self.cache.layers  # type: ignore[assignment]
        for number, (whole, layer) in enumerate(zip(old, layers, strict=True)):
            first = tokens.visual - tokens.attended if number >= self.config.from_layer else 0
            keys, values = whole.keys[:, :, first:].clone(), whole.values[:, :, first:].clone()
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values
        forget(self.model)
        self.compressing.close()  # from here on the model is stock
        if self.config.method == "truncated":
            write_in_place(short)
        return short

    def _selections(self) -> tuple[list[float], float | None]:
        """Time the selections of a few more steps; return also the share of selected tokens that one
        replaces, on average.
        """
        generation = generation_of(self.model, self.cache)
        if generation is None or not generation.selections or self.config.graph:  # a replay has no parts
            return [], None
        (selection,) = generation.selections
        observe = selection.observe
        spent: list[float] = []
        changed: list[float] = []

        def timed(*call: Any) -> None:
            began = self.now()
            observe(*call)
            spent[-1] = self.now() - began

        selection.observe = timed  # type: ignore[method-assign,assignment]
        try:
            for _ in range(SELECTIONS):
                spent.append(0.0)  # a step may select nothing
                before = selection.moves
                self._decode()
                if (moves := selection.moves) is not None:
                    changed.append(0.0 if moves is before else moves.share())
        finally:
            del selection.observe  # it would hold itself, and with it the inactive tokens
        return spent, sum(changed) / len(changed) if changed else None
