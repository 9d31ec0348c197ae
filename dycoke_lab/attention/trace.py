"""What was captured: attention over visual tokens with named axes, to look at, to keep, and to compare."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dycoke_lab.models.token_layout import TokenGrid
from dycoke_lab.results.files import damaged, read_json, replace_text, replacing

HEAD_MEAN = "mean"


@dataclass(repr=False)
class Trace:
    """One generation's attention over its visual tokens.

    attention: per step, (layers, heads, batch, visual): probabilities over all keys, so a row's sum is the
    share that the video gets; heads is 1 if their mean was captured. attended: per step, (layers, batch,
    visual), False where the token was merged away, inactive or evicted. A video's number is (frame * rows +
    row) * cols + col.
    videos: for each sample its videos' grids (frames, rows, cols); their tokens follow each other, and a
    sample with fewer has zeros after its own. words: per sample the words written, step by step, if given.
    """

    videos: tuple[tuple[TokenGrid, ...], ...] = ()
    attention: list[Tensor] = field(default_factory=list)
    attended: list[Tensor] = field(default_factory=list)
    words: list[list[str]] | None = None

    def start(self, videos: tuple[tuple[TokenGrid, ...], ...]) -> None:
        """Forget what was captured; the next steps have these videos."""
        self.videos = videos
        self.attention, self.attended, self.words = [], [], None

    def __len__(self) -> int:
        return len(self.attention)

    def __repr__(self) -> str:
        sizes = tuple(self.attention[0].shape) if self.attention else ()
        return (
            f"Trace of {len(self)} steps, each (layers, heads, batch, visual) = {sizes}; videos {self.videos}"
        )

    def stack(self, layer: int, sample: int = 0) -> Tensor:
        """Return (steps, visual), the attention of one layer and sample, mean over the heads captured."""
        self._need_steps()
        return torch.stack([step[layer, :, sample].mean(0) for step in self.attention])[
            :, : self._tokens(sample)
        ]

    def kept(self, layer: int, sample: int = 0) -> Tensor:
        """Return (steps, visual), which tokens that layer could attend to."""
        self._need_steps()
        return torch.stack([step[layer, sample] for step in self.attended])[:, : self._tokens(sample)]

    def per_frame(self, layer: int, sample: int = 0) -> Tensor:
        """Return (steps, frames), the share of the attention that each frame gets; the frames of all the
        sample's videos, in order."""
        if not self.videos[sample]:
            return torch.zeros(len(self), 0)
        videos = self.stack(layer, sample).split([grid.tokens for grid in self.videos[sample]], 1)
        return torch.cat(
            [
                v.unflatten(1, (grid.frames, -1)).sum(2)
                for v, grid in zip(videos, self.videos[sample], strict=True)
            ],
            1,
        )

    def _tokens(self, sample: int) -> int:
        return sum(grid.tokens for grid in self.videos[sample])

    def future(self, first_layer: int, end_layer: int | None = None) -> Tensor:
        """Return (batch, visual), what the steps after the prompt's last token pay each visual token, summed
        over steps, mean over the layers from `first_layer` to below `end_layer` (None: to the last); for
        `Hindsight`."""
        self._need_steps()
        layers = slice(first_layer, end_layer)
        return torch.stack([step[layers].mean((0, 1)) for step in self.attention])[1:].sum(0)

    def to_frame(self) -> pd.DataFrame:
        """Return a tidy table: one row per sample, step, layer, head, video, frame, row and col, with
        `attention` and `attended`."""
        self._need_steps()
        values = torch.stack(self.attention).cpu().numpy()  # steps, layers, heads, batch, visual
        kept = np.broadcast_to(torch.stack(self.attended).cpu().numpy()[:, :, None], values.shape)
        steps, layers, heads, _, _ = values.shape
        before = pd.MultiIndex.from_product(
            [range(steps), range(layers), range(heads)], names=["step", "layer", "head"]
        )
        parts = []
        for sample, grids in enumerate(self.videos):
            places = [
                pd.MultiIndex.from_product(
                    [[video], range(grid.frames), range(grid.rows), range(grid.cols)]
                ).to_frame(index=False)
                for video, grid in enumerate(grids)
            ]
            if not places:
                continue
            place = pd.concat(places).set_axis(["video", "frame", "row", "col"], axis=1)
            part = before.to_frame(index=False).assign(sample=sample).merge(place, how="cross")
            part["attention"] = values[:, :, :, sample, : len(place)].ravel()
            part["attended"] = kept[:, :, :, sample, : len(place)].ravel()
            parts.append(part)
        frame = pd.concat(parts, ignore_index=True)
        if heads == 1:
            frame["head"] = HEAD_MEAN
        if self.words is not None:
            names = {(s, t): word for s, line in enumerate(self.words) for t, word in enumerate(line)}
            frame["word"] = [names.get(key) for key in zip(frame["sample"], frame["step"], strict=True)]
        return frame

    def save(self, path: str | Path) -> None:
        """Write `path`.safetensors and, beside it, `path`.json with the names of the axes."""
        self._need_steps()
        tensors = {"attention": torch.stack(self.attention), "attended": torch.stack(self.attended)}
        about = {
            "axes": {
                "attention": ["step", "layer", "head", "sample", "visual"],
                "attended": ["step", "layer", "sample", "visual"],
            },
            "videos": self.videos, "video": ["frames", "rows", "cols"], "order": "video, frame, row, col",
            "words": self.words,
        }  # fmt: skip
        with replacing(_beside(path, ".safetensors")) as new:
            save_file(tensors, new)
            replace_text(_beside(path, ".json"), json.dumps(about, indent=1))

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read what `save` wrote. Raises FileNotFoundError if either file is missing, ValueError if one
        is damaged or of another trace."""
        file, about = _beside(path, ".safetensors"), read_json(_beside(path, ".json"))
        try:
            tensors = load_file(file)
            attention, attended = tensors["attention"], tensors["attended"]
        except (SafetensorError, KeyError) as error:
            raise damaged(file, error) from error
        try:
            videos = tuple(tuple(TokenGrid(*grid) for grid in sample) for sample in about["videos"])
            visual = max((sum(grid.tokens for grid in sample) for sample in videos), default=0)
            words = about["words"]
        except (KeyError, TypeError) as error:
            raise damaged(_beside(path, ".json"), error) from error
        apart = attention.shape[:2] + attention.shape[3:]  # without heads
        if attended.shape[2:] != (len(videos), visual) or apart != attended.shape:
            raise damaged(file, f"it is not of the trace that {_beside(path, '.json').name} is of")
        return cls(videos, list(attention), list(attended), words)

    def _need_steps(self) -> None:
        if not self.attention:
            raise ValueError(
                "the trace is empty: call model.generate(...) with a video inside `with "
                "capture_attention(...)`"
            )


def _beside(path: str | Path, suffix: str) -> Path:
    """Return the name with a suffix added: it may itself have a dot, as P=0.7."""
    return Path(path).with_name(Path(path).name + suffix)
