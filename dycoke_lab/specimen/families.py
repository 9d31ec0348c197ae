"""The model families that specimens are of: stock transformers models, tiny, and their stock processors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    SiglipVisionConfig,
)

from dycoke_lab.specimen.world import World

SPECIAL = ("<pad>", "<unk>", "<|end|>", "<|user|>", "<|assistant|>")
RATE = 4  # frames a second
Ids = dict[str, int]  # token ids by word


@dataclass(frozen=True)
class Size:
    """tower, layers: depth of the vision tower, 64 wide, and of the decoder, `width` wide. tied: whether one
    matrix embeds words and predicts them."""

    tower: int = 2
    layers: int = 6
    width: int = 128
    tied: bool = True


@dataclass(frozen=True)
class Family:
    """A family. special: tokens of no world's language. before, token, after: what stands before the visual
    tokens of a prompt, for each of them, and after them. build, processor: a stock model with random weights
    from torch's current seed, and its stock processor. inputs(world, pixels): what the model gets of videos,
    (videos, frames, 3, height, width), 0 to 1. positions(model, world, frames): position ids of the prompt up
    to `after`, (axes, tokens).
    """

    special: tuple[str, ...]
    before: tuple[str, ...]
    token: str
    after: tuple[str, ...]
    build: Callable[[World, Size, Ids], Any]
    processor: Callable[[World, Ids], Any]
    inputs: Callable[[World, Tensor], dict[str, Tensor]]
    positions: Callable[[Any, World, int], Tensor]

    def prompt(self, world: World, frames: int) -> list[str]:
        """Return the tokens of a prompt up to the question."""
        return [*self.before, *[self.token] * (frames * world.tokens), *self.after]


def _decoder(size: Size, ids: Ids) -> dict[str, Any]:
    return dict(
        vocab_size=len(ids), hidden_size=size.width, intermediate_size=2 * size.width,
        num_hidden_layers=size.layers, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=2048, tie_word_embeddings=size.tied, pad_token_id=ids["<pad>"],
        bos_token_id=None, eos_token_id=ids["<|end|>"],
    )  # fmt: skip


def _tokenizer(ids: Ids) -> PreTrainedTokenizerFast:
    """Return a tokenizer with a token for each word."""
    words = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|end|>",
        padding_side="left",
        additional_special_tokens=[
            word for word in ids if word.startswith("<") and word not in ("<pad>", "<unk>", "<|end|>")
        ],
        model_input_names=["input_ids", "attention_mask"],
    )


def _template(placeholder: str) -> str:
    return (
        "{% for message in messages %}{{ '<|' + message['role'] + '|>' }} "
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] if part['type'] == 'video' %}{{ '"
        + placeholder
        + " ' }}{% endfor %}"
        "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
        "{% endif %} {% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )


def _pictures(**more: Any) -> dict[str, Any]:
    """Return processor settings that scale pixels to -1 ... 1."""
    switched_on = ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb")
    return dict.fromkeys(switched_on, True) | {"image_mean": [0.5] * 3, "image_std": [0.5] * 3} | more


def _llava_onevision(world: World, size: Size, ids: Ids) -> LlavaOnevisionForConditionalGeneration:
    vision = SiglipVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=size.tower, num_attention_heads=4,
        image_size=world.size, patch_size=world.size // world.grid // 2, vision_use_head=False,
    )  # fmt: skip
    config = LlavaOnevisionConfig(  # type: ignore[call-arg]
        vision_config=vision, text_config=Qwen2Config(**_decoder(size, ids)), image_token_id=ids["<image>"],
        video_token_id=ids["<video>"], vision_feature_layer=-1, vision_feature_select_strategy="full",
        tie_word_embeddings=size.tied,
    )  # fmt: skip
    return LlavaOnevisionForConditionalGeneration(config)


def _llava_onevision_processor(world: World, ids: Ids) -> LlavaOnevisionProcessor:
    picture = _pictures(size={"height": world.size, "width": world.size})
    return LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(
            **picture, image_grid_pinpoints=[[world.size, world.size]]
        ),
        video_processor=LlavaOnevisionVideoProcessor(**picture),
        tokenizer=_tokenizer(ids),
        num_image_tokens=4 * world.tokens,  # before the 2 x 2 pooling
        vision_feature_select_strategy="full",
        chat_template=_template("<video>"),
    )


LLAVA_ONEVISION = Family(
    special=(*SPECIAL, "<image>", "<video>"),
    before=("<|user|>",),
    token="<video>",
    after=("<video>",),  # a line break
    build=_llava_onevision,
    processor=_llava_onevision_processor,
    inputs=lambda world, pixels: {"pixel_values_videos": pixels * 2 - 1},
    positions=lambda model, world, frames: torch.arange(frames * world.tokens + 2)[None],
)


def _qwen2_5_vl(world: World, size: Size, ids: Ids) -> Qwen2_5_VLForConditionalGeneration:
    vision = dict(
        depth=size.tower, hidden_size=64, intermediate_size=128, num_heads=4, out_hidden_size=size.width,
        patch_size=world.size // world.grid // 2, spatial_merge_size=2, temporal_patch_size=1,
        window_size=world.size, fullatt_block_indexes=[size.tower - 1], tokens_per_second=RATE,
    )  # fmt: skip
    half = size.width // 8  # of a head's dimension
    rest = 3 * half // 8
    axes = dict(rope_type="default", rope_theta=10_000.0, mrope_section=[half - 2 * rest, rest, rest])
    config = Qwen2_5_VLConfig(  # type: ignore[call-arg]
        vision_config=vision, text_config={**_decoder(size, ids), "rope_parameters": axes},
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=size.tied,
    )  # fmt: skip
    return Qwen2_5_VLForConditionalGeneration(config)


def _qwen2_5_vl_processor(world: World, ids: Ids) -> Qwen2_5_VLProcessor:
    area = world.size**2
    picture = _pictures(
        patch_size=world.size // world.grid // 2, merge_size=2, temporal_patch_size=1,
        size={"shortest_edge": area, "longest_edge": area},
    )  # fmt: skip
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**picture),
        video_processor=Qwen2VLVideoProcessor(**picture, cap_pixels_per_frame=False),
        tokenizer=_tokenizer(ids),
        chat_template=_template("<|vision_start|> <|video_pad|> <|vision_end|>"),
    )


def _qwen2_5_vl_inputs(world: World, pixels: Tensor) -> dict[str, Tensor]:
    """Cut frames into patches, in blocks of 2 x 2 that become one token."""
    videos, frames, side = *pixels.shape[:2], world.grid
    patch = world.size // side // 2
    cut = (pixels * 2 - 1).view(videos, frames, 3, side, 2, patch, side, 2, patch)
    patches = cut.permute(0, 1, 3, 6, 4, 7, 2, 5, 8).reshape(-1, 3 * patch**2)
    return {
        "pixel_values_videos": patches,
        "video_grid_thw": torch.tensor([[frames, 2 * side, 2 * side]] * videos),
        "second_per_grid_ts": torch.full((videos,), 1 / RATE),
    }


def _qwen2_5_vl_positions(model: Any, world: World, frames: int) -> Tensor:
    count = frames * world.tokens
    kinds = torch.tensor([[0] * len(QWEN2_5_VL.before) + [2] * count + [0] * len(QWEN2_5_VL.after)])
    given = _qwen2_5_vl_inputs(world, torch.zeros(1, frames, 3, world.size, world.size))
    del given["pixel_values_videos"]
    positions, _ = model.model.get_rope_index(torch.zeros_like(kinds), mm_token_type_ids=kinds, **given)
    return positions[:, 0]


QWEN2_5_VL = Family(
    special=(*SPECIAL, "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"),
    before=("<|user|>", "<|vision_start|>"),
    token="<|video_pad|>",
    after=("<|vision_end|>",),
    build=_qwen2_5_vl,
    processor=_qwen2_5_vl_processor,
    inputs=_qwen2_5_vl_inputs,
    positions=_qwen2_5_vl_positions,
)
