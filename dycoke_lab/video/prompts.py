"""Put videos and pictures into a chat prompt, through the model's own processor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from dycoke_lab.models import learn
from dycoke_lab.video.frames import Video


def prompt(processor: Any, video: Video, question: str) -> Any:
    """Return the model's inputs for one question about one video, through the chat template and transformers'
    own processor."""
    content = [{"type": "video", "video": video}, {"type": "text", "text": question}]
    return chat(processor, [{"role": "user", "content": content}])


def on_model(inputs: Any, model: Any) -> Any:
    """Return the inputs where the model is, pixels in its precision. (Casting all of them would round times,
    too.) Raises ValueError for a prompt that is longer than the model has positions."""
    length, most = inputs["input_ids"].shape[1], model.config.get_text_config().max_position_embeddings
    if length > most:
        raise ValueError(f"the prompt has {length} tokens, and the model {most} positions: give fewer frames")
    inputs = inputs.to(model.device)
    for name in inputs:
        if name.startswith("pixel_values"):
            inputs[name] = inputs[name].to(model.dtype)
    return inputs


def chat(processor: Any, messages: Sequence[dict[str, Any]]) -> Any:
    """Return the model's inputs for a conversation with any number of videos and images.

    messages: role and content; content: text, or parts {"type": "text", "text": str}, {"type": "video",
    "video": Video} or {"type": "image", "image": a picture}. Frames are taken as they are. A processor that
    knows no videos (Gemma 3's) gets them as images in a row.

    Raises ValueError and TypeError for other messages, and for two videos that such a processor would make
    one of.
    """
    learn(processor)
    moving = getattr(processor, "video_processor", None) is not None
    videos: list[Video] = []
    images: list[Any] = []
    conversation = []
    if not isinstance(messages, Iterable):
        raise TypeError(f"messages is a {type(messages).__name__}: it must be a list of dicts")
    for message in messages:
        shown: list[dict[str, Any]] = []
        parts = _parts(message)
        if not moving:
            _check_apart(processor, parts)
        for part in parts:
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
            # it would take tokens away before DyCoke could compare frames
            given["use_token_compression"] = False
    try:
        return processor(text=text, return_tensors="pt", **given)
    except ValueError as error:
        lengths = [len(video.frames) for video in videos]
        if 1 in lengths:
            raise ValueError(
                f"a video of 1 frame: {type(processor).__name__} needs two or more; or give it as an image"
            ) from error
        if len(set(lengths)) < 2:
            raise
        raise ValueError(
            f"the videos have {lengths} frames, and {type(processor).__name__} takes those of one prompt in "
            "one length only: read them with the same frames="
        ) from error


def _parts(message: Any) -> list[dict[str, Any]]:
    """Return the parts of a message, checked."""
    if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
        raise ValueError(f'message={message!r:.80} must be a dict with "role" and "content"')
    content = message["content"]
    if not isinstance(content, Iterable):
        raise TypeError(f"content is a {type(content).__name__}: it must be text, or a list of parts")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "video", "image") or kind not in part:
            raise ValueError(
                f'a part of the content is {part!r:.80}: it must be {{"type": "text", "text": ...}}, or the '
                "same with video or image"
            )
        wanted = {"text": str, "video": Video}.get(kind, object)
        if not isinstance(part[kind], wanted):
            what = "what read_video(...) returns" if kind == "video" else "a string"
            raise TypeError(f"a part's {kind} is a {type(part[kind]).__name__}: give {what}")
    return parts


def _check_apart(processor: Any, parts: Sequence[dict[str, Any]]) -> None:
    """Raise ValueError if nothing stands between a video and the next video or image."""
    shown = [part for part in parts if part["type"] != "text" or part["text"].strip()]
    for one, other in pairwise(shown):
        if "text" not in (one["type"], other["type"]) and "video" in (one["type"], other["type"]):
            raise ValueError(
                f"a {other['type']} follows a {one['type']} at once: {type(processor).__name__} writes both "
                "as images in a row, which would be taken for one video; write some words between them"
            )
