"""Prepare what the explorers show: a clip, what the model writes on it under a compression, numbers of both.

No widgets here.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import RLock
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dycoke_lab.attention.blocking import Block
from dycoke_lab.attention.capture import capture_attention
from dycoke_lab.attention.trace import Trace
from dycoke_lab.methods import Compression
from dycoke_lab.methods.temporal_merging import retained_count
from dycoke_lab.models.loading import load_model
from dycoke_lab.specimen.clips import CLIPS, clip_names, truth, world_of
from dycoke_lab.video import prompt, read_video

MOST_RUNS = 400  # held in memory, about 1 MB each


@dataclass(frozen=True, eq=False)
class Clip:
    """A sample clip as the model gets it, and its truth.

    answer: the right words, with the end token. pixels: (frames, 3, height, width), 0 to 1. features:
    (frames, tokens, dim), the visual tokens. scene, actor, places: as `truth` has them.
    """

    name: str
    question: str
    answer: list[str]
    pixels: Tensor
    features: Tensor
    scene: Tensor
    actor: Tensor
    places: int
    inputs: Any

    @property
    def side(self) -> int:
        """Return the number of visual tokens along a frame's side."""
        return round(self.features.shape[1] ** 0.5)

    def thing(self, token: int) -> list[int]:
        """Return the visual tokens that show the same thing of the same scene; the token alone if it shows
        none."""
        frame, place = divmod(token, self.features.shape[1])
        actor = int(self.actor[frame, place])
        if actor < 0:
            return [token]
        alike = (self.scene == self.scene[frame])[:, None] & (self.actor == actor)
        return [int(number) for number in alike.flatten().nonzero()]

    def grid(self, tokens: Tensor) -> Tensor:
        """Return (visual,) as (frames, rows, cols)."""
        return tokens.view(len(self.pixels), self.side, self.side)

    def named(self, step: int) -> Tensor:
        """Return (frames, rows, cols): which tokens show what the right answer's word at `step` names."""
        scene, actor = divmod(step, self.places + 1)
        return self.grid(((self.scene == scene)[:, None] & (self.actor == actor)).flatten())


class TokenStates(NamedTuple):
    """The visual tokens' states in the pruned layers at one step: boolean (visual,) each.

    Every token is one of active, inactive (evicted ones included) and merged_away. returned: of the active,
    those that were not active at the step before.
    """

    active: Tensor
    inactive: Tensor
    returned: Tensor
    merged_away: Tensor


@dataclass(frozen=True, eq=False)
class ClipRun:
    """What the model wrote under a compression, and what it attended to meanwhile."""

    words: list[str]
    trace: Trace
    compression: Compression

    def states(self, step: int) -> TokenStates:
        """Return the tokens' states in the layers from L on (the last one, where a method takes tokens in
        several) while the word at `step` is written."""
        merged_away = ~self.trace.kept(0)[step]
        kept = self.trace.kept(-1)
        previous = kept[max(step - 1, 0)]
        return TokenStates(kept[step], ~kept[step] & ~merged_away, kept[step] & ~previous, merged_away)

    def selections(self) -> tuple[int, int] | None:
        """Return at how many decoding steps other tokens became active, the first choice counted, and how
        many decoding steps there were; None if nothing was selected while decoding."""
        if self.compression.selector is None or len(self.trace) < 2:
            return None
        kept = self.trace.kept(self.compression.selector.from_layer)[1:]
        return 1 + int((kept[1:] != kept[:-1]).any(1).sum()), len(kept)


class ClipRunner:
    """Run specimens on the sample clips, each on those of its own world, under each compression only once.

    seed: of the specimens. They are loaded when they are needed, and no other code has these copies.
    """

    def __init__(self, seed: int = 0) -> None:
        self.names, self.seed = clip_names(), seed
        self.lock = RLock()
        self._models: dict[str, tuple[Any, Any]] = {}
        self._clips: dict[str, Clip] = {}
        self._runs: dict[tuple[str, Compression | Block], ClipRun] = {}
        self.fits: dict[Any, Compression] = {}  # knobs that were solved (`equal_tokens`)

    def model(self, name: str) -> Any:
        """Return the model that a clip is run on."""
        return self._loaded(name)[0]

    def depth(self, name: str) -> int:
        """Return how many layers this model has."""
        return int(self.model(name).config.get_text_config().num_hidden_layers)

    def _loaded(self, name: str) -> tuple[Any, Any]:
        """Return the model that a clip is run on, and its processor."""
        if name not in self.names:
            raise ValueError(f"clip={name!r} must be one of {', '.join(self.names)}")
        world = world_of(name)
        with self.lock:
            if world not in self._models:
                self._models[world] = load_model(world, self.seed)
            return self._models[world]

    def clip(self, name: str) -> Clip:
        """Return a clip. Raises ValueError for a name that is not in data/clips."""
        with self.lock:
            return self._clips.get(name) or self._read(name)

    def _read(self, name: str) -> Clip:
        model, processor = self._loaded(name)
        question, answer, scene, actor, places = truth(name)
        inputs = prompt(processor, read_video(CLIPS / name), question)
        videos = inputs["pixel_values_videos"]
        with torch.inference_mode():
            found = model.get_video_features(videos, return_dict=True).pooler_output[0]
        features = found[:-1].view(videos.shape[1], -1, found.shape[-1]).clone()  # without the line break
        words = [*answer.split(), processor.tokenizer.eos_token]
        clip = Clip(name, question, words, videos[0] / 2 + 0.5, features, scene, actor, places, inputs)
        self._clips[name] = clip
        return clip

    def known(self, name: str, setting: Compression | Block) -> ClipRun | None:
        """Return the run on this clip under this setting if it was made already."""
        return self._runs.get((name, setting))

    def run(self, name: str, compression: Compression) -> ClipRun:
        """Run greedy `generate` on the clip under this compression, with every head's attention captured."""
        return self._run(name, compression)

    def blocked(self, name: str, block: Block) -> ClipRun:
        """Run greedy `generate` on the clip with these visual tokens hidden, nothing compressed.

        Raises ValueError for numbers that the clip or its model does not have.
        """
        return self._run(name, block)

    def _run(self, name: str, setting: Compression | Block) -> ClipRun:
        key = (name, setting)
        with self.lock:
            if key in self._runs:
                return self._runs[key]
            clip, (model, processor) = self.clip(name), self._loaded(name)
            with setting(model), capture_attention(model, heads="all") as trace:
                ids = model.generate(**clip.inputs)[0, clip.inputs["input_ids"].shape[1] :]
            words = processor.tokenizer.convert_ids_to_tokens(ids)
            while len(self._runs) >= MOST_RUNS:
                self._runs.pop(next(iter(self._runs)))
            compression = setting if isinstance(setting, Compression) else Compression()
            self._runs[key] = ClipRun(words, trace, compression)
            return self._runs[key]


def aim(clip: Clip, run: ClipRun, mean: bool = False) -> Tensor:
    """Return (steps, layers, heads): the share of a head's attention on the video that falls on the tokens
    which the right answer's word names, 0 to 1; NaN for a step whose word names nothing.

    mean: of the attention over heads, (steps, layers, 1).
    """
    found = []
    for step, attention in enumerate(run.trace.attention):
        values = attention[:, :, 0].mean(1, keepdim=True) if mean else attention[:, :, 0]
        named = clip.named(step).flatten()
        there = values[..., named].sum(-1) if named.any() else torch.full(values.shape[:2], torch.nan)
        found.append(there / values.sum(-1).clamp(min=1e-12))
    return torch.stack(found)


def equivalent_threshold(similarity: Tensor, ratio: float) -> float:
    """Return the similarity threshold that merges away as many tokens of a video as the ratio K does.

    They are not the same tokens: a ratio takes as many from each frame.
    similarity: (frames, tokens), NaN where a token has no reference, as `temporal_merge` returns it.
    """
    values = similarity[~similarity.isnan()].sort(descending=True).values
    tokens = similarity.shape[1]
    gone = (tokens - retained_count(tokens, ratio)) * (len(values) // tokens)
    return 1.0 if gone == 0 else min(1.0, float(values[gone - 1]))


def equivalent_ratio(similarity: Tensor, threshold: float) -> float:
    """Return the ratio K that merges away as many tokens of a video as this similarity threshold does."""
    values = similarity[~similarity.isnan()]
    return float((values >= threshold).float().mean()) if len(values) else 0.0
