"""What the explorers show: a clip, what the model writes on it under a setting, numbers read off both. No widgets here."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from threading import RLock
from typing import Any

import torch
from torch import Tensor

from dycoke_lab.apply import DyCoke
from dycoke_lab.capture import capture_attention
from dycoke_lab.config import DyCokeConfig
from dycoke_lab.merge import retained_count
from dycoke_lab.specimen.clips import CLIPS, truth
from dycoke_lab.specimen.world import ACTORS
from dycoke_lab.trace import Trace
from dycoke_lab.video import prompt, read_video

SHOWN_RUNS = 400  # kept in memory, about 1 MB each


@dataclass(frozen=True, eq=False)
class Clip:
    """A sample clip as the model gets it, and its truth.

    answer: the right words, with the end token. pixels: (frames, 3, height, width), 0 to 1. features: (frames, tokens,
    dim), the visual tokens. scene: (frames,). actor: (frames, tokens), which actor a token shows, -1 for none.
    """

    name: str
    question: str
    answer: list[str]
    pixels: Tensor
    features: Tensor
    scene: Tensor
    actor: Tensor
    inputs: Any

    @property
    def side(self) -> int:
        """Visual tokens along a frame's side."""
        return round(self.features.shape[1] ** 0.5)

    def grid(self, tokens: Tensor) -> Tensor:
        """(visual,) as (frames, rows, cols)."""
        return tokens.view(len(self.pixels), self.side, self.side)

    def named(self, step: int) -> Tensor:
        """(frames, rows, cols): the tokens that show what the right answer's word at `step` names."""
        scene, actor = divmod(step, ACTORS + 1)
        return self.grid(((self.scene == scene)[:, None] & (self.actor == actor)).flatten())


@dataclass(frozen=True, eq=False)
class Run:
    """What was written under a setting, and what was attended to meanwhile."""

    words: list[str]
    trace: Trace
    config: DyCokeConfig

    def states(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Boolean (visual,) each: attended to, waiting, just back (attended to, but not at the step before), merged away;
        in the layers from L on, while the word at `step` is written."""
        merged = ~self.trace.kept(0)[step]
        kept = self.trace.kept(self.config.score_layer)
        before = kept[max(step - 1, 0)]
        return kept[step], ~kept[step] & ~merged, kept[step] & ~before, merged


class Lab:
    """A model, its clips, and the runs made so far: a setting is run once."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = copy.deepcopy(model), processor  # other cells may use theirs meanwhile
        self._lock = RLock()
        self._clips: dict[str, Clip] = {}
        self._runs: dict[tuple[str, DyCokeConfig], Run] = {}

    @property
    def names(self) -> list[str]:
        return sorted(path.name for path in CLIPS.glob("*.mp4"))

    def clip(self, name: str) -> Clip:
        """Raises FileNotFoundError, by `read_video`, for a name that is not in data/clips."""
        with self._lock:
            return self._clips.get(name) or self._read(name)

    def _read(self, name: str) -> Clip:
        question, answer, scene, actor = truth(name)
        inputs = prompt(self.processor, read_video(CLIPS / name), question)
        videos = inputs["pixel_values_videos"]
        with torch.inference_mode():
            found = self.model.get_video_features(videos, return_dict=True).pooler_output[0]
        features = found[:-1].view(videos.shape[1], -1, found.shape[-1]).clone()
        words = [*answer.split(), self.processor.tokenizer.eos_token]
        self._clips[name] = Clip(name, question, words, videos[0] / 2 + 0.5, features, scene, actor, inputs)
        return self._clips[name]

    def known(self, name: str, config: DyCokeConfig) -> Run | None:
        """The run under this setting if it was made already."""
        return self._runs.get((name, config))

    def run(self, name: str, config: DyCokeConfig) -> Run:
        """Real greedy `generate` on the clip under this setting, with every head's attention captured."""
        key = (name, config)
        with self._lock:
            if key in self._runs:
                return self._runs[key]
            clip = self.clip(name)
            with DyCoke(config)(self.model), capture_attention(self.model, heads="all") as trace:
                ids = self.model.generate(**clip.inputs)[0, clip.inputs["input_ids"].shape[1] :]
            words = self.processor.tokenizer.convert_ids_to_tokens(ids)
            while len(self._runs) >= SHOWN_RUNS:
                self._runs.pop(next(iter(self._runs)))
            self._runs[key] = Run(words, trace, config)
            return self._runs[key]


def equivalent_threshold(similarity: Tensor, ratio: float) -> float:
    """The similarity threshold that drops as many tokens of a video as merging by this ratio K does (not the same ones: a
    ratio takes as many from each frame).

    similarity: (frames, tokens), NaN where a token has no reference, as `temporal_merge` returns it.
    """
    values = similarity[~similarity.isnan()].sort(descending=True).values
    tokens = similarity.shape[1]
    gone = (tokens - retained_count(tokens, ratio)) * (len(values) // tokens)
    return 1.0 if gone == 0 else min(1.0, float(values[gone - 1]))


def equivalent_ratio(similarity: Tensor, threshold: float) -> float:
    """The ratio K that drops as many tokens of a video as this similarity threshold does."""
    values = similarity[~similarity.isnan()]
    return float((values >= threshold).float().mean()) if len(values) else 0.0


def count_wrong(words: list[str], answer: list[str]) -> int:
    """How many words are wrong in their place, left out, or too many."""
    return sum(wrong_words(words, answer)) + max(0, len(answer) - len(words))


def wrong_words(words: list[str], answer: list[str]) -> list[bool]:
    """Which of the written words differ from the right answer's word at the same place."""
    return [index >= len(answer) or word != answer[index] for index, word in enumerate(words)]
