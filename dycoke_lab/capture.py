"""See what a model attends to while it writes: `with capture_attention(model) as trace: model.generate(...)`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dycoke_lab.apply import current_generation
from dycoke_lab.attention import Call, watching
from dycoke_lab.layout import VisualLayout
from dycoke_lab.models import adapter_for
from dycoke_lab.prune import last_query_attention
from dycoke_lab.trace import Trace


@contextmanager
def capture_attention(model: Any, heads: Literal["mean", "all"] = "mean") -> Iterator[Trace]:
    """Record each decoding step's attention over the visual tokens, in every layer, pruned or not.

    Works with any attention kernel, since one query row is computed beside it; the model's own output is
    bit-identical. Step 0 is the prompt's last token, which writes the first word. Memory grows with steps x
    layers (x heads, with heads="all") x visual tokens. A new prompt starts the trace afresh, so it holds the
    last generation. Raises ValueError for another `heads`, TypeError for an unsupported model.
    """
    if heads not in ("mean", "all"):
        raise ValueError(f"heads={heads!r} must be 'mean' or 'all'")
    adapter = adapter_for(model)
    decoder = adapter.language_model(model)
    recorder = _Recorder(model, Trace(), heads)
    hook = model.model.register_forward_pre_hook(recorder.find_video, with_kwargs=True)
    try:
        with watching(decoder, recorder):
            yield recorder.trace
    finally:
        hook.remove()


class _Recorder:
    def __init__(self, model: Any, trace: Trace, heads: str) -> None:
        self.model, self.trace, self.heads = model, trace, heads
        self.layout: VisualLayout | None = None
        self.rows: list[tuple[Tensor, Tensor]] = []

    def find_video(self, module: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        layout = adapter_for(self.model).find_visual_tokens(self.model, inputs)
        if layout is not None:
            self.layout = layout
            self.trace.start(layout.frames, layout.rows, layout.cols)

    def mask(self, call: Call) -> Tensor | None:
        return call.mask

    def see(self, call: Call) -> None:
        if self.layout is None:
            return
        attention = last_query_attention(call.query, call.key, call.mask, call.scaling)  # (batch, heads, keys)
        attention = attention.mean(1, keepdim=True) if self.heads == "mean" else attention
        generation = current_generation(self.model)
        if generation is None:
            columns, there = self.layout.columns, torch.ones_like(self.layout.columns, dtype=torch.bool)
        else:
            columns, there = generation.where(call)
        visual = attention.gather(2, columns[:, None].expand(-1, attention.shape[1], -1)) * there[:, None]
        if call.layer == 0:
            self.rows = []
        self.rows.append((visual.transpose(0, 1), there))
        if call.layer == self.model.config.text_config.num_hidden_layers - 1:
            self.trace.attention.append(torch.stack([row for row, _ in self.rows]))
            self.trace.attended.append(torch.stack([kept for _, kept in self.rows]))
