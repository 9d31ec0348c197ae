"""The only place where defaults live."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from dycoke_lab.methods.base import Method


@dataclass(frozen=True)
class DyCokeConfig:
    """What to merge and what to prune (paper, section 3).

    merge_ratio: K, the share of tokens removed from the later frames of each window; 0 merges nothing.
    merge_threshold: instead of K, remove every token at least this similar (cosine) to its reference.
    window: frames a window, from 2; the paper's is 4.
    merge: "drop" removes tokens (the paper); "average" folds them into the token they repeat.
    positions: "original" keeps the rotary position of each retained token; "repacked" renumbers them.
    score_layer: L, from 1. Decoder layers with index >= L are pruned, by the attention of layer L - 1.
    prune_ratio: P, the share of the remaining visual tokens that wait at each step; 0 prunes nothing.
    gate: a step selects anew only if the cosine between its attention and the step before is below this;
        above 1 selects at every step.
    waiting: where tokens wait that were not selected: on the "device", in the same buffers as those selected, with which they
        change places; on the "host", in pinned memory, fetched when selected, for which each selection is looked at by the CPU; or
        "nowhere": they are evicted, and the first selection stays for good.
    method: a name from `dycoke_lab.METHODS`, or a Method object.
    """

    merge_ratio: float = 0.7
    merge_threshold: float | None = None
    window: int = 4
    merge: Literal["drop", "average"] = "drop"
    positions: Literal["original", "repacked"] = "original"
    score_layer: int = 3
    prune_ratio: float = 0.7
    gate: float = 0.9
    waiting: Literal["device", "host", "nowhere"] = "device"
    method: str | Method = "dynamic"

    def __post_init__(self) -> None:
        from dycoke_lab.methods import METHODS, Method

        check_merge(self.merge_ratio, self.merge_threshold, self.window, self.merge, "merge_threshold")
        if not isinstance(self.prune_ratio, Real) or not 0 <= self.prune_ratio < 1:
            raise ValueError(f"prune_ratio={self.prune_ratio!r} must be at least 0 and below 1: the share that waits")
        if type(self.score_layer) is not int or self.score_layer < 1:
            raise ValueError(f"score_layer={self.score_layer!r} must be a whole number from 1: layer 0 is never pruned")
        if not isinstance(self.gate, Real) or not -1 <= self.gate <= 2:
            raise ValueError(f"gate={self.gate!r} must lie between -1 (never reselect) and 2 (always reselect)")
        if self.waiting not in ("device", "host", "nowhere"):
            raise ValueError(f"waiting={self.waiting!r} must be 'device', 'host' or 'nowhere'")
        if self.positions not in ("original", "repacked"):
            raise ValueError(f"positions={self.positions!r} must be 'original' or 'repacked'")
        if not isinstance(self.method, Method) and (not isinstance(self.method, str) or self.method not in METHODS):
            raise ValueError(f"method={self.method!r} must be one of {', '.join(METHODS)}, or a Method object")

    @property
    def merges(self) -> bool:
        """Whether any token can be merged away."""
        return self.merge_ratio != 0 or self.merge_threshold is not None

    @property
    def compresses(self) -> bool:
        """Whether a generation can differ from stock's."""
        return self.merges or self.prune_ratio > 0

    @property
    def retained(self) -> float:
        """Share of visual tokens that the pruned layers attend to in the end, by the paper's formula for a
        merge ratio: (1 - K (window - 1) / window) (1 - P). With a threshold it depends on the video: ValueError."""
        if self.merge_threshold is not None:
            raise ValueError("merge_threshold keeps another share of each video: read it off what temporal_merge returns")
        return (1 - self.merge_ratio * (self.window - 1) / self.window) * (1 - self.prune_ratio)


def check_merge(ratio: float | None, threshold: float | None, window: int, merge: str, name: str = "threshold") -> None:
    """Raise ValueError, naming the argument, for settings that temporal merging cannot run with."""
    if threshold is None and (not isinstance(ratio, Real) or not 0 <= ratio <= 1):
        raise ValueError(f"merge_ratio={ratio!r} must lie between 0 (merge nothing) and 1, or give {name} instead")
    if threshold is not None and (not isinstance(threshold, Real) or not -1 <= threshold <= 1):
        raise ValueError(f"{name}={threshold!r} is a cosine similarity: it must lie between -1 and 1")
    if not isinstance(window, int) or window < 2:
        raise ValueError(f"window={window} must be a whole number of frames from 2")
    if merge not in ("drop", "average"):
        raise ValueError(f"merge={merge!r} must be 'drop' or 'average'")
