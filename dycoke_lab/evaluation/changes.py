"""How many of the active tokens a step replaces, on a specimen's own answers."""

from __future__ import annotations

from dycoke_lab.attention.capture import capture_attention
from dycoke_lab.attention.drift import replaced
from dycoke_lab.evaluation.grids import answer_task
from dycoke_lab.methods import DyCoke
from dycoke_lab.models.loading import load_model
from dycoke_lab.specimen.tasks import make_task


def replaced_share(
    specimen: str, from_layer: int, videos: int, merge_ratio: float = 0.7, prune_ratio: float = 0.7,
    seed: int = 0, scenes: int = 4,
) -> float:  # fmt: skip
    """Return the share of the active tokens that a decoding step replaces under DyCoke, mean over the
    steps of descriptions of so many test videos."""
    model, _ = load_model(specimen, seed)
    task = make_task("describe", videos, scenes, specimen=specimen)
    with capture_attention(model) as trace:
        answer_task(model, task, DyCoke(merge_ratio, prune_ratio, from_layer))
    found = [replaced(trace.kept(from_layer, sample)[1:]).mean() for sample in range(videos)]
    return float(sum(found) / len(found))
