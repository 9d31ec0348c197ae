"""Read a video and put it into a chat prompt: PyAV decodes, the model's own processor does the rest."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from transformers.video_utils import VideoMetadata

SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".m2ts", ".wmv", ".flv")
FAR = 250  # frames; what is further ahead is sought by the file's index, what is nearer is decoded up to

Frames = NDArray[np.uint8]
Choice = Callable[[int, float | None], Sequence[int]]


@dataclass(frozen=True, eq=False)
class Video:
    """Some frames of a video.

    frames: (frames, height, width, 3), 0 to 255, turned as the file asks for. numbers: which of the `total`
    frames these are.
    fps: the file's own, None where there are no times.
    """

    frames: Frames
    numbers: tuple[int, ...]
    total: int
    fps: float | None = None

    @property
    def metadata(self) -> VideoMetadata:
        """As transformers' processors want it: some write a frame's time into the prompt."""
        high, wide = self.frames.shape[1:3]
        seconds = None if self.fps is None else self.total / self.fps
        return VideoMetadata(self.total, self.fps, wide, high, seconds, frames_indices=list(self.numbers))


def video_paths(sources: Sequence[str | Path]) -> list[Path]:
    """Return the videos of some sources: a file is one, a folder of pictures is one, and a folder of video
    files is as many as it holds. Raises FileNotFoundError for a source that is not there."""
    found = []
    for source in map(Path, sources):
        if not source.exists():
            raise FileNotFoundError(f"videos={str(source)!r} is neither a file nor a folder")
        inside = (
            sorted(p for p in source.iterdir() if p.suffix.lower() in SUFFIXES) if source.is_dir() else []
        )
        found += inside or [source]
    return found


def read_video(source: str | Path | ArrayLike, frames: int | None = None, fps: float | None = None) -> Video:
    """Return frames of a video. Only those chosen are held in memory.

    source: a file that FFmpeg reads (mp4, webm, gif, ...); a folder of pictures, taken in the order of their
    names' numbers; or an array (frames, height, width, 3), 0 to 255. frames: at most this many, at even
    distances, as transformers' processors choose them. fps: this many for each second of a file. Neither: all
    there are.

    Raises FileNotFoundError for a missing source, ValueError for one without frames or that cannot be read.
    """
    if frames is not None and frames < 1:
        raise ValueError(f"frames={frames} must be at least 1, or None for all")
    if fps is not None and not fps > 0:
        raise ValueError(f"fps={fps} must be above 0, or None")
    if frames is not None and fps is not None:
        raise ValueError(f"give frames={frames} or fps={fps}, not both")

    def choose(total: int, seconds: float | None) -> Sequence[int]:
        if fps is not None and seconds is None:
            raise ValueError(
                f"fps={fps} needs a file that says when its frames are shown: give frames instead"
            )
        count = frames if fps is None else max(1, int((seconds or 0) * fps + 1e-6))
        return even_indices(total, total if count is None else min(count, total))

    if not isinstance(source, str | Path):
        array = _checked(np.asarray(source))
        numbers = choose(len(array), None)
        return Video(array[list(numbers)], tuple(numbers), len(array))
    path = Path(source)
    if path.is_dir():
        return _from_folder(path, choose)
    if not path.is_file():
        raise FileNotFoundError(f"source={str(source)!r} is neither a file nor a folder")
    try:
        index = _index(path)
        numbers = choose(len(index.times), index.seconds)
        pictures = np.stack(list(_decode(path, index, numbers)))
        return Video(pictures, tuple(numbers), len(index.times), len(index.times) / index.seconds)
    except (av.FFmpegError, EOFError) as error:
        raise ValueError(f"source={str(source)!r} cannot be read as a video: {error}") from error


def even_indices(total: int, count: int) -> list[int]:
    """Return `count` of `total` frames at even distances from the first on, by the rule of transformers'
    video processors."""
    return [number * total // count for number in range(count)]


class _Index(NamedTuple):
    """When each frame of a file is shown, which are keyframes (both in the stream's units, in order), seconds
    in all."""

    times: list[int]
    keys: list[int]
    seconds: float


def _decode(path: Path, index: _Index, numbers: Sequence[int]) -> Iterator[Frames]:
    """The chosen frames of a file, one after the other."""
    times, keys, _ = index
    wanted = [times[number] for number in numbers]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        decoded, frame = container.decode(stream), None
        for time in wanted:
            start = keys[max(bisect_right(keys, time) - 1, 0)]
            here = times[0] if frame is None or frame.pts is None else frame.pts
            if start > here and bisect_left(times, start) - bisect_left(times, here) > FAR:
                container.seek(start, stream=stream)
                decoded, frame = container.decode(stream), None
            while frame is None or (frame.pts is not None and frame.pts < time):
                following = next(decoded, None)
                if following is None:
                    break
                frame = following
            if frame is None:
                raise ValueError(f"source={str(path)!r}: none of its frames can be decoded")
            yield np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)


def _index(path: Path) -> _Index:
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise ValueError(f"source={str(path)!r} holds no video")
        stream = container.streams.video[0]
        packets = [(p.pts, p.is_keyframe) for p in container.demux(stream) if p.pts is not None]
        times = sorted(time for time, _ in packets)
        if not times:
            raise ValueError(f"source={str(path)!r} holds no frames")
        rate = float(stream.average_rate or stream.guessed_rate or 1)
        seconds = float((times[-1] - times[0]) * (stream.time_base or 0)) + 1 / rate
    return _Index(times, sorted(time for time, key in packets if key) or times[:1], seconds)


def _from_folder(path: Path, choose: Choice) -> Video:
    known = Image.registered_extensions()
    files = [file for file in path.iterdir() if file.suffix.lower() in known]
    files.sort(
        key=lambda file: [
            (int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", file.name)
        ]
    )
    if not files:
        raise ValueError(f"source={str(path)!r} is a folder without pictures")
    pictures = []
    numbers = choose(len(files), None)
    for number in numbers:
        try:
            with Image.open(files[number]) as picture:
                pictures.append(np.asarray(ImageOps.exif_transpose(picture).convert("RGB")))
        except UnidentifiedImageError as error:
            raise ValueError(
                f"source={str(path)!r}: {files[number].name} cannot be read as a picture"
            ) from error
        if pictures[-1].shape != pictures[0].shape:
            high, wide, _ = pictures[0].shape
            raise ValueError(
                f"source={str(path)!r}: {files[number].name} has another size than the first picture, "
                f"{wide} x {high}"
            )
    return Video(np.stack(pictures), tuple(numbers), len(files))


def _checked(array: NDArray[Any]) -> Frames:
    if array.ndim != 4 or array.shape[-1] != 3 or array.dtype != np.uint8 or not len(array):
        raise ValueError(
            f"source has shape {array.shape} and type {array.dtype}: an array must be (frames, height, "
            "width, 3), uint8, 0 to 255"
        )
    return array


def prompt(processor: Any, video: Video, question: str) -> Any:
    """Return the model's inputs for one question about one video, through the chat template and transformers'
    own processor."""
    if not isinstance(video, Video):
        raise TypeError(f"video is a {type(video).__name__}: give what read_video(...) returns")
    return chat(
        processor,
        [
            {
                "role": "user",
                "content": [{"type": "video", "video": video}, {"type": "text", "text": question}],
            }
        ],
    )


def on_model(inputs: Any, model: Any) -> Any:
    """Return the inputs where the model is, pixels in its precision. (Casting all of them would round times,
    too.)"""
    inputs = inputs.to(model.device)
    for name in inputs:
        if name.startswith("pixel_values"):
            inputs[name] = inputs[name].to(model.dtype)
    return inputs


def chat(processor: Any, messages: Sequence[dict[str, Any]]) -> Any:
    """Return the model's inputs for a conversation with any number of videos and images.

    messages: role and content; content: parts {"type": "text", "text": str}, {"type": "video", "video":
    Video} or {"type": "image", "image": a picture}. Frames are taken as they are. A processor that knows no
    videos (Gemma 3's) gets them as images in a row.
    """
    moving = getattr(processor, "video_processor", None) is not None
    videos: list[Video] = []
    images: list[Any] = []
    conversation = []
    for message in messages:
        shown: list[dict[str, Any]] = []
        for part in message["content"]:
            if part["type"] == "video" and moving:
                videos.append(part["video"])
                shown.append({"type": "video"})
            elif part["type"] in ("video", "image"):
                pictures = list(part["video"].frames) if part["type"] == "video" else [part["image"]]
                images += pictures
                shown += [{"type": "image"}] * len(pictures)
            else:
                shown.append(part)
        conversation.append({"role": message["role"], "content": shown})
    text = processor.apply_chat_template(conversation, add_generation_prompt=True)
    given: dict[str, Any] = {"images": images} if images else {}
    if videos:
        metadata = [video.metadata for video in videos]
        given |= {
            "videos": [video.frames for video in videos],
            "video_metadata": metadata,
            "do_sample_frames": False,
        }
        if hasattr(processor.video_processor, "use_token_compression"):
            given["use_token_compression"] = (
                False  # it would take tokens away before DyCoke could compare frames
            )
    return processor(text=text, return_tensors="pt", **given)
