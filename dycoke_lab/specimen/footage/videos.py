"""The world "footage": scanned handwriting over photographs, seen by a moving camera, with the truth of every
frame.

A video is a sequence of scenes, each about four frames long. A scene shows a part of a photograph with three
handwritten digits on it: one at the left, one in the middle, one at the right. The camera stands still, pans
slowly or fast, or is held in a hand; what is written moves with the photograph, and drifts a little by
itself. Some digits appear when the scene has begun, some leave before it ends, some are cut off by the
frame's edge. Nothing is on the grid of tokens. Frames have 60 x 60 pixels; in the model a frame is 6 x 6
visual tokens.

The digits are scans of real handwriting (scikit-learn's `load_digits`: 1,797 scans of 8 x 8, UCI ML). Videos
for training, validation and tests show scans that the two others never show. The photographs are
scikit-learn's `load_sample_images`: china.jpg by danielbuechele and flower.jpg by vultilion, both CC BY 2.0.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from dycoke_lab.specimen.world import SPLITS, Videos, cuts, integers

SIZE = 60  # pixels a side
GRID = 6  # visual tokens a side
CELL = SIZE // GRID
PLACES = ("left", "middle", "right")
CADENCE = 4  # frames a scene, before jitter
JITTER = 1  # frames by which a scene may begin earlier or later
MOTIONS = ("still", "slow pan", "fast pan", "hand-held")
PAN = {"still": 0.0, "slow pan": 1.0, "fast pan": 3.0, "hand-held": 0.0}  # pixels a frame
SHAKE = 1.5  # pixels, standard deviation of a hand-held camera around its place
DRIFT = 0.5  # pixels a frame, the most that a digit moves by itself
WRITTEN = 0.1  # share of a token's pixels that ink must cover for the token to show a digit
_SCAN, _CELL = 8, 12  # pixels a side of a scan, and of its place in the atlas, with an empty border


def make_videos(
    count: int, scenes: int, generator: torch.Generator, split: str = "train", motion: str | None = None,
    cadence: int = CADENCE,
) -> Videos:  # fmt: skip
    """Draw `count` videos of `scenes` scenes (cadence * scenes frames). The generator's state decides
    everything.

    split: whose scans are shown. motion: of the camera, one of MOTIONS; None: each video has its own.
    cadence: frames a scene; scenes=1, cadence=1 draws stills.
    """
    if count < 1 or scenes < 1:
        raise ValueError(f"count={count} and scenes={scenes} must both be at least 1")
    if split not in SPLITS:
        raise ValueError(f"split={split!r} must be one of {', '.join(SPLITS)}")
    if motion is not None and motion not in MOTIONS:
        raise ValueError(f"motion={motion!r} must be None or one of {', '.join(MOTIONS)}")

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    frames, things = scenes * cadence, (count, scenes, len(PLACES))
    start, scene = cuts(count, scenes, cadence, JITTER, generator)
    length = torch.diff(start, append=torch.full((count, 1), frames))
    since = torch.arange(frames) - start.gather(1, scene)  # frames since the cut
    mid = (length.gather(1, scene) - 1) / 2

    kind = (
        integers(generator, 0, len(MOTIONS), count)
        if motion is None
        else torch.full((count,), MOTIONS.index(motion))
    )
    angle = uniform(0, 2 * math.pi, count, scenes)
    speed = torch.tensor([PAN[name] for name in MOTIONS])[kind]
    velocity = (torch.stack([angle.sin(), angle.cos()], -1) * speed[:, None, None]).float()
    shake = SHAKE * torch.randn(count, frames, 2, generator=generator)
    shake = shake * (kind == MOTIONS.index("hand-held"))[:, None, None]
    camera = velocity.gather(1, scene[..., None].expand(-1, -1, 2)) * (since - mid)[..., None] + shake

    label = integers(generator, 0, 10, *things)
    scan = _scans(split)[label, integers(generator, 0, _fewest(split), *things)]
    size = uniform(15, 18, *things)
    turn = uniform(-0.2, 0.2, *things)
    lane = SIZE / len(PLACES)
    home = torch.stack(
        [uniform(12, SIZE - 12, *things), uniform(-2, 2, *things) + lane * (torch.arange(3) + 0.5)], -1
    )
    drift = uniform(-DRIFT, DRIFT, *things, 2)
    tint = uniform(0.6, 1.0, *things, 3)
    habit = integers(generator, 0, 4, *things)  # 0: appears late, 1: leaves early

    def now(x: Tensor) -> Tensor:  # what belongs to the scene of each frame
        return x.gather(1, scene.view(count, frames, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:]))

    place = now(home) + now(drift) * (since - mid)[..., None, None] - camera[:, :, None]
    long_enough = (length.gather(1, scene) >= 4)[..., None]
    second_half = (since >= mid)[..., None]
    first_half = (since <= mid)[..., None]
    gone = long_enough & (((now(habit) == 0) & ~second_half) | ((now(habit) == 1) & ~first_half))
    ink = _ink(now(scan), place, now(size), now(turn)) * ~gone[..., None, None]  # (..., thing, y, x)

    corner = uniform(0, 1, count, scenes, 2)
    image = _background(now(corner), integers(generator, 0, 2, count, scenes).gather(1, scene), camera)
    for thing in range(len(PLACES)):
        image = torch.lerp(image, now(tint)[:, :, thing, :, None, None], ink[:, :, thing, None])
    pixels = image.add_(0.015 * torch.randn(image.shape, generator=generator)).clamp_(0, 1)

    covered = F.avg_pool2d(ink.flatten(0, 1), CELL).view(count, frames, len(PLACES), GRID**2)
    most, actor = covered.max(2)
    actor = torch.where(most >= WRITTEN, actor, -1)
    return Videos(pixels, label, scene, actor, kind)


def _ink(scan: Tensor, place: Tensor, size: Tensor, turn: Tensor) -> Tensor:
    """Return how much ink covers each pixel, (videos, frames, things, SIZE, SIZE), 0 to 1.

    scan: which; place: (..., 2), of its centre, in pixels; size: pixels a side; turn: radians.
    """
    atlas, columns = _atlas()
    axis = torch.arange(SIZE) + 0.5
    y, x = (axis - place[..., i, None] for i in (0, 1))
    scale = (_SCAN / size)[..., None, None]
    sin, cos = turn.sin()[..., None, None], turn.cos()[..., None, None]
    edge = (_CELL - 1) / 2  # from here on outwards a scan's place is empty
    v = ((y[..., :, None] * cos + x[..., None, :] * sin) * scale).clamp_(-edge, edge)
    u = ((x[..., None, :] * cos - y[..., :, None] * sin) * scale).clamp_(-edge, edge)
    v += ((torch.div(scan, columns, rounding_mode="floor") + 0.5) * _CELL)[..., None, None]
    u += ((scan % columns + 0.5) * _CELL)[..., None, None]
    grid = torch.stack([u * (2 / atlas.shape[-1]) - 1, v * (2 / atlas.shape[-2]) - 1], -1)
    return F.grid_sample(atlas, grid.view(1, -1, SIZE, 2), align_corners=False).view(u.shape)


def _background(corner: Tensor, which: Tensor, camera: Tensor) -> Tensor:
    """Return the part of the photograph that each frame sees, (videos, frames, 3, SIZE, SIZE).

    corner: (..., 2), 0 to 1, where in the photograph; which: photograph; camera: (..., 2), pixels.
    """
    photos = _photos()  # one beside the other
    height, width = photos.shape[-2], photos.shape[-1] // 2
    margin = 20  # the camera moves within it
    room = torch.tensor([height - SIZE - 2 * margin, width - SIZE - 2 * margin])
    first = margin + corner * room + camera.clamp(-margin, margin)
    axis = torch.arange(SIZE) + 0.5
    v = (first[..., 0, None] + axis)[..., :, None].expand(*first.shape[:-1], SIZE, SIZE)
    u = (first[..., 1, None] + axis + width * which[..., None])[..., None, :].expand_as(v)
    grid = torch.stack([u * (2 / photos.shape[-1]) - 1, v * (2 / photos.shape[-2]) - 1], -1)
    seen = F.grid_sample(photos, grid.view(1, -1, SIZE, 2), align_corners=False)[0]
    return seen.view(3, *which.shape, SIZE, SIZE).permute(1, 2, 0, 3, 4).contiguous()


@lru_cache(maxsize=1)
def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return torch.tensor(digits.images / 16).float(), torch.tensor(digits.target)


@lru_cache(maxsize=3)
def _scans(split: str) -> Tensor:
    """Return the numbers of the scans of each digit that a split shows, (10, scans)."""
    target = _digits()[1]
    turn = torch.arange(len(target)) % 10
    test, validation = turn % 5 == 0, turn == 3
    member = {"test": test, "validation": validation, "train": ~(test | validation)}[split]
    of = [((target == digit) & member).nonzero()[:, 0] for digit in range(10)]
    fewest = min(map(len, of))
    return torch.stack([numbers[:fewest] for numbers in of])


def _fewest(split: str) -> int:
    return _scans(split).shape[1]


@lru_cache(maxsize=1)
def _atlas() -> tuple[Tensor, int]:
    """Return all scans in one picture, (1, 1, height, width), and how many stand in a row."""
    images, columns, border = _digits()[0], 43, (_CELL - _SCAN) // 2
    rows = -(-len(images) // columns)
    framed = F.pad(images, (border, border, border, border, 0, rows * columns - len(images)))
    framed = framed.view(rows, columns, _CELL, _CELL).permute(0, 2, 1, 3)
    return framed.reshape(1, 1, rows * _CELL, columns * _CELL).contiguous(), columns


@lru_cache(maxsize=1)
def _photos() -> Tensor:
    """Return both photographs at half their size and brightness, (1, 3, height, 2 * width)."""
    from sklearn.datasets import load_sample_images

    photos = torch.stack([torch.tensor(image) for image in load_sample_images().images])
    small = F.interpolate(photos.permute(0, 3, 1, 2) / 255, scale_factor=0.5, mode="area") * 0.5
    return torch.cat(list(small), -1)[None].contiguous()
