"""Look for videos in what a model is called with."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dycoke_lab.models import adapter_for, vision_of
from dycoke_lab.models.token_layout import TokenLayout


class VideoFinder(threading.local):
    """layout: the videos of the call that runs now in this thread, None if it brings none. padding: its
    (batch, length) attention mask. lenient: what cannot be told is no video, where nothing is compressed."""

    def __init__(self, model: Any, lenient: bool = False) -> None:
        self._config, self._adapter, self._lenient = model.config, adapter_for(model), lenient
        self._embed = model.get_input_embeddings()
        self._sizes: dict[str, Any] = {}
        self.brings = False  # whether this call has pixels or encoded features
        self.layout: TokenLayout | None = None
        self.padding: Tensor | None = None

    def remember_sizes(self, module: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        """Note the sizes that the vision tower is called with: `generate` encodes videos beforehand, and
        calls the model without them, once or at every step."""
        if torch.compiler.is_compiling():
            return
        self._sizes = {
            f"video_{name}": inputs[name]
            for name in ("grid_thw", "merge_sizes")
            if inputs.get(name) is not None
        }

    def find(self, module: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling():  # with nothing to compress, or `Session.called` has refused
            return
        self.padding, self.layout = inputs.get("attention_mask"), None
        pixels = any(inputs.get(name) is not None for name in ("pixel_values", "pixel_values_videos"))
        self.brings = pixels or bool(inputs.get("mm_encoder_outputs"))
        if not self.brings:
            return
        given = {name: value for name, value in inputs.items() if value is not None}
        try:
            if not {"input_ids", "inputs_embeds"} & given.keys():
                raise ValueError("input_ids is missing: pixels are given, and no prompt in which they stand")
            if "input_ids" not in given:
                given["input_ids"] = self._visual_ids(given["inputs_embeds"])
            _check_ids(given["input_ids"])
            sizes = self._sizes if given.get("mm_encoder_outputs") else {}
            self.layout = self._adapter.find_videos(self._config, {**sizes, **given})
        except Exception:  # of any kind: what cannot work, the model itself refuses, in its own words
            if not self._lenient:
                raise

    def _visual_ids(self, embeds: Tensor) -> Tensor:
        """Return token ids in which only those that stand for visual tokens are known; others are -1."""
        if hasattr(self._adapter, "BETWEEN"):
            raise ValueError(
                "images without input_ids: whether they are the frames of a video cannot be told from "
                "inputs_embeds. Call with input_ids"
            )
        token = getattr(self._config, "video_token_id", -1)
        with torch.no_grad():
            stands = self._embed(torch.tensor([token], device=embeds.device))[0]
        return torch.where((embeds == stands.to(embeds.dtype)).all(-1), token, -1)

    @contextmanager
    def finding(self, model: Any) -> Iterator[None]:
        """Find the videos of every call of this model, until the context ends."""
        with ExitStack() as stack:
            stack.callback(
                vision_of(model).register_forward_pre_hook(self.remember_sizes, with_kwargs=True).remove
            )
            stack.callback(model.model.register_forward_pre_hook(self.find, with_kwargs=True).remove)
            yield

    def __deepcopy__(self, memo: Any) -> VideoFinder:
        """Refuse: its hooks are on a model's modules, and a copy of the model calls this."""
        raise RuntimeError(
            "model is inside a dycoke_lab context, and its copy would be half inside: copy it before entering"
        )


def _check_ids(ids: Tensor) -> None:
    if ids.ndim != 2 or ids.is_floating_point() or ids.is_complex():
        raise ValueError(
            f"input_ids has shape {tuple(ids.shape)} and type {ids.dtype}: it must be (batch, length), of "
            "integers"
        )
