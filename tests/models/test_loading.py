"""Checkpoints: every family from a folder, and what is said when there is none."""

from __future__ import annotations

import socket
import time

import pytest
import torch
from helpers.matrix import generate
from helpers.tiny_specimens import tiny

from dycoke_lab import DyCoke, load_model
from dycoke_lab.cli import main
from dycoke_lab.models import loading
from dycoke_lab.models.loading import specimen_names, specimen_seeds
from dycoke_lab.specimen.export import export


def test_every_family_is_loaded_from_a_folder(family, model, inputs, tmp_path):
    model.save_pretrained(tmp_path)
    stock = type(model).from_pretrained(tmp_path, dtype=torch.float64, attn_implementation="sdpa")
    expected = generate(stock, inputs)[1]
    family.processor().save_pretrained(tmp_path)
    loaded, processor = load_model(str(tmp_path), attention="sdpa")
    assert type(loaded) is type(model) and loaded.dtype == torch.float64 and not loaded.training
    assert type(processor).__name__ == type(family.processor()).__name__
    assert torch.equal(generate(loaded, inputs)[1], expected)
    half, _ = load_model(str(tmp_path), dtype="bfloat16", device="cpu", attention="eager")
    assert half.dtype == torch.bfloat16 and half.config._attn_implementation == "eager"
    with DyCoke(from_layer=2)(half):
        generate(half, {k: v.bfloat16() if v.is_floating_point() else v for k, v in inputs.items()})


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the hub's client tries again for a while


def test_without_a_network_it_says_what_to_do(offline):
    message = r"name='org/model' is no folder here.*hf download org/model --local-dir FOLDER"
    with pytest.raises(FileNotFoundError, match=message):
        load_model("org/model")


def test_bad_choices_are_named(tmp_path):
    with pytest.raises(ValueError, match="dtype='int8' must be 'auto', 'bfloat16'"):
        load_model(dtype="int8")
    with pytest.raises(ValueError, match="device='nowhere' cannot be used here"):
        load_model(device="nowhere")
    with pytest.raises(ValueError, match="attention='flash_attention_2': "):
        load_model(attention="flash_attention_2")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(TypeError, match="model is of type 'bert', which has no adapter here"):
        load_model(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "llava_onevision"}')
    with pytest.raises(FileNotFoundError, match=r"holds config.json, \*.safetensors"):
        load_model(str(tmp_path))
    with pytest.raises(SystemExit, match="error: dtype='int8' must be"):
        main(["run", "data/clips/constructed-2-scenes.mp4", "describe the two scenes", "--dtype", "int8"])


@pytest.mark.parametrize("family", ["llava_next_video"], indirect=True)
def test_pickled_weights_are_not_read(family, model, tmp_path):
    model.save_pretrained(tmp_path)
    family.processor().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="safetensors"):
        load_model(str(tmp_path))


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        load_model(str(tmp_path))


def test_specimens_are_known_by_name_and_seed(tmp_path, monkeypatch):
    specimen = tiny("footage")
    for seed in (10, 3):
        torch.manual_seed(seed)
        model = specimen.build()
        export(model, tmp_path / "footage" / f"seed-{seed}", {}, specimen)
    (tmp_path / "footage" / "seed-4").mkdir()  # nothing in it
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(loading, "SPECIMENS", tmp_path)
    assert specimen_names() == ["footage"]
    assert specimen_seeds("footage") == [3, 10] and specimen_seeds("empty") == specimen_seeds("none") == []
    loaded, processor = load_model("footage", 3)  # the last one exported
    weight = loaded.lm_head.weight
    assert torch.equal(weight, model.lm_head.weight.half().float()) and weight.device.type == "cpu"
    assert not torch.equal(load_model("footage", 10)[0].lm_head.weight, weight)
    assert processor.tokenizer.vocab_size == len(specimen.words)
    message = r"name='footage', seed=4: .*seed-4 holds no checkpoint\. Known: \"footage\" \(seeds \[3, 10\]\)"
    with pytest.raises(FileNotFoundError, match=message):
        load_model("footage", 4)
    with pytest.raises(FileNotFoundError, match="name='specimen', seed=0"):
        load_model("specimen")


def test_the_constructed_specimens_are_there():
    assert "constructed" in specimen_names() and specimen_seeds() == [0, 1, 2]
    assert torch.equal(load_model()[0].lm_head.weight, load_model("constructed", 0)[0].lm_head.weight)
