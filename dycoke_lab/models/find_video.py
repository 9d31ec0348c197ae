"""Look for videos in what a model is called with."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from dycoke_lab.models import adapter_for, vision_of
from dycoke_lab.models.token_layout import TokenLayout


class VideoFinder(threading.local):
    """layout: the videos of the call that runs now in this thread, None if it brings none. padding: its
    (batch, length) attention mask."""

    def __init__(self, model: Any) -> None:
        self._config, self._find = model.config, adapter_for(model).find_videos
        self._sizes: dict[str, Any] = {}
        self.brings = False  # whether this call has pixels or encoded features
        self.layout: TokenLayout | None = None
        self.padding: Tensor | None = None

    def remember_sizes(self, module: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        """Note the sizes that the vision tower is called with: `generate` encodes videos beforehand, without
        them later."""
        self._sizes = {
            f"video_{name}": inputs[name]
            for name in ("grid_thw", "merge_sizes")
            if inputs.get(name) is not None
        }

    def find(self, module: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        sizes, self._sizes = self._sizes, {}
        self.padding, self.layout = inputs.get("attention_mask"), None
        pixels = any(inputs.get(name) is not None for name in ("pixel_values", "pixel_values_videos"))
        self.brings = pixels or bool(inputs.get("mm_encoder_outputs"))
        if not self.brings:
            return
        given = {name: value for name, value in inputs.items() if value is not None}
        if "input_ids" not in given:
            raise ValueError(
                "a video without input_ids: its tokens cannot be found among inputs_embeds. Call with "
                "input_ids"
            )
        self.layout = self._find(self._config, {**sizes, **given})

    def forget_sizes(self, *_: Any) -> None:
        self._sizes = {}

    @contextmanager
    def finding(self, model: Any) -> Iterator[None]:
        """Find the videos of every call of this model, until the context ends."""
        with ExitStack() as stack:
            stack.callback(
                vision_of(model).register_forward_pre_hook(self.remember_sizes, with_kwargs=True).remove
            )
            stack.callback(model.model.register_forward_pre_hook(self.find, with_kwargs=True).remove)
            stack.callback(model.model.register_forward_hook(self.forget_sizes).remove)
            yield

    def __deepcopy__(self, memo: Any) -> VideoFinder:
        """Refuse: its hooks are on a model's modules, and a copy of the model calls this."""
        raise RuntimeError(
            "model is inside a dycoke_lab context, and its copy would be half inside: copy it before entering"
        )
