"""A checkpoint's folder: damage is named, nothing outside it is read, no code in it is run."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from dycoke_lab import load_model
from dycoke_lab.models import loading
from dycoke_lab.models.loading import SPECIMENS

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path):
    """A checkpoint's folder as it could have been downloaded, in a folder with nothing else."""
    shutil.copytree(SPECIMENS / "constructed" / "seed-0", tmp_path / "there" / "model")
    return tmp_path / "there" / "model"


def change(path, **fields):
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | fields))


def shard(folder, name):
    """Let the index name this file for all weights."""
    names = dict.fromkeys(load_file(folder / WEIGHTS), name)
    (folder / WEIGHTS).rename(folder.parent / "outside.safetensors")
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))


@pytest.mark.parametrize("how", ["../outside.safetensors", "sub/../../outside.safetensors", "absolute"])
def test_an_index_that_names_a_file_elsewhere_is_refused(folder, how):
    name = str(folder.parent / "outside.safetensors") if how == "absolute" else how
    (folder / "sub").mkdir()
    shard(folder, name)
    with pytest.raises(ValueError, match=rf"index\.json names '{name}', which is not in "):
        load_model(str(folder))
    (folder.parent / "outside.safetensors").rename(folder / "part.safetensors")
    change(
        folder / INDEX, weight_map=dict.fromkeys(load_file(folder / "part.safetensors"), "part.safetensors")
    )
    stock = load_model()[0].state_dict()
    assert all(
        torch.equal(part, stock[name]) for name, part in load_model(str(folder))[0].state_dict().items()
    )


@pytest.mark.parametrize("weights", ["all", ["a"], {"a": 1}])
def test_an_index_that_is_none_is_named(folder, weights):
    change(folder / INDEX, weight_map=weights)
    with pytest.raises(ValueError, match=r"index\.json is damaged \(weight_map names no files"):
        load_model(str(folder))


def test_weights_that_the_config_names_elsewhere_are_refused(folder):
    shutil.copy(folder / WEIGHTS, folder.parent / "outside.safetensors")
    change(folder / "config.json", transformers_weights="../outside.safetensors")
    with pytest.raises(ValueError, match="must reference a file inside the model directory"):
        load_model(str(folder))


@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "tokenizer.json"])
def test_a_link_that_leaves_the_folder_is_refused(folder, name):
    (folder / name).rename(folder.parent / name)
    for target in (f"../{name}", folder.parent / name):
        (folder / name).symlink_to(target)
        message = rf"/{name} is a link to .*, which is not in .*: copy the file there"
        with pytest.raises(ValueError, match=message):
            load_model(str(folder))
        (folder / name).unlink()
    (folder.parent / name).rename(folder / "other")
    (folder / name).symlink_to("other")
    load_model(str(folder))


def test_a_folder_that_a_shard_lies_in_may_be_no_link_either(folder):
    (folder.parent / "elsewhere").mkdir()
    (folder / "sub").symlink_to("../elsewhere")
    with pytest.raises(ValueError, match=r"/sub is a link to "):
        load_model(str(folder))


def test_the_hubs_cache_is_read_which_consists_of_links(folder, tmp_path):
    cached, blobs = tmp_path / "models--a--b" / "snapshots" / "0123", tmp_path / "models--a--b" / "blobs"
    cached.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / str(number))
        (cached / path.name).symlink_to(f"../../blobs/{number}")
    load_model(str(cached))
    (tmp_path / "again").symlink_to(cached)  # the folder itself may be a link: the user gave it
    load_model(str(tmp_path / "again"))


MARK = "DYCOKE_LAB_TEST_MARK"
CODE = f"import os\nos.mkdir(os.environ['{MARK}'])\nclass Own: ...\ndef generate(*args, **how): ...\n"


@pytest.mark.parametrize("known", [True, False])
def test_code_that_comes_with_a_checkpoint_is_not_run(folder, tmp_path, monkeypatch, known):
    monkeypatch.setenv(MARK, str(tmp_path / "it-ran"))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    (folder / "own.py").write_text(CODE)
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(CODE)
    classes = {
        "config.json": ("AutoConfig", "AutoModel", "AutoModelForImageTextToText"),
        "processor_config.json": ("AutoProcessor", "AutoImageProcessor", "AutoVideoProcessor"),
        "tokenizer_config.json": ("AutoTokenizer",),
    }
    for name, kinds in classes.items():
        change(folder / name, auto_map=dict.fromkeys(kinds, "own.Own"))
    if known:
        model, processor = load_model(str(folder))
        assert type(model).__module__.startswith("transformers.models.llava_onevision")
        assert type(processor).__module__.startswith("transformers.models.llava_onevision")
    else:
        change(folder / "config.json", model_type="own")
        with pytest.raises(TypeError, match="model is of type 'own', which has no adapter here"):
            load_model(str(folder))
    assert not (tmp_path / "it-ran").exists()
    exec(CODE)
    assert (tmp_path / "it-ran").exists()  # it would have been seen


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("processor_config.json", {"audio_tokenizer": {"audio_tokenizer_name_or_path": "own/model"}}),
        ("config.json", {"text_config": {"attn_implementation": "own/kernel"}}),
        ("config.json", {"_attn_implementation": "own/kernel"}),
    ],
)
def test_a_folder_that_asks_for_a_download_is_refused(folder, name, fields):
    for key, value in fields.items():
        known = json.loads((folder / name).read_text()).get(key)
        change(folder / name, **{key: known | value if isinstance(known, dict) else value})
    with pytest.raises(ValueError, match=rf"/{name} asks for a download by \w+=.*own/"):
        load_model(str(folder))


def test_damaged_weights_of_the_hub_are_named(monkeypatch):
    def damaged(*_, **__):
        raise SafetensorError("header too small")

    class Config:
        model_type = "llava_onevision"

    monkeypatch.setattr(loading.AutoConfig, "from_pretrained", lambda *_, **__: Config)
    monkeypatch.setattr(loading.AutoModelForImageTextToText, "from_pretrained", damaged)
    with pytest.raises(ValueError, match=r"name='org/model': its weights are damaged \(header too small\)"):
        load_model("org/model")
