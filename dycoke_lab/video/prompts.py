"""Put videos and pictures into a chat prompt, through the model's own processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dycoke_lab.video.frames import Video


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
