"""Read a video file and put it into a chat prompt, with transformers' own decoder (PyAV) and processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from transformers.video_utils import load_video


def read_video(path: str | Path, frames: int | None = None) -> NDArray[np.uint8]:
    """Frames of a video file as (frames, height, width, 3), 0 to 255; `frames` of them at even distances, or all.

    Raises FileNotFoundError for a missing file, ValueError for one that holds no video or too few frames.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path={str(path)!r} is not a file")
    if frames is not None and frames < 1:
        raise ValueError(f"frames={frames} must be at least 1, or None for all")
    try:
        video, _ = load_video(str(path), num_frames=frames, backend="pyav")  # type: ignore[arg-type]
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise ValueError(f"path={str(path)!r} cannot be read as a video: {error}") from error
    return video


def prompt(processor: Any, video: NDArray[np.uint8], question: str) -> Any:
    """The model's inputs for one question about one video, through the chat template."""
    content = [{"type": "video"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return processor(text=text, videos=[video], return_tensors="pt")
