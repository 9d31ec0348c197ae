"""The synthetic videos that the specimen watches, with the truth of every frame.

A video is a sequence of scenes, each about four frames long, cut at a jittered frame. A still, noisy
background stays for the whole video; in each scene one actor (a colour and a shape) moves across it.
Frames are 32 x 32 pixels; the specimen sees a frame as 4 x 4 visual tokens of 8 x 8 pixels, and the actor
fills one of them.

The world was chosen so that there is something to see: what the answer needs next lies in another scene
than what it needed last, and nothing but the video says which.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SIZE = 32  # pixels a side
GRID = 4  # visual tokens a side
SPRITE = 8  # pixels a side of an actor
STEP = 8  # actors stand and move on a lattice of this many pixels
CADENCE = 4  # frames a scene, before the cuts are jittered
JITTER = 1  # frames by which a cut may move either way
SCENES = (2, 3, 4, 5)  # numbers of scenes a video may have

COLOURS = {
    "red": (1.0, 0.1, 0.1),
    "green": (0.1, 0.8, 0.1),
    "blue": (0.2, 0.3, 1.0),
    "yellow": (1.0, 0.9, 0.1),
    "magenta": (0.9, 0.2, 0.9),
    "cyan": (0.1, 0.9, 0.9),
}
SHAPES = {
    "square": ("########",) * 8,
    "stripes": ("########", "########", "........", "........") * 2,
    "plus": ("...##...",) * 3 + ("########",) * 2 + ("...##...",) * 3,
    "triangle": tuple("#" * (n + 1) + "." * (7 - n) for n in range(8)),
    "cross": ("##....##", "###..###", ".######.", "..####..", "..####..", ".######.", "###..###", "##....##"),
    "frame": ("########",) * 2 + ("##....##",) * 4 + ("########",) * 2,
}
COLOUR_NAMES, SHAPE_NAMES = tuple(COLOURS), tuple(SHAPES)


@dataclass(frozen=True)
class Videos:
    """A batch of videos that have the same number of scenes, with their truth.

    pixels: (videos, frames, 3, 32, 32), 0 to 1. colour, shape: (videos, scenes), indices into
    COLOUR_NAMES and SHAPE_NAMES. scene: (videos, frames), which scene each frame shows.
    shown: (videos, frames, 4, 4), True where a visual token's pixels touch the actor.
    """

    pixels: Tensor
    colour: Tensor
    shape: Tensor
    scene: Tensor
    shown: Tensor

    @property
    def scenes(self) -> int:
        return self.colour.shape[1]

    def __len__(self) -> int:
        return self.pixels.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Videos:
        return Videos(*(x[index] for x in (self.pixels, self.colour, self.shape, self.scene, self.shown)))


def make_videos(count: int, scenes: int, generator: torch.Generator) -> Videos:
    """Draw `count` videos of `scenes` scenes (4 * scenes frames). The generator's state decides everything."""
    if count < 1 or scenes < 1:
        raise ValueError(f"count={count} and scenes={scenes} must both be at least 1")

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator)

    frames = scenes * CADENCE
    start = torch.arange(scenes) * CADENCE + integers(-JITTER, JITTER + 1, count, scenes)
    start[:, 0] = 0
    time = torch.arange(frames)
    scene = (time[None, :, None] >= start[:, None, 1:]).sum(-1)
    since = time[None] - start.gather(1, scene)

    colour, shape = integers(0, len(COLOURS), count, scenes), integers(0, len(SHAPES), count, scenes)
    corner = _bounce(
        integers(0, (SIZE - SPRITE) // STEP + 1, count, scenes, 2), integers(-1, 2, count, scenes, 2), scene, since
    )
    masks = torch.tensor([[[c == "#" for c in row] for row in SHAPES[name]] for name in SHAPE_NAMES]).float()
    offset = torch.arange(SPRITE)
    index = (corner[..., 0, None, None] + offset[:, None]) * SIZE + corner[..., 1, None, None] + offset
    mask = torch.zeros(count, frames, SIZE * SIZE)
    mask.scatter_(2, index.flatten(2), masks[shape.gather(1, scene)].flatten(2))
    mask = mask.view(count, frames, 1, SIZE, SIZE)

    back = torch.rand(count, 1, 3, 8, 8, generator=generator) * 0.5
    back = back.repeat_interleave(SIZE // 8, 3).repeat_interleave(SIZE // 8, 4)
    pixels = back + 0.015 * torch.randn(count, frames, 3, SIZE, SIZE, generator=generator)
    paint = torch.tensor([COLOURS[name] for name in COLOUR_NAMES])[colour.gather(1, scene)]
    pixels = torch.lerp(pixels, paint[..., None, None], mask).clamp_(0, 1)

    side = SIZE // GRID
    shown = mask.view(count, frames, GRID, side, GRID, side).amax((3, 5)) > 0
    return Videos(pixels, colour, shape, scene, shown)


def _bounce(first: Tensor, step: Tensor, scene: Tensor, since: Tensor) -> Tensor:
    """Corner (videos, frames, 2) in pixels of an actor that walks the lattice and turns round at the edges."""
    pick = scene[..., None].expand(-1, -1, 2)
    last = (SIZE - SPRITE) // STEP
    at = first.gather(1, pick) + step.gather(1, pick) * since[..., None]
    return (last - (last - at % (2 * last)).abs()) * STEP
