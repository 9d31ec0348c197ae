"""The words that a processor writes between a video's frames, where frames are given to the model as images.

Only they tell a video's frames from pictures. They are asked of the processor: of one that `load_model`,
`chat` or `prompt` was given, or `learn`; else of the one that lies beside the model's checkpoint.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from transformers import AutoProcessor

KINDS = {"InternVLProcessor": "internvl", "SmolVLMProcessor": "smolvlm", "Gemma3Processor": "gemma3"}
TOKENS = (
    "start_image_token", "end_image_token", "fake_image_token", "global_image_token", "boi_token",
    "eoi_token",
)  # fmt: skip
MOST = 8  # processors of a family that are remembered
_LEARNT: dict[str, list[Any]] = {}


def learn(processor: Any) -> None:
    """Remember a processor for models of its family. Others than those that need it are not."""
    kind = KINDS.get(type(processor).__name__)
    known = _LEARNT.setdefault(kind, []) if kind else []
    if kind and not any(processor is other for other in known):
        known[:] = [*known[1 - MOST :], processor]


def processors_of(config: Any) -> list[Any]:
    """Return the processors that a model's prompts may come from, the latest first.

    Raises ValueError if none is known.
    """
    found = [*reversed(_LEARNT.get(config.model_type, [])), *_beside(getattr(config, "_name_or_path", ""))]
    if not found:
        raise ValueError(
            f"input_ids holds several images, and {config.model_type} gets a video's frames as images: the "
            "processor's words between them tell which they are. Make the prompt by dycoke_lab.video.chat, "
            "or call dycoke_lab.models.learn(processor) once"
        )
    return found


@lru_cache(8)
def _beside(place: str) -> tuple[Any, ...]:
    """Return the processor of a checkpoint, if it is on this machine."""
    if not place:
        return ()
    try:
        return (AutoProcessor.from_pretrained(place, local_files_only=True, trust_remote_code=False),)
    except (OSError, ValueError, ImportError):
        return ()


def same_words(config: Any, ids: list[int], template: str, number: int) -> bool:
    """Return whether these tokens, which stand between two images, are what a processor writes there.

    template: with {number}, or {time} for minutes and seconds, and names of the processor's attributes.
    """
    if any(not 0 <= token < 2**32 for token in ids):  # no token of any processor's
        return False
    return any(ids == _encoded(one, template, number, _time(one, ids)) for one in processors_of(config))


def _encoded(processor: Any, template: str, number: int, time: str) -> list[int]:
    tokens = {name: getattr(processor, name, getattr(processor.tokenizer, name, "")) for name in TOKENS}
    text = template.format(number=number, time=time, **tokens)
    return list(processor.tokenizer.encode(text, add_special_tokens=False))


def _time(processor: Any, ids: list[int]) -> str:
    """Return the minutes and seconds, as MM:SS, that some tokens write."""
    digits = [c for c in processor.tokenizer.decode(ids, skip_special_tokens=True) if c in "0123456789"]
    return "".join(digits[:-2]) + ":" + "".join(digits[-2:])
