"""What share of a video's tokens can be merged away? Predicted from the tokens' similarity alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from dycoke_lab.methods import Assignment, Compression, Merger, VideoTokens
from dycoke_lab.methods.temporal_merging import keep_mask, merged_into

RATIOS = tuple(round(0.1 * number, 1) for number in range(1, 10))


@dataclass(frozen=True)
class _Probe(Merger):
    """Merges nothing, and notes what it was given."""

    seen: list[Tensor] = field(default_factory=list, compare=False)

    def merge(self, video: VideoTokens) -> Assignment:
        self.seen.append(video.features.flatten(2, 3))
        return Assignment.keep(torch.ones(video.features.flatten(1, 3).shape[:2], dtype=torch.bool))


def video_features(model: Any, inputs: Mapping[str, Any]) -> list[Tensor]:
    """Return the visual tokens of a prompt's videos as a merger gets them: (videos, frames, tokens, dim), for
    each size of video."""
    probe = _Probe()
    with torch.inference_mode(), Compression.of(probe)(model):
        model(**inputs, use_cache=False, logits_to_keep=1)
    return probe.seen


def merging_loss(features: Tensor, ratio: float, window: int = 4) -> tuple[Tensor, Tensor]:
    """Return, for each video, the share of tokens that temporal merging retains, and how unlike the others
    are to what stands for them: mean of 1 - cosine over all tokens, in which a retained one counts 0.

    features: (videos, frames, tokens, dim).
    """
    keep, _ = keep_mask(features, ratio, window)
    into = merged_into(keep, window)
    flat = features.flatten(1, 2).float()
    stands = flat.gather(1, into[..., None].expand_as(flat))
    unlike = (1 - F.cosine_similarity(flat, stands, dim=-1)).clamp(min=0) * ~keep.flatten(1)
    return keep.flatten(1).float().mean(1), unlike.mean(1)


def diagnose_merging(model: Any, inputs: Mapping[str, Any], ratios: Iterable[float] = RATIOS) -> pd.DataFrame:
    """Return a row for each video of a prompt and K: retained, and unlike, by `merging_loss`."""
    rows = []
    for features in video_features(model, inputs):
        for ratio in ratios:
            retained, unlike = (part.tolist() for part in merging_loss(features, ratio))
            about = {"video": range(len(features)), "merge_ratio": ratio}
            rows.append(pd.DataFrame({**about, "retained": retained, "unlike": unlike}))
    return pd.concat(rows, ignore_index=True)
