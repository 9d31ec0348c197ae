"""Decode a video file with PyAV: every frame that the file shows, in order, and no other.

What is true of a file is what decoding it from its start shows. A listing of its packets is faster, and is
used where packets and frames are proved to agree: in containers with an index, for codecs with a packet for
each frame. It is checked at the file's end and wherever frames are sought; where it fails, all is decoded.
"""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from tqdm.auto import tqdm

from dycoke_lab.video.frames import Frames
from dycoke_lab.video.pictures import check_room, on_white, turned

INDEXED = ("mov", "matroska")  # containers whose packets are listed
ONE_EACH = ("h264", "hevc", "vp9", "av1", "mjpeg", "prores", "dnxhd", "ffv1")  # codecs: a packet is a frame
FAR = 250  # frames; what is further ahead is sought, what is nearer is decoded up to
WAIT = 2  # seconds until a progress bar appears


@dataclass(frozen=True)
class Listing:
    """The frames that a file shows.

    times: of each, seconds from the first on, increasing. seconds: when the last one ends. fps: frames for
    each second, on average. marks: their times in the stream's units, and keys: those of the keyframes, if
    frames can be sought; else None.
    """

    times: Sequence[float]
    seconds: float
    fps: float
    marks: list[int] | None = None
    keys: list[int] | None = None


class _Otherwise(Exception):
    """What is decoded is not what was listed."""


def read_file(path: Path, choose: Any) -> tuple[Frames, list[int], Listing]:
    """Return the frames of a file that `choose(listing)` numbers, the numbers, and the listing.

    Raises ValueError for a file that cannot be read as a video.
    """
    try:
        listing = _listed(path)
        if listing is not None:
            try:
                numbers = choose(listing)
                return _taken(path, listing, numbers), numbers, listing
            except _Otherwise:
                pass
        listing = _decoded(path)
        numbers = choose(listing)
        return _taken(path, listing, numbers), numbers, listing
    except (av.FFmpegError, EOFError) as error:
        raise ValueError(f"source={str(path)!r} cannot be read as a video: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _open(path: Path) -> Any:
    """Open a file, whatever is in its name: FFmpeg would take what stands before a colon for a protocol."""
    return av.open(f"file:{path}")


def _stream(container: Any, path: Path) -> Any:
    videos = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
    if not videos:
        raise ValueError(f"source={str(path)!r} holds no video")
    if videos[0].codec_context is None:  # of a cut file, or unknown to FFmpeg
        raise ValueError(f"source={str(path)!r} cannot be read as a video: how it is encoded is not known")
    videos[0].thread_type = "AUTO"
    return videos[0]


def _listed(path: Path) -> Listing | None:
    """Return what the packets say, or None where they don't tell what is shown."""
    with _open(path) as container:
        stream = _stream(container, path)
        kind = container.format.name.split(",")
        if not set(kind) & set(INDEXED) or stream.codec_context.name.partition("_")[0] not in ONE_EACH:
            return None
        packets = [  # not the packets themselves, which hold all that the file holds
            (p.pts, p.duration or 0, p.is_keyframe, p.is_discard or p.is_corrupt)
            for p in container.demux(stream) if p.size
        ]  # fmt: skip
        if len(packets) < stream.frames:
            warnings.warn(
                f"source={str(path)!r} should have {stream.frames} frames, and {len(packets)} are there: a "
                "part of the file is missing",
                stacklevel=2,
            )
        if any(mark is None or hidden for mark, _, _, hidden in packets):
            return None
        marks = sorted(mark for mark, *_ in packets)
        keys = sorted(mark for mark, _, key, _ in packets if key)
        if not keys or len(set(marks)) < len(marks):
            return None
        last = max(packets)[1]
        times = [float((mark - marks[0]) * stream.time_base) for mark in marks]
        listing = _listing(times, float(last * stream.time_base), stream, marks, keys)
    try:  # the last group of frames: is what was listed really shown?
        for _ in _ordered(path, listing, _start(listing, len(marks) - 1)):
            pass
    except _Otherwise:
        return None
    return listing


def _decoded(path: Path) -> Listing:
    """Return what decoding the whole file shows."""
    with _open(path) as container:
        stream = _stream(container, path)
        about = dict(total=stream.frames or None, desc=f"listing {path.name}", unit=" frames")
        found = []
        with tqdm(_shown(container, stream, path), delay=WAIT, **about) as frames:
            found = [(frame.pts, frame.duration) for frame in frames]
        if not found:
            raise ValueError(f"source={str(path)!r} holds no frames")
        marks = [mark for mark, _ in found]
        if any(mark is None for mark in marks) or any(b <= a for a, b in pairwise(marks)):
            rate = float(stream.average_rate or stream.guessed_rate or 25)
            return _listing([number / rate for number in range(len(found))], 1 / rate, stream)
        times = [float((mark - marks[0]) * stream.time_base) for mark in marks]
        return _listing(times, float((found[-1][1] or 0) * stream.time_base), stream)


def _listing(
    times: list[float],
    last: float,
    stream: Any,
    marks: list[int] | None = None,
    keys: list[int] | None = None,
) -> Listing:
    """last: how long the last frame is shown, in seconds; 0 where the file does not say."""
    if not last:
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        last = times[-1] / (len(times) - 1) if len(times) > 1 else 1 / rate
    seconds = times[-1] + last
    return Listing(times, seconds, len(times) / seconds, marks, keys)


def _shown(container: Any, stream: Any, path: Path) -> Iterator[Any]:
    """Yield the frames that are shown, in order. What cannot be decoded is left out, and told."""
    broken = 0
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            broken += 1
            continue
        yield from frames
    if broken:
        warnings.warn(
            f"source={str(path)!r}: {broken} packets are damaged; their frames are left out", stacklevel=2
        )


def _start(listing: Listing, number: int) -> int:
    """Return the number of the keyframe at or before a frame; 0 where none can be sought."""
    if listing.marks is None or listing.keys is None:
        return 0
    key = listing.keys[max(bisect_right(listing.keys, listing.marks[number]) - 1, 0)]
    return bisect_right(listing.marks, key) - 1


def _ordered(path: Path, listing: Listing, start: int = 0) -> Iterator[tuple[int, Any, Any]]:
    """Yield each frame's number, the frame, and its pixels' aspect, from `start` on.

    start: 0, or a keyframe's number. Raises _Otherwise when something else is decoded than was listed.
    """
    marks = listing.marks
    with _open(path) as container:
        stream = _stream(container, path)
        if marks is None:
            for number, frame in enumerate(_shown(container, stream, path)):
                yield number, frame, stream.sample_aspect_ratio
            return
        if start:
            container.seek(marks[start], stream=stream)
        number = start
        with warnings.catch_warnings(action="ignore"):
            for frame in _shown(container, stream, path):
                if number == start and start and frame.pts is not None and frame.pts < marks[start]:
                    continue  # on the way to the keyframe, or shown before it and decoded after it
                if number >= len(marks) or frame.pts != marks[number]:
                    raise _Otherwise
                yield number, frame, stream.sample_aspect_ratio
                number += 1
        if number < len(marks):
            raise _Otherwise


def _taken(path: Path, listing: Listing, numbers: Sequence[int]) -> Frames:
    """Return the frames of these numbers, which do not decrease."""
    found: Frames | None = None
    here, frames = -1, _ordered(path, listing)
    with tqdm(total=numbers[-1] + 1, delay=WAIT, desc=f"reading {path.name}", unit=" frames") as bar:
        for place, number in enumerate(numbers):
            if number > here:
                start = _start(listing, number)
                if start - here > FAR:
                    frames = _ordered(path, listing, start)
                wanted = next((as_shown(frame, aspect) for at, frame, aspect in frames if at == number), None)
                if wanted is None:
                    raise _Otherwise
                here, picture = number, wanted
                bar.update(number + 1 - bar.n)
            if found is None:
                check_room(f"source={str(path)!r}", len(numbers), picture)
                found = np.empty((len(numbers), *picture.shape), np.uint8)
            if picture.shape != found.shape[1:]:
                sizes = [f"{shape[1]} x {shape[0]}" for shape in (found.shape[1:], picture.shape)]
                raise ValueError(
                    f"source={str(path)!r}: frame {number} is {sizes[1]}, the first one {sizes[0]}; "
                    "frames must have one size: cut the file there, or scale it"
                )
            found[place] = picture
    assert found is not None
    return found


def as_shown(frame: Any, aspect: Any) -> Frames:
    """Return a frame as (height, width, 3), 0 to 255: with square pixels, turned and mirrored as the file
    asks for, transparent parts on white.

    aspect: a pixel's width / its height; None or 0: 1.
    """
    clear = any(component.is_alpha for component in frame.format.components)
    wide = max(1, round(frame.width * float(aspect or 1)))
    picture = frame.to_ndarray(format="rgba" if clear else "rgb24", width=wide, height=frame.height)
    return turned(on_white(picture) if clear else picture, _matrix(frame))


def _matrix(frame: Any) -> tuple[int, int, int, int] | None:
    """Return a, b, c, d of a frame's display matrix, three by three."""
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d, *_ = np.frombuffer(bytes(data), "=i4").tolist()
            return a, b, c, d
    return None
