"""The supported families, each a tiny random model with transformers' own processor; no library code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from helpers import tiny_models
from helpers.vocabulary import SIDE


def template(video: str, image: str) -> str:
    return (
        "{% for m in messages %}{{ m['role'] }}\n"
        "{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}"
        "{% elif p['type'] == 'video' %}"
        + video
        + "{% else %}"
        + image
        + "{% endif %}{% endfor %}{% endfor %}"
        "{% if add_generation_prompt %}\nassistant\n{% endif %}"
    )


@dataclass(frozen=True)
class Family:
    """Say how a family's prompts are written, and make models and inputs of it.

    video, image: what stands for one in a text. placeholder: a video's token. ending: such tokens after its
    last frame. paired: how many frames of the file become one of the model's.
    """

    name: str
    build: Any
    make_processor: Any
    video: str
    image: str
    placeholder: str
    ending: int = 0
    paired: int = 1
    mixed: bool = True  # transformers' processor takes videos of several lengths in one call
    image_is_a_frame: bool = False  # an image's tokens are those of a video's frame
    equal: bool = False  # videos of one call have the same number of frames, by the model
    both: bool = True  # transformers' processor takes an image and a video in one call

    def model(self) -> Any:
        """Return a model in float64, with uneven attention, so that a wrong choice shows."""
        torch.manual_seed(1)
        model = self.build().double().eval()
        for layer in decoder_of(model).layers:
            layer.self_attn.q_proj.weight.data *= 40
            layer.self_attn.k_proj.weight.data *= 40
        return model

    def processor(self) -> Any:
        processor = self.make_processor()
        processor.chat_template = template(self.video, self.image)
        from dycoke_lab.models import learn  # here, since conftest's hook must come before the library

        learn(processor)
        return processor

    def inputs(self, *samples: list[Any]) -> dict[str, torch.Tensor]:
        """Make prompts from parts: text, ("video", frames), ("image", picture)."""
        texts, videos, images = [], [], []
        for parts in samples:
            text = ""
            for part in parts:
                if isinstance(part, str):
                    text += part
                elif part[0] == "video" and self.name != "gemma3":
                    text += self.video
                    videos.append(part[1])
                elif part[0] == "video":
                    text += self.image * len(part[1])
                    images.append(list(part[1]))
                else:
                    text += self.image
                    images.append([part[1]])
            texts.append(text)
        nested = [picture for group in images for picture in group]
        if self.name in ("smolvlm", "gemma3"):
            nested = [self._pictures(parts) for parts in samples]  # one list for each batch element
            nested = nested if any(nested) else []
        inputs = self.processor()(
            text=texts,
            videos=videos or None,
            images=nested or None,
            return_tensors="pt",
            padding=True,
            padding_side="left",
        )
        return {
            key: value.double() if value.is_floating_point() else value
            for key, value in inputs.items()
            if isinstance(value, torch.Tensor)
        }

    def _pictures(self, parts: list[Any]) -> list[Any]:
        """The images of one prompt; where videos are given as images, their frames, too."""
        pictures: list[Any] = []
        for kind, pixels in (part for part in parts if not isinstance(part, str)):
            if kind == "image":
                pictures.append(pixels)
            elif self.name == "gemma3":
                pictures.extend(pixels)
        return pictures


def decoder_of(model: Any) -> Any:
    return model.model.text_model if model.config.model_type == "smolvlm" else model.model.language_model


def frames(count: int, seed: int = 0, size: int = SIDE) -> np.ndarray:
    """Draw boxes that move over a still background: neighbouring frames are alike, but nowhere the same."""
    random = np.random.default_rng(seed)
    noise = 60 if seed % 2 else 20
    video = np.repeat(random.integers(0, 255, (1, size, size, 3)), count, 0) + random.integers(
        -noise, noise, (count, size, size, 3)
    )
    for number in range(count):
        at = (3 * number + 5 * seed) % (size - 8)
        video[number, at : at + 8, at : at + 8] = random.integers(0, 255, 3)
    return video.clip(0, 255).astype(np.uint8)


QWEN: dict[str, Any] = {
    "video": "<|vision_start|><|video_pad|><|vision_end|>",
    "image": "<|vision_start|><|image_pad|><|vision_end|>",
    "placeholder": "<|video_pad|>",
    "paired": 2,
}
LLAVA: dict[str, Any] = {"video": "<video>", "image": "<image>", "placeholder": "<video>"}
TRAITS: dict[str, dict[str, Any]] = {
    "llava_onevision": dict(**LLAVA, ending=1, mixed=False, equal=True),
    "llava_next_video": dict(**LLAVA, mixed=False, equal=True),
    "qwen2_5_vl": QWEN,
    "qwen3_vl": QWEN,
    "internvl": dict(
        video="<video>\n",
        image="<IMG_CONTEXT>\n",
        placeholder="<IMG_CONTEXT>",
        image_is_a_frame=True,
        mixed=False,
    ),
    "video_llama_3": LLAVA,
    "smolvlm": dict(
        video="<video>", image="<image>", placeholder="<image>", image_is_a_frame=True, both=False
    ),
    "gemma3": dict(
        video="<start_of_image>",
        image="<start_of_image>",
        placeholder="<image_soft_token>",
        image_is_a_frame=True,
    ),
}
FAMILIES = {
    name: Family(name, getattr(tiny_models, name), getattr(tiny_models, f"{name}_processor"), **traits)
    for name, traits in TRAITS.items()
}
