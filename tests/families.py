"""A tiny random model of each supported family, with transformers' own processor for it; nothing here calls the library."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

SIDE = 32  # pixels; 4 x 4 tokens a frame
LAYERS = 4
WORDS = re.findall(
    r"\w+",
    "Frame frame from Time s seconds You are provided the following series of eight frames video Here is The question what "
    "image happens first then compare with user assistant and",
)
PIECES = [*"0123456789.:,<>[]\n?", " "]
SPECIAL = [
    "<pad>", "<unk>", "<|end|>", "<image>", "<video>", "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>",
    "<img>", "</img>", "<IMG_CONTEXT>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>",
    "<start_of_image>", "<image_soft_token>", "<end_of_image>",
    *(f"<row_{r}_col_{c}>" for r in range(1, 5) for c in range(1, 5)),
]  # fmt: skip
ID = {token: number for number, token in enumerate([*SPECIAL, *WORDS, *PIECES])}


def template(video: str, image: str) -> str:
    return (
        "{% for m in messages %}{{ m['role'] }}\n{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}"
        "{% elif p['type'] == 'video' %}" + video + "{% else %}" + image + "{% endif %}{% endfor %}{% endfor %}"
        "{% if add_generation_prompt %}\nassistant\n{% endif %}"
    )


@dataclass(frozen=True)
class Family:
    """video, image: what stands for one in a text. placeholder: a video's token. ending: such tokens after its last frame.
    paired: frames of the file that become one of the model's."""

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
        """In float64, with uneven attention, so that a wrong choice shows."""
        torch.manual_seed(1)
        model = self.build().double().eval()
        for layer in decoder_of(model).layers:
            layer.self_attn.q_proj.weight.data *= 40
            layer.self_attn.k_proj.weight.data *= 40
        return model

    def processor(self) -> Any:
        processor = self.make_processor()
        processor.chat_template = template(self.video, self.image)
        return processor

    def inputs(self, *samples: list[Any]) -> dict[str, torch.Tensor]:
        """Prompts from parts: text, ("video", frames), ("image", picture)."""
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
        if self.name in ("smolvlm", "gemma3"):  # one list for each sample
            nested = [
                [p for part in parts if not isinstance(part, str) and not (part[0] == "video" and self.name == "smolvlm")
                 for p in (part[1] if part[0] == "video" else [part[1]])] for parts in samples
            ]  # fmt: skip
            nested = nested if any(nested) else []
        inputs = self.processor()(
            text=texts, videos=videos or None, images=nested or None, return_tensors="pt", padding=True, padding_side="left"
        )
        return {
            key: value.double() if value.is_floating_point() else value
            for key, value in inputs.items() if isinstance(value, torch.Tensor)
        }  # fmt: skip


def decoder_of(model: Any) -> Any:
    return model.model.text_model if model.config.model_type == "smolvlm" else model.model.language_model


def frames(count: int, seed: int = 0, size: int = SIDE) -> np.ndarray:
    """Boxes that move over a still background: neighbouring frames are alike, but nowhere the same."""
    random = np.random.default_rng(seed)
    noise = 60 if seed % 2 else 20
    video = np.repeat(random.integers(0, 255, (1, size, size, 3)), count, 0) + random.integers(
        -noise, noise, (count, size, size, 3)
    )
    for number in range(count):
        at = (3 * number + 5 * seed) % (size - 8)
        video[number, at : at + 8, at : at + 8] = random.integers(0, 255, 3)
    return video.clip(0, 255).astype(np.uint8)


def tokenizer(**names: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel(ID, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex(r"[A-Za-z]+|."), "isolated")
    words.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", eos_token="<|end|>", padding_side="left",
        extra_special_tokens=names, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


PICTURE: dict[str, Any] = dict(
    do_resize=True, do_rescale=True, do_normalize=True, do_convert_rgb=True, image_mean=[0.5] * 3, image_std=[0.5] * 3,
)  # fmt: skip
SQUARE = {"height": SIDE, "width": SIDE}
EDGES = {"shortest_edge": 64, "longest_edge": SIDE * SIDE}  # in pixels
VIDEO_EDGES = {"shortest_edge": 64, "longest_edge": 64 * SIDE * SIDE}  # of all frames together
WIDTH = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
TEXT: dict[str, Any] = dict(
    **WIDTH, vocab_size=len(ID), num_hidden_layers=LAYERS, num_key_value_heads=2, max_position_embeddings=4096,
    pad_token_id=ID["<pad>"], bos_token_id=None, eos_token_id=ID["<|end|>"],
)  # fmt: skip
MROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 2]}


def llava_onevision() -> Any:
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, Qwen2Config, SiglipVisionConfig

    vision = SiglipVisionConfig(**WIDTH, num_hidden_layers=2, image_size=SIDE, patch_size=4, vision_use_head=False)
    return LlavaOnevisionForConditionalGeneration(LlavaOnevisionConfig(
        vision_config=vision, text_config=Qwen2Config(**TEXT), image_token_id=ID["<image>"], video_token_id=ID["<video>"],
        vision_feature_layer=-1, vision_feature_select_strategy="full", image_grid_pinpoints=[[SIDE, SIDE]],
    ))  # fmt: skip


@functools.cache
def llava_onevision_processor() -> Any:
    from transformers import LlavaOnevisionImageProcessor, LlavaOnevisionProcessor, LlavaOnevisionVideoProcessor

    return LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(**PICTURE, size=SQUARE, image_grid_pinpoints=[[SIDE, SIDE]]),
        video_processor=LlavaOnevisionVideoProcessor(**PICTURE, size=SQUARE), tokenizer=tokenizer(),
        num_image_tokens=64, vision_feature_select_strategy="full",
    )  # fmt: skip


def llava_next_video() -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration

    vision = CLIPVisionConfig(**WIDTH, num_hidden_layers=2, image_size=SIDE, patch_size=4, projection_dim=32)
    return LlavaNextVideoForConditionalGeneration(LlavaNextVideoConfig(
        vision_config=vision, text_config=LlamaConfig(**TEXT), image_token_index=ID["<image>"], video_token_index=ID["<video>"],
        image_grid_pinpoints=[[SIDE, SIDE]],
    ))  # fmt: skip


@functools.cache
def llava_next_video_processor() -> Any:
    from transformers import LlavaNextImageProcessor, LlavaNextVideoProcessor, LlavaNextVideoVideoProcessor

    square = {"size": {"shortest_edge": SIDE}, "crop_size": SQUARE}
    return LlavaNextVideoProcessor(
        image_processor=LlavaNextImageProcessor(**PICTURE, **square, image_grid_pinpoints=[[SIDE, SIDE]]),
        video_processor=LlavaNextVideoVideoProcessor(**PICTURE, **square), tokenizer=tokenizer(),
        patch_size=4, vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip


def qwen2_5_vl() -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    vision = dict(
        depth=2, hidden_size=32, intermediate_size=64, num_heads=4, patch_size=4, spatial_merge_size=2, temporal_patch_size=2,
        out_hidden_size=32, window_size=16, fullatt_block_indexes=[1], tokens_per_second=2,
    )  # fmt: skip
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(
        vision_config=vision, text_config={**TEXT, "rope_parameters": MROPE}, image_token_id=ID["<|image_pad|>"],
        video_token_id=ID["<|video_pad|>"], vision_start_token_id=ID["<|vision_start|>"], vision_end_token_id=ID["<|vision_end|>"],
    ))  # fmt: skip


@functools.cache
def qwen2_5_vl_processor() -> Any:
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    sizes = dict(patch_size=4, merge_size=2, temporal_patch_size=2, size=EDGES)
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**PICTURE, **sizes),
        video_processor=Qwen2VLVideoProcessor(**PICTURE, **sizes, cap_pixels_per_frame=False), tokenizer=tokenizer(),
    )  # fmt: skip


def qwen3_vl() -> Any:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    vision = dict(
        depth=3, hidden_size=32, intermediate_size=64, num_heads=4, patch_size=4, spatial_merge_size=2, temporal_patch_size=2,
        out_hidden_size=32, num_position_embeddings=64, deepstack_visual_indexes=[0, 1],
    )  # fmt: skip
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(
        vision_config=vision, text_config={**TEXT, "head_dim": 8, "rope_parameters": {**MROPE, "mrope_interleaved": True}},
        image_token_id=ID["<|image_pad|>"], video_token_id=ID["<|video_pad|>"],
        vision_start_token_id=ID["<|vision_start|>"], vision_end_token_id=ID["<|vision_end|>"],
    ))  # fmt: skip


@functools.cache
def qwen3_vl_processor() -> Any:
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    sizes = dict(patch_size=4, merge_size=2, temporal_patch_size=2)
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**PICTURE, **sizes, size=EDGES),
        video_processor=Qwen3VLVideoProcessor(
            **PICTURE, **sizes, size=VIDEO_EDGES, do_sample_frames=False, cap_pixels_per_frame=False
        ),
        tokenizer=tokenizer(),
    )  # fmt: skip


def internvl() -> Any:
    from transformers import InternVLConfig, InternVLForConditionalGeneration, Qwen2Config

    vision = dict(**WIDTH, num_hidden_layers=2, image_size=SIDE, patch_size=4)
    return InternVLForConditionalGeneration(InternVLConfig(
        vision_config=vision, text_config=Qwen2Config(**TEXT), image_token_id=ID["<IMG_CONTEXT>"], image_seq_length=16,
    ))  # fmt: skip


@functools.cache
def internvl_processor() -> Any:
    from transformers import GotOcr2ImageProcessor, InternVLProcessor, InternVLVideoProcessor

    words = tokenizer(
        start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>"
    )
    return InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(**PICTURE, size=SQUARE, crop_to_patches=False),
        video_processor=InternVLVideoProcessor(**PICTURE, size=SQUARE), tokenizer=words, image_seq_length=16,
    )  # fmt: skip


def video_llama_3() -> Any:
    from transformers import Qwen2Config, VideoLlama3Config, VideoLlama3ForConditionalGeneration

    vision = dict(**WIDTH, num_hidden_layers=2, patch_size=4)
    return VideoLlama3ForConditionalGeneration(VideoLlama3Config(
        vision_config=vision, text_config=Qwen2Config(**TEXT), image_token_id=ID["<image>"], video_token_id=ID["<video>"],
    ))  # fmt: skip


@functools.cache
def video_llama_3_processor() -> Any:
    from transformers import VideoLlama3ImageProcessor, VideoLlama3Processor, VideoLlama3VideoProcessor

    words = tokenizer(image_token="<image>", video_token="<video>")
    return VideoLlama3Processor(
        image_processor=VideoLlama3ImageProcessor(**PICTURE, patch_size=4, merge_size=2, size=EDGES),
        video_processor=VideoLlama3VideoProcessor(
            **PICTURE, patch_size=4, merge_size=2, size=VIDEO_EDGES, use_token_compression=False, cap_pixels_per_frame=False
        ),
        tokenizer=words,
    )  # fmt: skip


def smolvlm() -> Any:
    from transformers import LlamaConfig, SmolVLMConfig, SmolVLMForConditionalGeneration

    vision = dict(**WIDTH, num_hidden_layers=2, image_size=SIDE, patch_size=4)
    return SmolVLMForConditionalGeneration(SmolVLMConfig(
        vision_config=vision, text_config=LlamaConfig(**TEXT), image_token_id=ID["<image>"], scale_factor=2,
    ))  # fmt: skip


@functools.cache
def smolvlm_processor() -> Any:
    from transformers import SmolVLMImageProcessor, SmolVLMProcessor, SmolVLMVideoProcessor

    edge = {"size": {"longest_edge": SIDE}, "max_image_size": {"longest_edge": SIDE}}
    return SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(**PICTURE, **edge, do_image_splitting=False),
        video_processor=SmolVLMVideoProcessor(**PICTURE, **edge), tokenizer=tokenizer(), image_seq_len=16,
    )  # fmt: skip


def gemma3() -> Any:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3TextConfig, SiglipVisionConfig

    vision = SiglipVisionConfig(**WIDTH, num_hidden_layers=2, image_size=SIDE, patch_size=4, vision_use_head=False)
    kinds = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    text = Gemma3TextConfig(**TEXT, head_dim=8, layer_types=kinds, sliding_window=40, query_pre_attn_scalar=8)
    model = Gemma3ForConditionalGeneration(Gemma3Config(
        vision_config=vision, text_config=text, mm_tokens_per_image=16, image_token_id=ID["<image_soft_token>"],
        boi_token_id=ID["<start_of_image>"], eoi_token_id=ID["<end_of_image>"],
    ))  # fmt: skip
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)
    return model


@functools.cache
def gemma3_processor() -> Any:
    from transformers import Gemma3ImageProcessor, Gemma3Processor

    words = tokenizer(image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>")
    return Gemma3Processor(image_processor=Gemma3ImageProcessor(**PICTURE, size=SQUARE), tokenizer=words, image_seq_length=16)


QWEN = {
    "video": "<|vision_start|><|video_pad|><|vision_end|>", "image": "<|vision_start|><|image_pad|><|vision_end|>",
    "placeholder": "<|video_pad|>", "paired": 2,
}  # fmt: skip
LLAVA = {"video": "<video>", "image": "<image>", "placeholder": "<video>"}
FAMILIES = {
    family.name: family
    for family in (
        Family("llava_onevision", llava_onevision, llava_onevision_processor, **LLAVA, ending=1, mixed=False, equal=True),
        Family("llava_next_video", llava_next_video, llava_next_video_processor, **LLAVA, mixed=False, equal=True),
        Family("qwen2_5_vl", qwen2_5_vl, qwen2_5_vl_processor, **QWEN),
        Family("qwen3_vl", qwen3_vl, qwen3_vl_processor, **QWEN),
        Family("internvl", internvl, internvl_processor, "<video>\n", "<IMG_CONTEXT>\n", "<IMG_CONTEXT>", image_is_a_frame=True,
               mixed=False),
        Family("video_llama_3", video_llama_3, video_llama_3_processor, **LLAVA),
        Family("smolvlm", smolvlm, smolvlm_processor, "<video>", "<image>", "<image>", image_is_a_frame=True, both=False),
        Family("gemma3", gemma3, gemma3_processor, "<start_of_image>", "<start_of_image>", "<image_soft_token>",
               image_is_a_frame=True),
    )
}  # fmt: skip
