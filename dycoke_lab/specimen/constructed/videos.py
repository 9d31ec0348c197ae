"""The synthetic videos that the specimen is asked about, with the truth of every frame.

A video is a sequence of scenes, each about four frames long; the frame at which one ends is jittered. A noisy
background stays the same for the whole video. Four actors stand in it, one in each quarter of the picture,
and move by a pixel or two in every frame; with every scene each of them takes on a new colour and a new
shape. Frames have 32 x 32 pixels; in the model a frame is 4 x 4 visual tokens of 8 x 8 pixels, and an actor
fills one.

The world was chosen so that there is something to see: every word of the answer needs another place of the
video, and nothing but the video says what it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dycoke_lab.specimen.world import Videos, cuts, integers

SIZE = 32  # pixels a side
GRID = 4  # visual tokens a side
CELL = SIZE // GRID  # pixels a side of a visual token
ACTORS = 4  # one a quarter, in reading order
SPRITE = 6  # pixels a side of an actor
CADENCE = 4  # frames a scene, before jitter
JITTER = 1  # frames by which a scene may begin earlier or later
SCENES = (2, 3, 4, 5)  # numbers of scenes a video may have

COLOURS = {
    "red": (1.0, 0.1, 0.1),
    "green": (0.1, 0.8, 0.1),
    "blue": (0.2, 0.3, 1.0),
    "yellow": (1.0, 0.9, 0.1),
    "magenta": (0.9, 0.2, 0.9),
    "cyan": (0.1, 0.9, 0.9),
}
COLOUR_NAMES = tuple(COLOURS)
SHAPES = (
    ("######",) * 6,
    ("..##..",) * 2 + ("######",) * 2 + ("..##..",) * 2,
    ("######", "#....#", "#....#", "#....#", "#....#", "######"),
    tuple("#" * (n + 1) + "." * (5 - n) for n in range(6)),
)


def make_videos(count: int, scenes: int, generator: torch.Generator, split: str = "train") -> Videos:
    """Draw `count` videos of `scenes` scenes (4 * scenes frames). The generator's state decides everything;
    splits differ in nothing else."""
    if count < 1 or scenes < 1:
        raise ValueError(f"count={count} and scenes={scenes} must both be at least 1")

    frames = scenes * CADENCE
    _, scene = cuts(count, scenes, CADENCE, JITTER, generator)
    colour = integers(generator, 0, len(COLOURS), count, scenes, ACTORS)
    shape = integers(generator, 0, len(SHAPES), count, scenes, ACTORS)

    quarter = torch.tensor([[0, 0], [0, 2], [2, 0], [2, 2]])
    stand = quarter + integers(generator, 0, 2, count, ACTORS, 2)  # row and column of the visual token
    free = CELL - SPRITE + 1  # places along a side; an actor never returns to one within two frames
    moves = integers(generator, 0, free**2, count, 1, ACTORS) + integers(
        generator, 1, free**2 // 2 + 1, count, frames, ACTORS
    ).cumsum(1)
    walk = moves % free**2
    corner = (stand * CELL)[:, None] + torch.stack([walk // free, walk % free], -1)
    offset = torch.arange(SPRITE)
    index = (corner[..., 0, None, None] + offset[:, None]) * SIZE + corner[..., 1, None, None] + offset
    index = index.flatten(2)  # pixel numbers, (videos, frames, actors * 36)

    def per_frame(x: Tensor) -> Tensor:
        return x.gather(1, scene[..., None].expand(-1, -1, ACTORS))

    sprites = torch.tensor([[[c == "#" for c in row] for row in rows] for rows in SHAPES]).float()
    mask = torch.zeros(count, frames, SIZE * SIZE).scatter_(2, index, sprites[per_frame(shape)].flatten(2))
    paint = torch.tensor(list(COLOURS.values()))[per_frame(colour)]  # (videos, frames, actors, 3)
    paint = paint.repeat_interleave(SPRITE**2, 2)
    image = torch.zeros(count, frames, SIZE * SIZE, 3).scatter_(
        2, index[..., None].expand(-1, -1, -1, 3), paint
    )
    image = image.view(count, frames, SIZE, SIZE, 3).permute(0, 1, 4, 2, 3)

    back = torch.rand(count, 1, 3, 8, 8, generator=generator) * 0.5
    back = back.repeat_interleave(SIZE // 8, 3).repeat_interleave(SIZE // 8, 4)
    pixels = back + 0.015 * torch.randn(count, frames, 3, SIZE, SIZE, generator=generator)
    pixels = torch.lerp(pixels, image, mask.view(count, frames, 1, SIZE, SIZE)).clamp_(0, 1)

    numbers = torch.arange(ACTORS).expand(count, -1)
    actor = torch.full((count, GRID**2), -1).scatter_(1, stand[..., 0] * GRID + stand[..., 1], numbers)
    actor = actor[:, None].expand(-1, frames, -1)
    return Videos(pixels, colour, scene, actor, torch.zeros(count, dtype=torch.long))
