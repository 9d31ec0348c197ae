"""Pictures as they are to be shown: upright, opaque, 8 bits a colour; and folders of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dycoke_lab.video.frames import WANTED, Frames, are_frames

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".avif", ".jp2",
    ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico",
)  # fmt: skip
ROOM = 0.8  # of the memory that is free, what pictures may take
ENTRY = 64  # bytes that a frame takes in lists
MEMORY = 8 * 2**30  # where the system does not say how much is free


def on_white(picture: NDArray[np.uint8]) -> Frames:
    """Return (height, width, 4) as (height, width, 3): transparent parts show white, as in a browser."""
    colour, alpha = picture[..., :3].astype(np.uint32), picture[..., 3:].astype(np.uint32)
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def turned(picture: Frames, matrix: Sequence[int] | None) -> Frames:
    """Return a picture turned or mirrored as a video file's display matrix says: its first two columns of
    three, (a, b, c, d), take a place (x, y) to (a x + c y, b x + d y). None: as it is."""
    if matrix is None or not any(matrix):
        return picture
    a, b, c, d = matrix
    if abs(b) + abs(c) > abs(a) + abs(d):
        picture, a, d = picture.transpose(1, 0, 2), c, b
    return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def read_folder(path: Path) -> list[Path]:
    """Return the pictures of a folder, in the order of their names' numbers; hidden files are none.

    Raises ValueError for a folder without pictures.
    """
    files = [
        file for file in path.iterdir()
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    ]  # fmt: skip
    if not files:
        raise ValueError(f"source={str(path)!r} is a folder without pictures ({', '.join(SUFFIXES)})")
    return sorted(files, key=lambda file: (_numbered(file.name), file.name))


def _numbered(name: str) -> list[tuple[int, str]]:
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), "") if number % 2 else (-1, part) for number, part in enumerate(parts)]


def is_picture(path: Path) -> bool:
    """Return whether a file is one picture."""
    if path.suffix.lower() not in SUFFIXES:
        return False
    try:
        with Image.open(path) as opened:
            return getattr(opened, "n_frames", 1) == 1
    except Exception:
        return True  # to be read as one, which says what is wrong


def read_pictures(path: Path, files: Sequence[Path]) -> Frames:
    """Return pictures of a folder, which must have one size."""
    found: Frames | None = None
    for place, file in enumerate(files):
        picture = read_picture(file)
        if found is None:
            check_room(f"source={str(path)!r}", len(files), picture)
            found = np.empty((len(files), *picture.shape), np.uint8)
        if picture.shape != found.shape[1:]:
            (high, wide), (first_high, first_wide) = picture.shape[:2], found.shape[1:3]
            raise ValueError(
                f"source={str(path)!r}: {file.name} is {wide} x {high}, the first picture {first_wide} x "
                f"{first_high}; they must have one size"
            )
        found[place] = picture
    assert found is not None
    return found


def read_picture(file: Path) -> Frames:
    """Return a picture as (height, width, 3), 0 to 255.

    16-bit greys are scaled to 8 bits, floats from 0 to 1 likewise; transparent parts show white. Raises
    ValueError, with the file's name, for what cannot be read, an animation, or other floats and integers.
    """
    try:
        with Image.open(file) as opened:
            count = getattr(opened, "n_frames", 1)
            upright = ImageOps.exif_transpose(opened) if count == 1 else None
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise ValueError(f"{str(file)!r} has more than {most} million pixels: scale it down") from error
    except Exception as error:  # of a damaged file, Pillow raises errors of many kinds
        raise ValueError(f"{str(file)!r} cannot be read as a picture: {error}") from error
    if upright is None:
        raise ValueError(f"{str(file)!r} has {count} pictures: give the file itself, not its folder")
    return _rgb(upright, file)


def _rgb(picture: Image.Image, file: Path) -> Frames:
    if picture.mode.startswith("I"):  # integers of 16 bits, of more if the file has more
        values = np.asarray(picture)
        if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise ValueError(
                f"{str(file)!r} has values from {values.min()} to {values.max()}: integers must be from 0 to "
                "65535"
            )
        grey = (values.astype(np.uint32) * 255 + 32767) // 65535
    elif picture.mode == "F":
        values = np.asarray(picture)
        if not (np.isfinite(values).all() and values.min(initial=0) >= 0 and values.max(initial=0) <= 1):
            raise ValueError(
                f"{str(file)!r} has values from {values.min():g} to {values.max():g}: floats must be from 0 "
                "to 1"
            )
        grey = np.rint(255 * values)
    elif picture.has_transparency_data:
        return on_white(np.asarray(picture.convert("RGBA")))
    else:
        return np.asarray(picture.convert("RGB"))
    return np.repeat(grey.astype(np.uint8)[..., None], 3, 2)


def check_array(source: Any) -> Frames:
    """Return an array that is a video as it is. Raises ValueError for what is none."""
    try:
        array = np.asarray(source)
    except Exception as error:  # whatever an object says that has no array
        raise ValueError(f"source is a {type(source).__name__} that is no array: {error}") from error
    if not are_frames(array):
        raise ValueError(f"source has shape {array.shape} and type {array.dtype}: an array must be {WANTED}")
    return array


def check_room(source: str, count: int, picture: Frames) -> None:
    """Raise ValueError if so many pictures would not fit into the memory that is free."""
    free = free_memory()
    if free is not None and count * picture.nbytes > ROOM * free:
        high, wide = picture.shape[:2]
        raise ValueError(
            f"{source}: {count} frames of {wide} x {high} take {count * picture.nbytes / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB are free: take fewer, by frames= or fps="
        )


def check_count(source: str, count: float) -> None:
    """Raise ValueError if so many frames would not fit, whatever their size, before they are listed."""
    free = free_memory() or MEMORY
    if count * ENTRY > ROOM * free:
        raise ValueError(
            f"{source}: {count:.3g} frames do not fit into memory: take fewer, by frames= or fps="
        )


def free_memory() -> int | None:
    """Return how many bytes can be had; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kilobytes = [line.split()[1] for line in lines if line.startswith("MemAvailable")]
    return 1024 * int(kilobytes[0]) if kilobytes else None
