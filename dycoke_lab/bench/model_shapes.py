"""Models of published shapes with random weights: time and memory depend on the shape, hardly on what was
learned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from dycoke_lab.models.token_layout import TokenGrid


@dataclass(frozen=True)
class Tower:
    """A vision tower.

    patches: side of a frame's square of patches. attended: how many patches one attends to, on average over
    layers. matrices: how many an MLP has.
    """

    layers: int
    hidden: int
    mlp: int
    heads: int
    patches: int
    attended: float
    matrices: int


@dataclass(frozen=True)
class Shape:
    """A decoder and the vision tower before it.

    grid: a frame's tokens, (rows, cols). source: where the shape is published.
    tied: whether the output layer is the table of embeddings.
    """

    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    vocab: int
    grid: tuple[int, int]
    source: str
    family: str
    tied: bool
    tower: Tower

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def weights(self) -> int:
        """Count the parameters that a decoding step reads: layers and output layer, without biases and
        norms.
        """
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.mlp) + self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """Count those of the decoder and its output layer, without biases and norms."""
        return self.weights + (0 if self.tied else self.vocab * self.hidden)

    def kv_bytes(self, element: int = 2) -> int:
        """Return the bytes of one token's key and value in one layer."""
        return 2 * self.kv_heads * self.head_dim * element


ONEVISION = "config.json of llava-hf/llava-onevision-qwen2-{}-ov-hf"
QWEN = "config.json of Qwen/Qwen2.5-VL-{}-Instruct"
SIGLIP = Tower(26, 1152, 4304, 16, 27, 729, 2)
# four layers attend to the whole frame, the others to windows of 8 x 8
WINDOWED = Tower(32, 1280, 3420, 16, 28, (28 * 64 + 4 * 784) / 32, 3)
TINY = Tower(2, 32, 64, 4, 8, 64, 2)
LLAVA, QWEN_VL = "llava_onevision", "qwen2_5_vl"
SHAPES = {
    "tiny": Shape(4, 64, 128, 4, 2, 200, (4, 4), "this library's tests", LLAVA, True, TINY),
    "llava-ov-0.5b": Shape(
        24, 896, 4864, 14, 2, 151_936, (14, 14), ONEVISION.format("0.5b"), LLAVA, True, SIGLIP
    ),
    "llava-ov-7b": Shape(
        28, 3584, 18_944, 28, 4, 152_128, (14, 14), ONEVISION.format("7b"), LLAVA, False, SIGLIP
    ),
    "qwen2.5-vl-3b": Shape(
        36, 2048, 11_008, 16, 2, 151_936, (14, 14), QWEN.format("3B"), QWEN_VL, True, WINDOWED
    ),
    "qwen2.5-vl-7b": Shape(
        28, 3584, 18_944, 28, 4, 152_064, (14, 14), QWEN.format("7B"), QWEN_VL, False, WINDOWED
    ),
}
VIDEO, IMAGE, TEXT = 3, 4, 10  # token ids
BEFORE, QUESTION = 14, 30  # text tokens of a prompt
ENDING = {LLAVA: 1, QWEN_VL: 0}  # tokens after a video's last frame


def _onevision(shape: Shape) -> Any:
    tower = shape.tower
    vision = SiglipVisionConfig(  # type: ignore[call-arg]
        hidden_size=tower.hidden,
        intermediate_size=tower.mlp,
        num_hidden_layers=tower.layers,
        num_attention_heads=tower.heads,
        image_size=14 * tower.patches,
        patch_size=14,
        vision_use_head=False,
    )
    return LlavaOnevisionForConditionalGeneration, LlavaOnevisionConfig(  # type: ignore[call-arg]
        vision_config=vision,
        text_config=Qwen2Config(**_text(shape)),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        tie_word_embeddings=shape.tied,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )


def _qwen(shape: Shape) -> Any:
    tower = shape.tower
    vision = dict(
        hidden_size=tower.hidden,
        intermediate_size=tower.mlp,
        depth=tower.layers,
        num_heads=tower.heads,
        out_hidden_size=shape.hidden,
        fullatt_block_indexes=[7, 15, 23, 31],
    )
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    return Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig(
        vision_config=vision,
        text_config={**_text(shape), "rope_parameters": rope},
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=5,
        vision_end_token_id=6,
        tie_word_embeddings=shape.tied,
    )


def _text(shape: Shape) -> dict[str, Any]:
    return dict(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=131_072,
        tie_word_embeddings=shape.tied,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )


BUILD: dict[str, Callable[[Shape], Any]] = {LLAVA: _onevision, QWEN_VL: _qwen}


def build_model(
    name: str, device: str = "cpu", dtype: torch.dtype = torch.float32, seed: int = 0, vision: bool = False,
    layers: int | None = None,
) -> Any:  # fmt: skip
    """Return a model of this shape in evaluation mode, its random weights made on the device where they are
    to stay.

    The decoder has its published shape and a small vision tower that is not to be measured; with `vision`, it
    is the other way round, with a decoder of one layer. layers: of the decoder; None: as published.
    """
    shape = replace(SHAPES[name], layers=layers or SHAPES[name].layers)
    small = replace(TINY, patches=shape.tower.patches)  # the number of a frame's tokens follows from it
    shape = replace(shape, layers=1, mlp=64, vocab=64) if vision else replace(shape, tower=small)
    kind, config = BUILD[shape.family](shape)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    torch.manual_seed(seed)
    try:
        with torch.device(device):
            return kind(config).eval()
    finally:
        torch.set_default_dtype(before)


def encoding(name: str, model: Any, frames: int, batch: int) -> Callable[[], Any]:
    """Return a call that encodes this many random frames on a model that was built with `vision`."""
    shape = SHAPES[name]
    tower = shape.tower
    pixels: dict[str, Any] = dict(device=model.device, dtype=model.dtype)
    if shape.family == QWEN_VL:
        patches = torch.randn(batch * frames * tower.patches**2, 3 * 2 * 14 * 14, **pixels)
        grid = torch.tensor([[frames, tower.patches, tower.patches]] * batch, device=model.device)
        return lambda: model.model.get_video_features(patches, grid)
    video = torch.randn(batch, frames, 3, 14 * tower.patches, 14 * tower.patches, **pixels)
    settings = dict(vision_feature_layer=-1, vision_feature_select_strategy="full")
    return lambda: model.model.get_video_features(video, **settings)


def other_tokens(name: str) -> int:
    """Count a prompt's tokens that belong to no frame."""
    return BEFORE + QUESTION + ENDING[SHAPES[name].family]


def random_prompt(name: str, model: Any, frames: int, batch: int, seed: int = 0) -> dict[str, Any]:
    """Return inputs of `frames` encoded frames and a question, for each batch element.

    Random features, alike from frame to frame, stand in the place of the vision tower's output.
    """
    shape, device, dtype = SHAPES[name], model.device, model.dtype
    grid = TokenGrid(frames, *shape.grid)
    random, drawn = torch.Generator().manual_seed(seed), torch.Generator(device).manual_seed(seed)
    made: dict[str, Any] = dict(generator=drawn, device=device, dtype=dtype)
    scene = torch.randn(batch, 1, grid.per_frame, shape.hidden, **made)
    video = (scene + 0.5 * torch.randn(batch, frames, grid.per_frame, shape.hidden, **made)).flatten(1, 2)
    video = torch.cat([video, torch.randn(batch, ENDING[shape.family], shape.hidden, **made)], 1) * 0.02
    text = torch.randint(TEXT, shape.vocab, (batch, BEFORE + QUESTION), generator=random)
    ids = torch.cat([text[:, :BEFORE], torch.full((batch, video.shape[1]), VIDEO), text[:, BEFORE:]], 1)
    features: Any = video
    inputs: dict[str, Any] = {"input_ids": ids.to(device), "attention_mask": torch.ones_like(ids).to(device)}
    if shape.family == QWEN_VL:
        features = list(features)
        merge = model.config.vision_config.spatial_merge_size
        inputs["video_grid_thw"] = torch.tensor(
            [[frames, grid.rows * merge, grid.cols * merge]] * batch, device=device
        )
        inputs["mm_token_type_ids"] = (ids == VIDEO).int().to(device) * 2
    inputs["mm_encoder_outputs"] = {"video": BaseModelOutputWithPooling(pooler_output=features)}
    return inputs
