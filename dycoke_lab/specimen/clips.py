"""Sample clips: held-out videos as mp4 files, with what they show."""

from __future__ import annotations

import json
from pathlib import Path

import av
import torch
from torch import Tensor

from dycoke_lab.results.folders import DATA
from dycoke_lab.specimen import language as lang
from dycoke_lab.specimen.tasks import make_task
from dycoke_lab.specimen.world import COLOUR_NAMES, SCENES

CLIPS = DATA / "clips"
SCALE = 8  # pixels are written this many times larger, since players and codecs expect larger frames
RATE = 4  # frames a second


def write_clips(folder: Path = CLIPS) -> None:
    """Write a clip for each number of scenes, the last of the held-out videos, and clips.json with the
    truth."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {}
    for scenes in SCENES:
        task = make_task("describe", 1, scenes, batch=1_000)  # no evaluation comes so far
        name = f"{scenes}-scenes.mp4"
        write_mp4(folder / name, task.videos.pixels[0])
        shown = [[COLOUR_NAMES[x] for x in scene] for scene in task.videos.colour[0].tolist()]
        about[name] = {
            "question": lang.describe_question(scenes),
            "answer": lang.describe_answer(shown),
            "scene_of_frame": task.videos.scene[0].tolist(),
            "actor_of_token": [
                " ".join(map(str, row)) for row in task.videos.actor[0].tolist()
            ],  # a line a frame
        }
    (folder / "clips.json").write_text(json.dumps(about, indent=1) + "\n")


def write_mp4(path: Path, pixels: Tensor) -> None:
    """Write pixels (frames, 3, height, width), 0 to 1, as H.264."""
    pictures = (pixels * 255).round().byte().permute(0, 2, 3, 1)
    pictures = pictures.repeat_interleave(SCALE, 1).repeat_interleave(SCALE, 2).contiguous()
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=RATE, options={"crf": "12"})
        stream.height, stream.width, stream.pix_fmt = *pictures.shape[1:3], "yuv420p"  # type: ignore[attr-defined]
        for picture in pictures:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture.numpy(), format="rgb24")))  # type: ignore[attr-defined]
        out.mux(stream.encode())  # type: ignore[attr-defined]


def truth(name: str) -> tuple[str, str, Tensor, Tensor]:
    """Return a clip's question, answer, scene of each frame, and (frames, tokens) actor of each visual token
    (-1: none)."""
    about = json.loads((CLIPS / "clips.json").read_text())[name]
    actor = torch.tensor([[int(number) for number in row.split()] for row in about["actor_of_token"]])
    return about["question"], about["answer"], torch.tensor(about["scene_of_frame"]), actor
