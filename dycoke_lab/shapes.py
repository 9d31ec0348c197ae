"""Models of published shapes with random weights: what costs time and memory is the shape, not what was learned."""

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

from dycoke_lab.layout import Grid


@dataclass(frozen=True)
class Tower:
    """A vision tower: layers, hidden size, MLP width, heads. patches: side of a frame's square of them. sees: how many patches one
    attends to, on average over layers. matrices: of an MLP."""

    layers: int
    hidden: int
    mlp: int
    heads: int
    patches: int
    sees: float
    matrices: int


@dataclass(frozen=True)
class Shape:
    """A decoder: layers, hidden size, MLP width, query and key heads, vocabulary. grid: a frame's tokens, (rows, cols). source:
    where the shape is published. tied: whether the output layer is the table of embeddings."""

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
        """Parameters that a decoding step reads: of the layers and the output layer, biases and norms left out."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.mlp) + self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """Of the decoder and its output layer, biases and norms left out."""
        return self.weights + (0 if self.tied else self.vocab * self.hidden)

    def kv_bytes(self, element: int = 2) -> int:
        """Of one token in one layer."""
        return 2 * self.kv_heads * self.head_dim * element


ONEVISION = "config.json of llava-hf/llava-onevision-qwen2-{}-ov-hf"
QWEN = "config.json of Qwen/Qwen2.5-VL-{}-Instruct"
SIGLIP = Tower(26, 1152, 4304, 16, 27, 729, 2)
WINDOWED = Tower(32, 1280, 3420, 16, 28, (28 * 64 + 4 * 784) / 32, 3)  # four layers see the frame, the others windows of 8 x 8
SHAPES = {
    "tiny": Shape(4, 64, 128, 4, 2, 200, (4, 4), "this library's tests", "llava_onevision", True, Tower(2, 32, 64, 4, 8, 64, 2)),
    "llava-ov-0.5b": Shape(24, 896, 4864, 14, 2, 151_936, (14, 14), ONEVISION.format("0.5b"), "llava_onevision", True, SIGLIP),
    "llava-ov-7b": Shape(28, 3584, 18_944, 28, 4, 152_128, (14, 14), ONEVISION.format("7b"), "llava_onevision", False, SIGLIP),
    "qwen2.5-vl-3b": Shape(36, 2048, 11_008, 16, 2, 151_936, (14, 14), QWEN.format("3B"), "qwen2_5_vl", True, WINDOWED),
    "qwen2.5-vl-7b": Shape(28, 3584, 18_944, 28, 4, 152_064, (14, 14), QWEN.format("7B"), "qwen2_5_vl", False, WINDOWED),
}
VIDEO, IMAGE, TEXT = 3, 4, 10  # token ids
BEFORE, QUESTION = 14, 30  # words of a prompt
ENDING = {"llava_onevision": 1, "qwen2_5_vl": 0}  # tokens of a video that stand for no place


def _onevision(shape: Shape) -> Any:
    tower = shape.tower
    vision = SiglipVisionConfig(  # type: ignore[call-arg]
        hidden_size=tower.hidden, intermediate_size=tower.mlp, num_hidden_layers=tower.layers, num_attention_heads=tower.heads,
        image_size=14 * tower.patches, patch_size=14, vision_use_head=False,
    )  # fmt: skip
    return LlavaOnevisionForConditionalGeneration, LlavaOnevisionConfig(  # type: ignore[call-arg]
        vision_config=vision, text_config=Qwen2Config(**_text(shape)), image_token_id=IMAGE, video_token_id=VIDEO,
        tie_word_embeddings=shape.tied, vision_feature_layer=-1, vision_feature_select_strategy="full",
    )  # fmt: skip


def _qwen(shape: Shape) -> Any:
    tower = shape.tower
    vision = dict(
        hidden_size=tower.hidden, intermediate_size=tower.mlp, depth=tower.layers, num_heads=tower.heads,
        out_hidden_size=shape.hidden, fullatt_block_indexes=[7, 15, 23, 31],
    )  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    return Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig(
        vision_config=vision, text_config={**_text(shape), "rope_parameters": rope}, image_token_id=IMAGE, video_token_id=VIDEO,
        vision_start_token_id=5, vision_end_token_id=6, tie_word_embeddings=shape.tied,
    )  # fmt: skip


def _text(shape: Shape) -> dict[str, Any]:
    return dict(
        vocab_size=shape.vocab, hidden_size=shape.hidden, intermediate_size=shape.mlp, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, max_position_embeddings=131_072,
        tie_word_embeddings=shape.tied, bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip


BUILD: dict[str, Callable[[Shape], Any]] = {"llava_onevision": _onevision, "qwen2_5_vl": _qwen}


def build(name: str, device: str = "cpu", dtype: torch.dtype = torch.float32, seed: int = 0, vision: bool = False) -> Any:
    """A model of this shape in evaluation mode, random weights made where they are to stay: the decoder, with a small vision
    tower that is not to be measured; or, with `vision`, the vision tower, with a decoder of one layer."""
    shape = SHAPES[name]
    small = replace(SHAPES["tiny"].tower, patches=shape.tower.patches)  # by which a frame's tokens are counted
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


def encode(name: str, model: Any, frames: int, batch: int) -> Callable[[], Any]:
    """A call that encodes this many random frames on a model that was built with `vision`."""
    shape = SHAPES[name]
    tower = shape.tower
    pixels: dict[str, Any] = dict(device=model.device, dtype=model.dtype)
    if shape.family == "qwen2_5_vl":
        patches = torch.randn(batch * frames * tower.patches**2, 3 * 2 * 14 * 14, **pixels)
        grid = torch.tensor([[frames, tower.patches, tower.patches]] * batch, device=model.device)
        return lambda: model.model.get_video_features(patches, grid)
    video = torch.randn(batch, frames, 3, 14 * tower.patches, 14 * tower.patches, **pixels)
    return lambda: model.model.get_video_features(video, vision_feature_layer=-1, vision_feature_select_strategy="full")


def words_around(name: str) -> int:
    """Columns of a prompt that are no visual tokens of a frame."""
    return BEFORE + QUESTION + ENDING[SHAPES[name].family]


def prompt(name: str, model: Any, frames: int, batch: int, seed: int = 0) -> dict[str, Any]:
    """Inputs of `frames` encoded frames and a question, for each sample: random features in the place of what the vision tower
    would give, alike from frame to frame."""
    shape, device, dtype = SHAPES[name], model.device, model.dtype
    grid = Grid(frames, *shape.grid)
    random, drawn = torch.Generator().manual_seed(seed), torch.Generator(device).manual_seed(seed)
    made: dict[str, Any] = dict(generator=drawn, device=device, dtype=dtype)
    still = torch.randn(batch, 1, grid.per_frame, shape.hidden, **made)
    video = (still + 0.5 * torch.randn(batch, frames, grid.per_frame, shape.hidden, **made)).flatten(1, 2)
    video = torch.cat([video, torch.randn(batch, ENDING[shape.family], shape.hidden, **made)], 1) * 0.02
    tokens = video.shape[1]
    words = torch.randint(TEXT, shape.vocab, (batch, BEFORE + QUESTION), generator=random)
    ids = torch.cat([words[:, :BEFORE], torch.full((batch, tokens), VIDEO), words[:, BEFORE:]], 1)
    features: Any = video
    inputs: dict[str, Any] = {"input_ids": ids.to(device), "attention_mask": torch.ones_like(ids).to(device)}
    if shape.family == "qwen2_5_vl":
        features = list(features)
        merge = model.config.vision_config.spatial_merge_size
        inputs["video_grid_thw"] = torch.tensor([[frames, grid.rows * merge, grid.cols * merge]] * batch, device=device)
        inputs["mm_token_type_ids"] = (ids == VIDEO).int().to(device) * 2
    inputs["mm_encoder_outputs"] = {"video": BaseModelOutputWithPooling(pooler_output=features)}
    return inputs
