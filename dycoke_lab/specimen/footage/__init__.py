"""The world "footage": real handwriting over real photographs, seen by a moving camera."""

from dycoke_lab.specimen.footage import language, videos
from dycoke_lab.specimen.world import World

FOOTAGE = World(
    name="footage", size=videos.SIZE, grid=videos.GRID, places=len(videos.PLACES), things=language.DIGITS,
    cadence=videos.CADENCE, scenes=(2, 3, 4, 5), motions=videos.MOTIONS, words=language.WORDS,
    draw=videos.make_videos, ask=language.ask,
)  # fmt: skip
