"""Write a trained specimen as a checkpoint folder that stock transformers opens without this library."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedTokenizerFast,
)

from dycoke_lab.results.provenance import provenance
from dycoke_lab.specimen.language import ID, SPECIAL
from dycoke_lab.specimen.world import GRID, SIZE

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }} "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'video' %}{{ '<video> ' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %} {% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def build_processor() -> LlavaOnevisionProcessor:
    """Return the stock processor: a token per word, frames resized to 32 x 32 and scaled to -1 ... 1."""
    words = Tokenizer(models.WordLevel(ID, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|end|>",
        padding_side="left",
        additional_special_tokens=[word for word in SPECIAL if word not in ("<pad>", "<unk>", "<|end|>")],
        model_input_names=["input_ids", "attention_mask"],
    )
    switched_on = ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb")
    picture: dict[str, Any] = dict.fromkeys(switched_on, True) | {
        "size": {"height": SIZE, "width": SIZE},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    return LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(**picture, image_grid_pinpoints=[[SIZE, SIZE]]),
        video_processor=LlavaOnevisionVideoProcessor(**picture),
        tokenizer=tokenizer,
        num_image_tokens=(2 * GRID) ** 2,  # before the 2 x 2 pooling
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    )


def export(model: LlavaOnevisionForConditionalGeneration, folder: Path, training: dict[str, Any]) -> None:
    """Write config, safetensors, tokenizer, chat template, processor, and training.json with checksums."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = model.state_dict()
    model = LlavaOnevisionForConditionalGeneration(model.config)  # copies of weights that training shared
    model.load_state_dict(weights)
    model.set_attn_implementation("sdpa")
    model.generation_config = GenerationConfig(
        eos_token_id=ID["<|end|>"], pad_token_id=ID["<pad>"], do_sample=False, max_new_tokens=40
    )
    model.to(device="cpu", dtype=torch.float32)  # type: ignore[call-overload,arg-type,call-arg]
    model.save_pretrained(folder)
    build_processor().save_pretrained(folder)
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
    sums.pop("training.json", None)
    record = {**training, "sha256": sums, "provenance": provenance()}
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")
