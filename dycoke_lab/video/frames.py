"""Frames of a video, when each is shown, and which to take."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers.video_utils import VideoMetadata

Frames = NDArray[np.uint8]
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


def even_indices(total: int, count: int) -> list[int]:
    """Return `count` of `total` frames at even distances from the first on, by the rule of transformers'
    video processors."""
    return [number * total // count for number in range(count)]


def shown_at(times: Sequence[float], seconds: float, fps: float) -> list[int]:
    """Return the frames shown at 0, 1/fps, 2/fps, ... seconds. times: when each frame is shown, increasing
    from 0 on. seconds: when the last one ends."""
    count = max(1, math.ceil(seconds * fps - 1e-6))
    return [bisect_right(times, number / fps + 1e-6) - 1 for number in range(count)]
