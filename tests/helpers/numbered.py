"""Videos whose frame numbers can be read off the picture: ten bits, black or white, below; corners above."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RED, BLUE = (255, 0, 0), (0, 0, 255)


def picture(number, wide=80, high=64):
    """Red at the top left, blue at the top right, the number below."""
    found = np.full((high, wide, 3), 128, np.uint8)
    for bit in range(10):
        found[high // 2 :, bit * wide // 10 : (bit + 1) * wide // 10] = 255 * (number >> bit & 1)
    found[: high // 4, : wide // 4], found[: high // 4, 3 * wide // 4 :] = RED, BLUE
    return found


def number(frame):
    high, wide = frame.shape[:2]
    bits = [frame[high // 2 + 4 : high - 4, b * wide // 10 + 1 : (b + 1) * wide // 10 - 1] for b in range(10)]
    return sum(1 << bit for bit, part in enumerate(bits) if part.mean() > 128)


def numbers(video):
    return [number(frame) for frame in video.frames]


def corners(frame):
    """R, B or . for top left, top right, bottom left, bottom right."""

    def name(colour):
        return (
            "R" if colour[0] > 180 and colour[2] < 100 else "B" if colour[2] > 180 > colour[0] + 80 else "."
        )

    return "".join(name(frame[y, x].astype(int)) for y, x in ((3, 3), (3, -4), (-4, 3), (-4, -4)))


def write(
    path, count, codec="libx264", pix_fmt="yuv420p", rate=25, options=None, times=None, format=None, wide=80,
    high=64, bframes=None, gop=24, muxing=None, start=0, aspect=None,
):  # fmt: skip
    """times: when each frame is shown, in milliseconds; None: evenly."""
    with av.open(str(path), "w", format=format, options=muxing or {}) as out:
        stream = out.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = wide, high, pix_fmt
        stream.codec_context.gop_size = gop
        if bframes is not None:
            stream.codec_context.max_b_frames = bframes
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for place in range(count):
            frame = av.VideoFrame.from_ndarray(picture(place + start, wide, high), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[place], stream.codec_context.time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return Path(path)


def truth(path):
    """(numbers, times) of all frames, decoded in order from the start."""
    with av.open(str(path)) as container:
        found = [
            (number(frame.to_ndarray(format="rgb24")), frame.time) for frame in container.decode(video=0)
        ]
    return [place for place, _ in found], [time for _, time in found]


def with_matrix(path, a, b, c, d):
    """Let an mp4 file ask to be turned or mirrored."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    one = 1 << 16
    data[at : at + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path
