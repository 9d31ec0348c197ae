"""Frames of a video, when each is shown, and which to take."""

from __future__ import annotations

import math
import sys
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers.video_utils import VideoMetadata

Frames = NDArray[np.uint8]
WANTED = "(frames, height, width, 3), uint8, 0 to 255"
EVEN = 0.05  # of a frame's duration: what times may be off and still count as even


@dataclass(frozen=True, eq=False)
class Video:
    """Some frames of a video.

    frames: (frames, height, width, 3), 0 to 255, as they are to be shown: turned and mirrored as the file
    asks for, with square pixels. numbers: which of the `total` frames these are; one may be there twice.
    fps: frames for each second, on average; None where there are no times. times: when each of these frames
    is shown, in seconds from the first frame on; None: evenly, at `fps`.
    """

    frames: Frames
    numbers: tuple[int, ...]
    total: int
    fps: float | None = None
    times: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for what is no video."""
        if not are_frames(self.frames):
            raise ValueError(f"frames is {described(self.frames)}: it must be {WANTED}")
        count = len(self.frames)
        if len(self.numbers) != count or (self.times is not None and len(self.times) != count):
            times = "none" if self.times is None else len(self.times)
            raise ValueError(f"there are {count} frames, {len(self.numbers)} numbers and {times} times")
        whole = isinstance(self.total, Integral)
        if not whole or not all(isinstance(n, Integral) and 0 <= n < self.total for n in self.numbers):
            raise ValueError(
                f"numbers={self.numbers!r:.80} must be whole, from 0 to below total={self.total!r}"
            )
        if self.fps is not None and not is_rate(self.fps):
            raise ValueError(f"fps={self.fps!r} must be a number above 0, or None")

    @property
    def metadata(self) -> VideoMetadata:
        """As transformers' processors want it. They compute a frame's time as its number / fps: where times
        are uneven, the numbers given to them are those that lead to the true times."""
        high, wide = self.frames.shape[1:3]
        seconds = None if self.fps is None else self.total / self.fps
        numbers: list[float] = list(self.numbers)
        if self.fps is not None and self.times is not None:
            exact = [time * self.fps for time in self.times]
            if any(abs(one - other) > EVEN for one, other in zip(exact, numbers, strict=True)):
                numbers = exact
        return VideoMetadata(self.total, self.fps, wide, high, seconds, frames_indices=numbers)  # type: ignore[arg-type]


def are_frames(array: Any) -> bool:
    """Return whether this is an array of frames."""
    return (
        isinstance(array, np.ndarray)
        and array.ndim == 4
        and array.shape[-1] == 3
        and array.dtype == np.uint8
        and array.size > 0
    )


def described(array: Any) -> str:
    """Return what an object is, for an error's message."""
    if isinstance(array, np.ndarray):
        return f"an array with shape {array.shape} and type {array.dtype}"
    return f"a {type(array).__name__}"


def is_rate(value: Any) -> bool:
    """Return whether this is a number above 0 that ends."""
    number: Any = value
    return isinstance(value, Real) and bool(0 < number <= sys.float_info.max)


def even_indices(total: int, count: int) -> list[int]:
    """Return `count` of `total` frames at even distances from the first on, by the rule of transformers'
    video processors."""
    return [number * total // count for number in range(count)]


def shown_at(times: Sequence[float], seconds: float, fps: float) -> list[int]:
    """Return the frames shown at 0, 1/fps, 2/fps, ... seconds. times: when each frame is shown, increasing
    from 0 on. seconds: when the last one ends."""
    count = max(1, math.ceil(seconds * fps - 1e-6))
    return [bisect_right(times, number / fps + 1e-6) - 1 for number in range(count)]
