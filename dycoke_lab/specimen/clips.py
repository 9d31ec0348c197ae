"""Sample clips: held-out videos as mp4 files, with what they show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import av
import torch
from torch import Tensor

from dycoke_lab.results.files import check_folder, read_json, replace_text, replacing
from dycoke_lab.results.folders import DATA
from dycoke_lab.specimen.families import RATE
from dycoke_lab.specimen.specimens import SPECIMENS
from dycoke_lab.specimen.tasks import make_task

CLIPS = DATA / "clips"
SCALE = 8  # pixels are written this many times larger, since players and codecs expect larger frames
BATCH = 1_000  # no evaluation comes so far


def write_clips(folder: Path = CLIPS) -> None:
    """Write held-out videos as clips, and clips.json with the truth: of the constructed world one for each
    number of scenes, of footage one for each motion of the camera."""
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    about = {}
    wanted: list[tuple[str, str, int, str | None]] = [
        *(
            (f"constructed-{n}-scenes.mp4", "constructed", n, None)
            for n in SPECIMENS["constructed"].world.scenes
        ),
        *(
            (f"footage-{m.replace(' ', '-')}.mp4", "footage", 4, m)
            for m in SPECIMENS["footage"].world.motions
        ),
    ]
    for name, specimen, scenes, motion in wanted:
        task = make_task("describe", 1, scenes, BATCH, specimen, motion=motion)
        write_mp4(folder / name, task.videos.pixels[0])
        world = SPECIMENS[specimen].world
        turn = world.ask("describe", world.shown(task.videos)[0], 0, 0, 0)
        about[name] = {
            "world": world.name,
            "places": world.places,
            "question": turn.question,
            "answer": turn.answer,
            "scene_of_frame": task.videos.scene[0].tolist(),
            "actor_of_token": [
                " ".join(map(str, row)) for row in task.videos.actor[0].tolist()
            ],  # a line a frame
        }
    replace_text(folder / "clips.json", json.dumps(about, indent=1) + "\n")


def write_mp4(path: Path, pixels: Tensor) -> None:
    """Write pixels (frames, 3, height, width), 0 to 1, as H.264."""
    pictures = (pixels * 255).round().byte().permute(0, 2, 3, 1)
    pictures = pictures.repeat_interleave(SCALE, 1).repeat_interleave(SCALE, 2).contiguous()
    with replacing(path) as new, av.open(str(new), "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=RATE, options={"crf": "12"})
        stream.height, stream.width, stream.pix_fmt = *pictures.shape[1:3], "yuv420p"  # type: ignore[attr-defined]
        for picture in pictures:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture.numpy(), format="rgb24")))  # type: ignore[attr-defined]
        out.mux(stream.encode())  # type: ignore[attr-defined]


class Truth(NamedTuple):
    """What a clip shows. scene: (frames,). actor: (frames, tokens), the place whose thing a visual token
    shows, -1 for none. places: in each scene; the answer names them in order, with a comma between scenes."""

    question: str
    answer: str
    scene: Tensor
    actor: Tensor
    places: int


def truth(name: str) -> Truth:
    """Return what a clip shows."""
    about = _about()[name]
    actor = torch.tensor([[int(number) for number in row.split()] for row in about["actor_of_token"]])
    scene = torch.tensor(about["scene_of_frame"])
    return Truth(about["question"], about["answer"], scene, actor, about["places"])


def clip_names(world: str | None = None) -> list[str]:
    """Return the names of the sample clips, of one world or of all."""
    return [name for name, about in _about().items() if world in (None, about["world"])]


def world_of(name: str) -> str:
    """Return the world that a clip shows; the specimens that know it have its name."""
    return str(_about()[name]["world"])


def _about() -> dict[str, Any]:
    return read_json(CLIPS / "clips.json")
