"""Stock transformers opens an exported specimen, and its processor makes what training gave the model."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
from helpers.tiny_specimens import tiny
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from dycoke_lab.specimen.export import export
from dycoke_lab.specimen.families import RATE
from dycoke_lab.specimen.specimens import SPECIMENS
from dycoke_lab.specimen.tasks import make_task
from dycoke_lab.specimen.world import QUESTIONS
from dycoke_lab.video import Video, prompt


@pytest.fixture(scope="module", params=list(SPECIMENS))
def exported(request, tmp_path_factory):
    """A specimen, its model as in training, and the folder it was exported to."""
    torch.manual_seed(0)
    specimen, folder = tiny(request.param), tmp_path_factory.mktemp("exported")
    model = specimen.build()
    if specimen.restrict:
        specimen.restrict(model)
    export(model, folder, {"seed": 0}, specimen)
    return specimen, model.eval(), folder


def as_files(task):
    """The task with its pixels rounded to what a file holds; and for each sample the video and question that
    a user would give."""
    pixels = (task.videos.pixels * 255).round()
    task = replace(task, videos=replace(task.videos, pixels=pixels / 255))
    count = pixels.shape[1]
    start = len(task.specimen.family.prompt(task.specimen.world, count))
    asked = [
        (
            Video(frames.numpy(), tuple(range(count)), count, float(RATE)),
            " ".join(task.specimen.words[token] for token in ids[start:-1].tolist()),
        )
        for frames, ids in zip(pixels.permute(0, 1, 3, 4, 2).byte(), task.ids, strict=True)
    ]
    return task, asked


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_stock_processor_makes_the_inputs_of_a_task(exported, question):
    specimen, _, folder = exported
    task, asked = as_files(make_task(question, 2, 3, specimen=specimen.name))
    processor = AutoProcessor.from_pretrained(folder)
    assert type(processor) is type(specimen.processor())
    for sample, (video, text) in enumerate(asked):
        made = prompt(processor, video, text)
        assert torch.equal(made.pop("input_ids"), task.ids[sample : sample + 1])
        assert made.pop("attention_mask").all()
        assert made.keys() == task.inputs.keys()
        for name, part in made.items():
            expected = task.inputs[name].unflatten(0, (2, -1))[sample]
            torch.testing.assert_close(part, expected.view(part.shape), atol=1e-6, rtol=0)
        answer = task.answer[sample].tolist()
        written = processor.tokenizer.decode(answer, skip_special_tokens=True)
        assert specimen.encode(f"{written} <|end|>") == answer


def test_stock_transformers_opens_the_exported_folder(exported):
    specimen, model, folder = exported
    opened = AutoModelForImageTextToText.from_pretrained(folder)
    rounded = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in rounded.parameters():
            parameter.copy_(parameter.half().float())
    task = make_task("actor", 2, 2, specimen=specimen.name)
    given = {"input_ids": task.ids, **task.inputs}
    with torch.no_grad():
        logits = opened(**given).logits
        assert torch.equal(logits, rounded(**given).logits)
        assert 0 < (logits - model(**given).logits).abs().max() < 0.02
    assert opened.dtype == torch.float32
    assert type(opened) is type(model) and opened.config._attn_implementation == "sdpa"
    ends = opened.generation_config
    assert specimen.words[ends.eos_token_id] == "<|end|>" and specimen.words[ends.pad_token_id] == "<pad>"
    assert not ends.do_sample


def test_the_file_holds_every_weight_once_in_half_precision(exported):
    _, model, folder = exported
    parts = load_file(folder / "model.safetensors")
    assert {part.dtype for part in parts.values()} == {torch.float16}
    weights = sum(parameter.numel() for parameter in type(model)(model.config).parameters())
    assert sum(part.numel() for part in parts.values()) == weights
    about = json.loads((folder / "training.json").read_text())
    assert about["seed"] == 0 and "commit" in about["provenance"]
    files = {path.name for path in folder.iterdir()} - {"training.json"}
    assert set(about["sha256"]) == files and {"model.safetensors", "config.json"} <= files


def test_weights_that_training_shared_are_apart_in_the_export(exported):
    specimen, _, folder = exported
    layers = AutoModelForImageTextToText.from_pretrained(folder).model.language_model.layers
    two, three = (layers[number].self_attn.q_proj for number in (2, 3))
    assert two is not three
    assert torch.equal(two.weight, three.weight) == (specimen.name == "constructed")


def test_the_exported_model_writes_the_same_from_a_file_as_from_a_task(exported):
    specimen, _, folder = exported
    task, asked = as_files(make_task("describe", 1, 2, specimen=specimen.name))
    opened, processor = (
        kind.from_pretrained(folder) for kind in (AutoModelForImageTextToText, AutoProcessor)
    )
    settings = dict(do_sample=False, max_new_tokens=6, min_new_tokens=6, output_logits=True)
    settings["return_dict_in_generate"] = True
    one = opened.generate(**prompt(processor, *asked[0]), **settings)
    two = opened.generate(task.ids, **task.inputs, **settings)
    assert torch.equal(one.sequences, two.sequences)
    torch.testing.assert_close(torch.stack(one.logits), torch.stack(two.logits), atol=1e-5, rtol=0)
