"""Read a video from a file, a folder of pictures, or an array."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from numpy.typing import ArrayLike

from dycoke_lab.video.files import Listing, read_file
from dycoke_lab.video.frames import Video, even_indices, is_rate, shown_at
from dycoke_lab.video.pictures import (
    check_array,
    check_count,
    check_room,
    is_picture,
    read_folder,
    read_pictures,
)

SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".m2ts", ".wmv", ".flv")


def video_paths(sources: Sequence[str | Path]) -> list[Path]:
    """Return the videos of some sources: a file is one, a folder of pictures is one, and a folder of video
    files is as many as it holds. Raises FileNotFoundError for a source that is not there."""
    found = []
    for source in map(Path, sources):
        if not os.path.exists(source):  # which says no to names too long, too
            raise FileNotFoundError(f"videos={str(source)!r} is neither a file nor a folder")
        inside = (
            sorted(p for p in source.iterdir() if p.suffix.lower() in SUFFIXES) if source.is_dir() else []
        )
        found += inside or [source]
    return found


def read_video(
    source: str | Path | ArrayLike, frames: int | None = None, fps: float | None = None,
    rate: float | None = None,
) -> Video:  # fmt: skip
    """Return frames of a video. Only those chosen are held in memory.

    source: a file that FFmpeg reads (mp4, webm, gif, ...); a folder of pictures, taken in the order of their
    names' numbers; or an array (frames, height, width, 3), 0 to 255. frames: at most this many, at even
    distances by number, as transformers' processors choose them. fps: those shown at 0, 1/fps, 2/fps, ...
    seconds; one that is shown for long is taken as often. Neither: all there are. rate: the frames for each
    second of a folder or an array, which have no times of their own.

    Raises FileNotFoundError for a missing source, ValueError for one without frames or that cannot be read,
    or whose frames would not fit into memory.
    """
    if frames is not None and (isinstance(frames, bool) or not isinstance(frames, int) or frames < 1):
        raise ValueError(f"frames={frames} must be an integer from 1, or None for all")
    for name, value in {"fps": fps, "rate": rate}.items():
        if value is not None and not is_rate(value):
            raise ValueError(f"{name}={value} must be a number above 0, or None")
    if frames is not None and fps is not None:
        raise ValueError(f"give frames={frames} or fps={fps}, not both")

    def choose(listing: Listing) -> list[int]:
        if fps is not None:
            check_count(f"fps={fps}", listing.seconds * fps)
            return shown_at(listing.times, listing.seconds, fps)
        total = len(listing.times)
        count = total if frames is None else min(frames, total)
        check_count("source", count)
        return even_indices(total, count)

    path = Path(source) if isinstance(source, str | Path) else None
    if path is not None and not os.path.exists(path):
        raise FileNotFoundError(f"source={str(source)!r} is neither a file nor a folder")
    if path is not None and not path.is_dir() and not is_picture(path):
        if rate is not None:
            raise ValueError(
                f"rate={rate} is for a folder or an array: the file {path.name} has its own times"
            )
        pictures, numbers, listing = read_file(path, choose)
        times = tuple(listing.times[number] for number in numbers)
        return Video(pictures, tuple(numbers), len(listing.times), listing.fps, times)

    files = [] if path is None else read_folder(path) if path.is_dir() else [path]
    array = None if path is not None else check_array(source)
    total = len(files) if array is None else len(array)
    if fps is not None and rate is None:
        raise ValueError(f"fps={fps} needs to know when frames are shown: give rate=, or frames= instead")
    check_count("source", total if fps is not None else 0)
    evenly = range(total) if fps is None else [number / (rate or 1) for number in range(total)]
    numbers = choose(Listing(evenly, total / (rate or 1), rate or 1))
    if array is None:
        assert path is not None
        pictures = read_pictures(path, [files[number] for number in numbers])
    else:
        check_room("source", len(numbers), array[0])
        pictures = array[numbers]
    return Video(pictures, tuple(numbers), total, rate)
