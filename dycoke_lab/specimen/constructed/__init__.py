"""The constructed world: built so that there is something to see. A textbook case, no evidence by itself."""

from dycoke_lab.specimen.constructed import language, videos
from dycoke_lab.specimen.world import World

CONSTRUCTED = World(
    name="constructed", size=videos.SIZE, grid=videos.GRID, places=videos.ACTORS, things=videos.COLOUR_NAMES,
    cadence=videos.CADENCE, scenes=videos.SCENES, motions=("still",), words=language.WORDS,
    draw=videos.make_videos, ask=language.ask,
)  # fmt: skip
