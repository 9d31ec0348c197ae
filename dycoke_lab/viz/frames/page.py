"""Put a picture together from pixels, boxes and text.

An explorer's change must show at once, and a matplotlib figure takes a fifth of a second: here matplotlib
draws axes, once for each kind, and Pillow draws what moves on them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.Image import Image as Picture

WIDTH, HEIGHT = 1250, 480  # pixels; views of frames are as high as their clip needs
LARGE, MEDIUM, SMALL = 24, 19, 15  # pixels
POINTS = 11  # text of axes
LEFT, TOP = 12, 84  # where a view begins, and where what is below its heading does
SMALL_PLOT = (460, 188)
_DRAWING = Lock()  # matplotlib is not made for several threads
Box = tuple[float, float, float, float]  # left, top, right, bottom


@lru_cache(64)
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return matplotlib's own font, so that text looks the same on every machine."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


@dataclass(frozen=True)
class Plot:
    """Hold axes as a picture, and where on it their numbers are."""

    picture: Picture
    area: Box  # within the picture
    xlim: tuple[float, float]
    ylim: tuple[float, float]
    log: bool = False

    def x(self, value: float) -> float:
        """Return a value's place in pixels from the picture's left."""
        left, _, right, _ = self.area
        return left + (right - left) * (value - self.xlim[0]) / (self.xlim[1] - self.xlim[0])

    def y(self, value: float) -> float:
        """Return a value's place in pixels from the picture's top."""
        _, top, _, bottom = self.area
        scale: Callable[[float], float] = math.log if self.log else float
        low, high = map(scale, self.ylim)
        value = max(value, self.ylim[0]) if self.log else value
        share = (scale(value) - low) / (high - low)
        return bottom - (bottom - top) * share


def plot(width: int, height: int, draw: Callable[[Any], None], area: Box) -> Plot:
    """Return what `draw(ax)` makes of matplotlib axes.

    area: left, bottom, width, height of the plotting area, as shares of the picture.
    """
    with _DRAWING:
        return _plot(width, height, draw, area)


def _plot(width: int, height: int, draw: Callable[[Any], None], area: Box) -> Plot:
    figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor="white")
    ax = figure.add_axes(area)
    draw(ax)
    # little is left to the user's style: an explorer looks the same in every notebook
    ax.set_facecolor("white")
    ax.tick_params(labelsize=POINTS, labelcolor="black", color="black", length=4, pad=4)
    ax.tick_params(left=True, bottom=True)
    ax.spines[:].set(color="black", linewidth=0.8, visible=True)
    ax.xaxis.label.set_color("black")
    ax.yaxis.label.set_color("black")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    left, bottom, wide, high = area
    inner = (left * width, (1 - bottom - high) * height, (left + wide) * width, (1 - bottom) * height)
    picture = as_picture(np.asarray(canvas.buffer_rgba()))
    return Plot(picture, inner, ax.get_xlim(), ax.get_ylim(), ax.get_yscale() == "log")


def small_plot(draw: Callable[[Any], None]) -> Plot:
    """Return small axes with room for a title."""
    return plot(*SMALL_PLOT, draw, (0.14, 0.34, 0.82, 0.48))


def to_bytes(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return 0 to 1 as 0 to 255."""
    return (pixels * 255).clip(0, 255).astype(np.uint8)


def as_picture(pixels: NDArray[np.uint8]) -> Picture:
    """Return (height, width, 3 or 4), 0 to 255, as a picture."""
    return Image.fromarray(pixels).convert("RGB")


class Place(NamedTuple):
    """A part of a picture that can be clicked. what: "frame", "step", ...; number: which one."""

    box: Box
    what: str
    number: int


class Hit(NamedTuple):
    """What was clicked, and where in it: across and down, 0 to 1."""

    what: str
    number: int
    across: float
    down: float


def places(picture: Picture) -> list[Place]:
    """Return the parts of a view that can be clicked."""
    return list(picture.info.get("places", ()))


def hit(found: Sequence[Place], x: float, y: float) -> Hit | None:
    """Return what lies at a place, in pixels from the picture's left and top; None if nothing does."""
    for (left, top, right, bottom), what, number in reversed(found):
        if left <= x < right and top <= y < bottom:
            return Hit(what, number, (x - left) / (right - left), (y - top) / (bottom - top))
    return None


class Page:
    """Hold a white picture to draw on. Places are pixels from its left and its top."""

    def __init__(self, height: int = HEIGHT) -> None:
        self.picture = Image.new("RGB", (WIDTH, height), "white")
        self.picture.info["places"] = self.places = []  # no file format writes them
        self.pen = ImageDraw.Draw(self.picture)

    def place(self, box: Box, what: str, number: int) -> None:
        """Note that a box can be clicked."""
        self.places.append(Place(box, what, number))

    def fitted(self, x: float, y: float, text: str, width: float, size: int = MEDIUM, **look: Any) -> None:
        """Write a text, smaller if it would be wider than `width` pixels."""
        self.text(x, y, text, fitting([text], width, size, look.get("bold", False)), **look)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: int = MEDIUM,
        bold: bool = False,
        colour: str = "black",
        anchor: str = "lm",
    ) -> None:
        """Write a text. anchor: Pillow's two letters; "lm" puts the middle of its left edge at (x, y)."""
        self.pen.text((x, y), text, fill=colour, font=font(size, bold), anchor=anchor)

    def box(self, box: Box, fill: str | None = None, outline: str | None = None, width: int = 1) -> None:
        """Draw a box, filled or outlined."""
        left, top, right, bottom = map(round, box)
        if right <= left or bottom <= top:  # smaller than a pixel
            return
        self.pen.rectangle((left, top, right - 1, bottom - 1), fill, outline, width)

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: int = 2) -> None:
        """Draw a line through the points."""
        self.pen.line(points, colour, width)

    def paste(self, x: float, y: float, picture: Picture) -> None:
        """Draw a picture, its left upper corner at (x, y)."""
        self.picture.paste(picture, (round(x), round(y)))


def fitting(texts: Sequence[str], width: float, size: int = MEDIUM, bold: bool = False) -> int:
    """Return the size, in pixels, at which all texts are at most `width` pixels wide; at most `size`."""
    while size > 9 and any(font(size, bold).getlength(text) > width for text in texts):
        size -= 1
    return size


def heading(title: str, about: str, height: int = HEIGHT, width: float = WIDTH - 2 * LEFT) -> Page:
    """Return a page with a title, and a line below it, both at most `width` pixels wide."""
    page = Page(height)
    page.fitted(LEFT, 22, title, width, LARGE, bold=True)
    page.fitted(LEFT, 52, about, width)
    return page


def png(picture: Picture) -> bytes:
    """Return a picture as the bytes of a PNG file."""
    out = io.BytesIO()
    picture.save(out, "png", compress_level=1)
    return out.getvalue()
