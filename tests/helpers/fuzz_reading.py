"""What the fuzz gives `read_video` and `chat`: files that are damaged, closed, or none; arrays and messages
of wrong kinds."""

from __future__ import annotations

import io
import shutil
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image

from dycoke_lab.specimen.clips import CLIPS
from dycoke_lab.video import Video, chat, read_video
from helpers.families import FAMILIES, frames
from helpers.fuzz_cases import often
from helpers.fuzz_runs import raised_by_us
from helpers.numbered import write

USUAL = frames(6, 1)
NUMBERS = (
    0, -1, 1.5, "2", None, True, np.int64(3), 10**9, 10**30, float("nan"), float("inf"), -2.0, 1e-300, 1e300,
    [2], np.array([2.0, 3.0]), 1j,
)  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """source: the name of one of SOURCES. at, byte: where a file is damaged, and how."""

    source: str
    settings: dict[str, Any]
    at: float
    byte: int


@dataclass(frozen=True)
class Chat:
    """family: whose processor. how: the name of one of MESSAGES. parts: names of PARTS."""

    family: str
    how: str
    parts: tuple[str, ...]


@st.composite
def readings(draw: Any) -> Reading | Chat:
    if draw(st.integers(0, 2)) == 0:
        parts = st.lists(st.sampled_from(tuple(PARTS)), max_size=4).map(tuple)
        how = draw(often(("usual",), tuple(MESSAGES), 4))
        return Chat(draw(st.sampled_from(tuple(FAMILIES))), how, draw(parts))
    usual = {"frames": (None, 1, 3, 100), "fps": (0.5, 1, 8.0, 100), "rate": (1, 2.5, 25)}
    names = draw(st.sampled_from((("frames",), ("fps",), ("fps", "rate"), ("rate",), (), ("frames", "fps"))))
    settings = {name: draw(often(usual[name], NUMBERS, 4)) for name in names}
    at, byte = draw(st.floats(0, 1)), draw(st.integers(0, 255))
    return Reading(draw(st.sampled_from(tuple(SOURCES))), settings, at, byte)


def check_reading(case: Reading | Chat, place: Path) -> str:
    """Read or write a prompt, and fail if it does not end as it must. Return how it ended."""
    if isinstance(case, Chat):
        return _check_chat(case)
    video = _tried(lambda: read_video(SOURCES[case.source](case, place), **case.settings))
    if isinstance(video, Exception):
        assert raised_by_us(video), f"{video!r}, at {traceback.extract_tb(video.__traceback__)[-1]}"
        return "reading: refused by us"
    count, high, wide, colours = video.frames.shape
    assert video.frames.dtype == np.uint8 and colours == 3 and min(count, high, wide) > 0
    assert len(video.numbers) == count and all(0 <= number < video.total for number in video.numbers)
    assert list(video.numbers) == sorted(video.numbers)
    assert video.times is None or len(video.times) == count
    limit = case.settings.get("frames")
    assert limit is None or count <= limit
    assert video.metadata.total_num_frames == video.total
    return "reading: a video"


def _check_chat(case: Chat) -> str:
    processor = FAMILIES[case.family].processor()
    inputs = _tried(lambda: chat(processor, MESSAGES[case.how]([PARTS[name]() for name in case.parts])))
    if isinstance(inputs, Exception):
        if raised_by_us(inputs):
            return "chat: refused by us"
        lines = traceback.extract_tb(inputs.__traceback__)
        last = max(number for number, line in enumerate(lines) if "/dycoke_lab/" in line.filename)
        assert any("/transformers/" in line.filename for line in lines[last + 1 : last + 2]), (
            f"{inputs!r}, at {lines[-1]}"
        )
        return "chat: transformers' processor refuses"
    assert inputs["input_ids"].ndim == 2
    return "chat: a prompt"


def _tried(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return error


def _file(name: str, make: Callable[[Path], Any]) -> Callable[[Reading, Path], Any]:
    """A file that is made once."""

    def source(case: Reading, place: Path) -> Path:
        path = place / name
        if not path.exists():
            make(path)
        return path

    return source


def _cut(case: Reading, place: Path) -> Path:
    data = (CLIPS / "constructed-2-scenes.mp4").read_bytes()
    (place / "cut.mp4").write_bytes(data[: int(case.at * len(data))])
    return place / "cut.mp4"


def _flipped(name: str) -> Callable[[Reading, Path], Any]:
    def source(case: Reading, place: Path) -> Path:
        path = SOURCES[name](case, place)
        data = bytearray(path.read_bytes())
        data[int(case.at * (len(data) - 1))] ^= case.byte
        new = place / f"flipped{path.suffix}"
        new.write_bytes(data)
        return new

    return source


def _folder(*pictures: Any) -> Callable[[Reading, Path], Any]:
    def source(case: Reading, place: Path) -> Path:
        folder = place / "folder"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for number, picture in enumerate(pictures):
            if isinstance(picture, bytes):
                (folder / f"{number}.png").write_bytes(picture)
            else:
                Image.fromarray(picture).save(folder / f"{number}.png")
        return folder

    return source


def _closed() -> Any:
    with Path(__file__).open() as file:
        return file


def _closed_picture() -> Any:
    picture = Image.fromarray(USUAL[0])
    picture.close()
    return picture


class _Broken:
    def __array__(self, *_: Any, **__: Any) -> Any:
        raise OSError("not to be read")


def _same(make: Callable[[], Any]) -> Callable[[Reading, Path], Any]:
    return lambda case, place: make()


SOURCES: dict[str, Callable[[Reading, Path], Any]] = {
    "a clip": lambda case, place: CLIPS / "constructed-2-scenes.mp4",
    "a clip, as text": lambda case, place: str(CLIPS / "footage-still.mp4"),
    "a cut file": _cut,
    "a matroska file": _file("a.mkv", lambda path: write(path, 30, "mpeg4")),
    "an animation": _file("a.gif", lambda path: write(path, 12, "gif", "rgb8")),
    "a picture": _file("a.png", lambda path: Image.fromarray(USUAL[0]).save(path)),
    "an empty file": _file("empty.mp4", lambda path: path.write_bytes(b"")),
    "an empty picture": _file("empty.png", lambda path: path.write_bytes(b"")),
    "a text": _file("a.txt", lambda path: path.write_text("no video\n" * 99)),
    "a text, as a video": _file("text.mp4", lambda path: path.write_text("no video\n" * 99)),
    "noise": _file("noise.mkv", lambda path: path.write_bytes(np.random.default_rng(0).bytes(9999))),
    "a folder": _folder(*USUAL),
    "a folder of two sizes": _folder(USUAL[0], USUAL[1, :9]),
    "a folder with a damaged picture": _folder(USUAL[0], b"\x89PNG\r\n\x1a\n" + bytes(40)),
    "an empty folder": _folder(),
    "no such file": lambda case, place: place / "none.mp4",
    "a name too long": _same(lambda: "a" * 5000),
    "a name with a zero": _same(lambda: "a\0.mp4"),
    "an empty name": _same(lambda: ""),
    "an address": _same(lambda: "file:///none.mp4"),
    "bytes": _same(lambda: b"a.mp4"),
    "a closed file": _same(_closed),
    "bytes in memory": _same(lambda: io.BytesIO(b"a")),
    "a picture's object": _same(lambda: Image.fromarray(USUAL[0])),
    "a closed picture's object": _same(_closed_picture),
    "nothing": _same(lambda: None),
    "a number": _same(lambda: 7),
    "a list": _same(lambda: USUAL.tolist()),
    "a ragged list": _same(lambda: [[1], [1, 2]]),
    "pictures of two sizes": _same(lambda: [USUAL[0], USUAL[1, :9]]),
    "a generator": _same(lambda: (frame for frame in USUAL)),
    "a class": _same(lambda: Video),
    "what cannot be an array": _same(_Broken),
    "a video's object": _same(lambda: read_video(USUAL)),
    "an array": _same(lambda: USUAL),
    "an array, turned": _same(lambda: USUAL[::-1, :, ::2]),
    "an array without room": _same(lambda: np.broadcast_to(USUAL[:1], (10**9, *USUAL.shape[1:]))),
    "a tensor": _same(lambda: torch.from_numpy(USUAL)),
    "a tensor with gradients": _same(lambda: torch.zeros(2, 8, 8, 3, requires_grad=True)),
    "a bfloat16 tensor": _same(lambda: torch.zeros(2, 8, 8, 3, dtype=torch.bfloat16)),
    "floats": _same(lambda: USUAL / 255),
    "64 bits": _same(lambda: USUAL.astype(np.int64)),
    "bools": _same(lambda: USUAL > 9),
    "objects": _same(lambda: USUAL.astype(object)),
    "one frame": _same(lambda: USUAL[0]),
    "greys": _same(lambda: USUAL[..., :1]),
    "with alpha": _same(lambda: np.concatenate([USUAL, USUAL[..., :1]], -1)),
    "channels first": _same(lambda: USUAL.transpose(0, 3, 1, 2)),
    "no frames": _same(lambda: USUAL[:0]),
    "no width": _same(lambda: USUAL[:, :, :0]),
}
for known in ("a clip", "a matroska file", "an animation", "a picture"):
    SOURCES[f"{known}, with a wrong byte"] = _flipped(known)


def _video(**fields: Any) -> Callable[[], Any]:
    usual: dict[str, Any] = {"frames": USUAL, "numbers": tuple(range(6)), "total": 6, "fps": 2.0}
    return lambda: {"type": "video", "video": Video(**{**usual, **fields})}


PARTS: dict[str, Callable[[], Any]] = {
    "words": lambda: {"type": "text", "text": "what happens first?"},
    "a token": lambda: {"type": "text", "text": "<video><image>"},
    "a video": _video(),
    "a short video": _video(frames=USUAL[:1], numbers=(0,)),
    "an odd video": _video(frames=USUAL[:5], numbers=(0, 1, 2, 3, 5)),
    "a picture": lambda: {"type": "image", "image": USUAL[0]},
    "a video without times": _video(fps=None),
    "a video with times": _video(times=(0.0, 0.1, 0.5, 2.0, 2.1, 9.0)),
    "a video of floats": _video(frames=USUAL / 255),
    "a video of one frame's shape": _video(frames=USUAL[0]),
    "a video without frames": _video(frames=USUAL[:0], numbers=()),
    "a video of nothing": _video(frames=None),
    "a video of a list": _video(frames=USUAL.tolist()),
    "a video with too few numbers": _video(numbers=(0,)),
    "a video with text for numbers": _video(numbers=("a",) * 6),
    "a video at 0 frames a second": _video(fps=0.0),
    "a video at no frames a second": _video(fps=float("nan")),
    "a video with too few times": _video(times=(0.0,)),
    "a video of no total": _video(total=None),
    "an object for a picture": lambda: {"type": "image", "image": object()},
    "a closed picture": lambda: {"type": "image", "image": _closed_picture()},
    "a closed file for a picture": lambda: {"type": "image", "image": _closed()},
    "no picture": lambda: {"type": "image", "image": None},
    "a picture of floats": lambda: {"type": "image", "image": USUAL[0] / 255},
    "a picture without width": lambda: {"type": "image", "image": USUAL[0][:, :0]},
    "a name for a video": lambda: {"type": "video", "video": "a.mp4"},
    "an array for a video": lambda: {"type": "video", "video": USUAL},
    "a closed file for a video": lambda: {"type": "video", "video": _closed()},
    "bytes for text": lambda: {"type": "text", "text": b"what?"},
    "no text": lambda: {"type": "text"},
    "another type": lambda: {"type": "audio", "audio": None},
    "no dict": lambda: 7,
    "a type that is a list": lambda: {"type": ["text"], "text": "a"},
}
MESSAGES: dict[str, Callable[[Any], Any]] = {
    "usual": lambda content: [{"role": "user", "content": content}],
    "two": lambda content: [{"role": "user", "content": content}] * 2,
    "an answer": lambda content: [
        {"role": "user", "content": content},
        {"role": "assistant", "content": "a"},
    ],
    "one, not in a list": lambda content: {"role": "user", "content": content},
    "none": lambda content: [],
    "nothing": lambda content: None,
    "a number": lambda content: 7,
    "text": lambda content: "what?",
    "numbers": lambda content: [7],
    "no role": lambda content: [{"content": content}],
    "a role that is none": lambda content: [{"role": None, "content": content}],
    "no content": lambda content: [{"role": "user"}],
    "content that is nothing": lambda content: [{"role": "user", "content": None}],
    "content that is a number": lambda content: [{"role": "user", "content": 7}],
    "content that is a part": lambda content: [{"role": "user", "content": (content or [None])[0]}],
    "content in a tuple": lambda content: [{"role": "user", "content": tuple(content)}],
    "content that is read once": lambda content: ({"role": "user", "content": iter(content)} for _ in "a"),
}
