"""Build a tiny random model of each family, and transformers' own processor for it."""

from __future__ import annotations

import functools
from typing import Any

import torch
import transformers as hf  # its classes are imported when they are asked for

from helpers.vocabulary import (
    EDGES,
    ID,
    MROPE,
    PICTURE,
    SIDE,
    SQUARE,
    TEXT,
    VIDEO_EDGES,
    WIDTH,
    tokenizer,
)


def llava_onevision() -> Any:
    vision = hf.SiglipVisionConfig(
        **WIDTH, num_hidden_layers=2, image_size=SIDE, patch_size=4, vision_use_head=False
    )
    return hf.LlavaOnevisionForConditionalGeneration(
        hf.LlavaOnevisionConfig(
            vision_config=vision,
            text_config=hf.Qwen2Config(**TEXT),
            image_token_id=ID["<image>"],
            video_token_id=ID["<video>"],
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
            image_grid_pinpoints=[[SIDE, SIDE]],
        )
    )


@functools.cache
def llava_onevision_processor() -> Any:
    return hf.LlavaOnevisionProcessor(
        image_processor=hf.LlavaOnevisionImageProcessor(
            **PICTURE, size=SQUARE, image_grid_pinpoints=[[SIDE, SIDE]]
        ),
        video_processor=hf.LlavaOnevisionVideoProcessor(**PICTURE, size=SQUARE),
        tokenizer=tokenizer(),
        num_image_tokens=64,
        vision_feature_select_strategy="full",
    )


def llava_next_video() -> Any:
    vision = hf.CLIPVisionConfig(
        **WIDTH, num_hidden_layers=2, image_size=SIDE, patch_size=4, projection_dim=32
    )
    return hf.LlavaNextVideoForConditionalGeneration(
        hf.LlavaNextVideoConfig(
            vision_config=vision,
            text_config=hf.LlamaConfig(**TEXT),
            image_token_index=ID["<image>"],
            video_token_index=ID["<video>"],
            image_grid_pinpoints=[[SIDE, SIDE]],
        )
    )


@functools.cache
def llava_next_video_processor() -> Any:
    square = {"size": {"shortest_edge": SIDE}, "crop_size": SQUARE}
    return hf.LlavaNextVideoProcessor(
        image_processor=hf.LlavaNextImageProcessor(**PICTURE, **square, image_grid_pinpoints=[[SIDE, SIDE]]),
        video_processor=hf.LlavaNextVideoVideoProcessor(**PICTURE, **square),
        tokenizer=tokenizer(),
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def qwen2_5_vl() -> Any:
    vision = dict(
        depth=2,
        hidden_size=32,
        intermediate_size=64,
        num_heads=4,
        patch_size=4,
        spatial_merge_size=2,
        temporal_patch_size=2,
        out_hidden_size=32,
        window_size=16,
        fullatt_block_indexes=[1],
        tokens_per_second=2,
    )
    return hf.Qwen2_5_VLForConditionalGeneration(
        hf.Qwen2_5_VLConfig(
            vision_config=vision,
            text_config={**TEXT, "rope_parameters": MROPE},
            image_token_id=ID["<|image_pad|>"],
            video_token_id=ID["<|video_pad|>"],
            vision_start_token_id=ID["<|vision_start|>"],
            vision_end_token_id=ID["<|vision_end|>"],
        )
    )


@functools.cache
def qwen2_5_vl_processor() -> Any:
    sizes = dict(patch_size=4, merge_size=2, temporal_patch_size=2, size=EDGES)
    return hf.Qwen2_5_VLProcessor(
        image_processor=hf.Qwen2VLImageProcessor(**PICTURE, **sizes),
        video_processor=hf.Qwen2VLVideoProcessor(**PICTURE, **sizes, cap_pixels_per_frame=False),
        tokenizer=tokenizer(),
    )


def qwen3_vl() -> Any:
    vision = dict(
        depth=3,
        hidden_size=32,
        intermediate_size=64,
        num_heads=4,
        patch_size=4,
        spatial_merge_size=2,
        temporal_patch_size=2,
        out_hidden_size=32,
        num_position_embeddings=64,
        deepstack_visual_indexes=[0, 1],
    )
    return hf.Qwen3VLForConditionalGeneration(
        hf.Qwen3VLConfig(
            vision_config=vision,
            text_config={**TEXT, "head_dim": 8, "rope_parameters": {**MROPE, "mrope_interleaved": True}},
            image_token_id=ID["<|image_pad|>"],
            video_token_id=ID["<|video_pad|>"],
            vision_start_token_id=ID["<|vision_start|>"],
            vision_end_token_id=ID["<|vision_end|>"],
        )
    )


@functools.cache
def qwen3_vl_processor() -> Any:
    sizes = dict(patch_size=4, merge_size=2, temporal_patch_size=2)
    return hf.Qwen3VLProcessor(
        image_processor=hf.Qwen2VLImageProcessor(**PICTURE, **sizes, size=EDGES),
        video_processor=hf.Qwen3VLVideoProcessor(
            **PICTURE, **sizes, size=VIDEO_EDGES, do_sample_frames=False, cap_pixels_per_frame=False
        ),
        tokenizer=tokenizer(),
    )


def internvl() -> Any:
    vision = dict(**WIDTH, num_hidden_layers=2, image_size=SIDE, patch_size=4)
    return hf.InternVLForConditionalGeneration(
        hf.InternVLConfig(
            vision_config=vision,
            text_config=hf.Qwen2Config(**TEXT),
            image_token_id=ID["<IMG_CONTEXT>"],
            image_seq_length=16,
        )
    )


@functools.cache
def internvl_processor() -> Any:
    words = tokenizer(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    return hf.InternVLProcessor(
        image_processor=hf.GotOcr2ImageProcessor(**PICTURE, size=SQUARE, crop_to_patches=False),
        video_processor=hf.InternVLVideoProcessor(**PICTURE, size=SQUARE),
        tokenizer=words,
        image_seq_length=16,
    )


def video_llama_3() -> Any:
    vision = dict(**WIDTH, num_hidden_layers=2, patch_size=4)
    return hf.VideoLlama3ForConditionalGeneration(
        hf.VideoLlama3Config(
            vision_config=vision,
            text_config=hf.Qwen2Config(**TEXT),
            image_token_id=ID["<image>"],
            video_token_id=ID["<video>"],
        )
    )


@functools.cache
def video_llama_3_processor() -> Any:
    words = tokenizer(image_token="<image>", video_token="<video>")
    return hf.VideoLlama3Processor(
        image_processor=hf.VideoLlama3ImageProcessor(**PICTURE, patch_size=4, merge_size=2, size=EDGES),
        video_processor=hf.VideoLlama3VideoProcessor(
            **PICTURE,
            patch_size=4,
            merge_size=2,
            size=VIDEO_EDGES,
            use_token_compression=False,
            cap_pixels_per_frame=False,
        ),
        tokenizer=words,
    )


def smolvlm() -> Any:
    vision = dict(**WIDTH, num_hidden_layers=2, image_size=SIDE, patch_size=4)
    return hf.SmolVLMForConditionalGeneration(
        hf.SmolVLMConfig(
            vision_config=vision,
            text_config=hf.LlamaConfig(**TEXT),
            image_token_id=ID["<image>"],
            scale_factor=2,
        )
    )


@functools.cache
def smolvlm_processor() -> Any:
    edge = {"size": {"longest_edge": SIDE}, "max_image_size": {"longest_edge": SIDE}}
    return hf.SmolVLMProcessor(
        image_processor=hf.SmolVLMImageProcessor(**PICTURE, **edge, do_image_splitting=False),
        video_processor=hf.SmolVLMVideoProcessor(**PICTURE, **edge),
        tokenizer=tokenizer(),
        image_seq_len=16,
    )


def gemma3() -> Any:
    vision = hf.SiglipVisionConfig(
        **WIDTH, num_hidden_layers=2, image_size=SIDE, patch_size=4, vision_use_head=False
    )
    kinds = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    text = hf.Gemma3TextConfig(
        **TEXT, head_dim=8, layer_types=kinds, sliding_window=40, query_pre_attn_scalar=8
    )
    model = hf.Gemma3ForConditionalGeneration(
        hf.Gemma3Config(
            vision_config=vision,
            text_config=text,
            mm_tokens_per_image=16,
            image_token_id=ID["<image_soft_token>"],
            boi_token_id=ID["<start_of_image>"],
            eoi_token_id=ID["<end_of_image>"],
        )
    )
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)
    return model


@functools.cache
def gemma3_processor() -> Any:
    words = tokenizer(
        image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>"
    )
    return hf.Gemma3Processor(
        image_processor=hf.Gemma3ImageProcessor(**PICTURE, size=SQUARE), tokenizer=words, image_seq_length=16
    )
