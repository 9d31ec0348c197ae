"""The few words that the tests' models know, and the sizes that all of these models share."""

from __future__ import annotations

import re
from typing import Any

from tokenizers import Regex, Tokenizer, models, pre_tokenizers

SIDE = 32  # pixels; 4 x 4 tokens a frame
LAYERS = 4
WORDS = re.findall(
    r"\w+",
    "Frame frame from Time s seconds You are provided the following series of eight frames video Here is The "
    "question what image happens first then compare with user assistant and",
)
PIECES = [*"0123456789.:,<>[]\n?", " "]
SPECIAL = [
    "<pad>", "<unk>", "<|end|>", "<image>", "<video>", "<|image_pad|>", "<|video_pad|>",
    "<|vision_start|>", "<|vision_end|>", "<img>", "</img>", "<IMG_CONTEXT>",
    "<fake_token_around_image>", "<global-img>", "<end_of_utterance>",
    "<start_of_image>", "<image_soft_token>", "<end_of_image>",
    *(f"<row_{r}_col_{c}>" for r in range(1, 5) for c in range(1, 5)),
]  # fmt: skip
ID = {token: number for number, token in enumerate([*SPECIAL, *WORDS, *PIECES])}


def tokenizer(**names: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel(ID, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex(r"[A-Za-z]+|."), "isolated")
    words.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|end|>",
        padding_side="left",
        extra_special_tokens=names,
        model_input_names=["input_ids", "attention_mask"],
    )


PICTURE: dict[str, Any] = dict(
    do_resize=True,
    do_rescale=True,
    do_normalize=True,
    do_convert_rgb=True,
    image_mean=[0.5] * 3,
    image_std=[0.5] * 3,
)
SQUARE = {"height": SIDE, "width": SIDE}
EDGES = {"shortest_edge": 64, "longest_edge": SIDE * SIDE}  # in pixels
VIDEO_EDGES = {"shortest_edge": 64, "longest_edge": 64 * SIDE * SIDE}  # of all frames together
WIDTH = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
TEXT: dict[str, Any] = dict(
    **WIDTH,
    vocab_size=len(ID),
    num_hidden_layers=LAYERS,
    num_key_value_heads=2,
    max_position_embeddings=4096,
    pad_token_id=ID["<pad>"],
    bos_token_id=None,
    eos_token_id=ID["<|end|>"],
)
MROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 2]}
