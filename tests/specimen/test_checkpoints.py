"""Checkpoints of a training, and exported specimens: whole or refused, and nothing in them is run."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from helpers.tiny_specimens import tiny

from dycoke_lab import load_model
from dycoke_lab.cli import main
from dycoke_lab.models import loading
from dycoke_lab.models.folder import check_checkpoint, check_sums
from dycoke_lab.specimen import train
from dycoke_lab.specimen.export import export
from dycoke_lab.specimen.specimens import SPECIMENS
from dycoke_lab.specimen.train import TrainConfig, Trainer, train_and_export

CONFIG = TrainConfig(seed=3, steps=2, batch=1, device="cpu")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A training's checkpoint."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SPECIMENS, "constructed", tiny("constructed"))
        Trainer(CONFIG, folder).run(progress=False)
    return folder / "checkpoint.pt"


@pytest.fixture
def run(saved, tmp_path, monkeypatch):
    """A folder with that checkpoint."""
    monkeypatch.setitem(SPECIMENS, "constructed", tiny("constructed"))
    shutil.copy(saved, tmp_path)
    return tmp_path


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99, 0.99999])
def test_a_truncated_checkpoint_is_named_and_refused(run, share):
    path = run / "checkpoint.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"/checkpoint\.pt is damaged \(.*or delete it and make it again"):
        Trainer(CONFIG, run)
    assert path.read_bytes() == before


def test_what_is_no_checkpoint_of_a_training_is_refused(run):
    for state in ({"model": {}}, [1], torch.ones(2)):
        torch.save(state, run / "checkpoint.pt")
        with pytest.raises(ValueError, match=r"/checkpoint\.pt is damaged \(it is no training's\)"):
            Trainer(CONFIG, run)


class Hostile:
    """What runs when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_hostile_checkpoint_fails_without_being_run(run, legacy, monkeypatch):
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", raising=False)
    mark, path = run / "it-ran", run / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    torch.save({**state, "began": Hostile(mark)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match=r"/checkpoint\.pt is damaged \(it is not tensors and plain"):
        Trainer(CONFIG, run)
    assert not mark.exists()
    torch.load(path, weights_only=False)  # it is hostile indeed
    assert mark.exists()


def test_half_a_line_and_lines_of_later_steps_leave_the_log(run):
    log = run / "log.jsonl"
    log.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    trainer = Trainer(CONFIG, run)
    assert log.read_text().endswith('{"st')  # until it is run, nothing is changed
    trainer.run(progress=False)
    assert log.read_text() == '{"step": 1}\n{"step": 2}\n'
    (run / "checkpoint.pt").unlink()
    Trainer(CONFIG, run).run(progress=False)
    assert log.read_text() == ""
    log.write_text('{"st\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"/log\.jsonl is damaged in line 1 "):
        Trainer(CONFIG, run).run(progress=False)


def test_a_step_that_is_interrupted_as_it_changes_weights_is_not_saved(run, monkeypatch):
    (run / "checkpoint.pt").unlink()
    trainer = Trainer(CONFIG, run)
    step = trainer.optimizers[1].step

    def interrupted():
        if trainer.step == 1:
            raise KeyboardInterrupt
        step()

    monkeypatch.setattr(train, "SAVE_EVERY", 1)
    monkeypatch.setattr(trainer.optimizers[1], "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.run(progress=False)
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    assert state["progress"][0] == 1
    again = Trainer(CONFIG, run)
    whole = Trainer(CONFIG, run / "whole")
    ends = [one.run(progress=False).state_dict() for one in (again, whole)]
    assert all(torch.equal(ends[0][part], ends[1][part]) for part in ends[0])


def test_an_export_that_is_killed_leaves_the_old_one_or_none_or_the_new_one(tmp_path, monkeypatch):
    specimen, folder = tiny("footage"), tmp_path / "footage" / "seed-0"
    old, new = (specimen.build() for _ in range(2))
    for name in ("replace", "unlink", "rmdir"):
        monkeypatch.setattr(Path, name, dying(getattr(Path, name)))
    found = set()
    for step in range(100):
        dying.left = 1000
        export(old, folder, {"of": "old"}, specimen, "old\n")
        dying.left = step
        try:
            export(new, folder, {"of": "new"}, specimen, "new\n")
        except KeyboardInterrupt:
            pass
        else:
            break
        if (folder / "config.json").exists():
            check_checkpoint(folder)
            check_sums(folder)
            found.add(json.loads((folder / "training.json").read_text())["of"])
        else:
            found.add("none")
    assert 8 < step < 20 and found == {"old", "none", "new"}
    assert (folder / "log.jsonl").read_text() == "new\n"
    assert [path.name for path in folder.parent.iterdir()] == ["seed-0"]  # nothing is left beside it


def dying(done):
    """What dies instead of doing what it should, after `dying.left` times."""

    def do(path, *given, **how):
        dying.left -= "footage" in path.parts
        if dying.left < 0:
            raise KeyboardInterrupt
        return done(path, *given, **how)

    return do


@pytest.fixture
def specimen(tmp_path, monkeypatch):
    """The folder of a shipped specimen."""
    shutil.copytree(loading.SPECIMENS / "constructed" / "seed-0", tmp_path / "constructed" / "seed-0")
    monkeypatch.setattr(loading, "SPECIMENS", tmp_path)
    return tmp_path / "constructed" / "seed-0"


NAMES = [path.name for path in (loading.SPECIMENS / "constructed" / "seed-0").iterdir()]


@pytest.mark.parametrize("name", sorted(NAMES))
def test_each_truncated_file_of_a_specimen_is_named_and_refused(specimen, name):
    whole = (specimen / name).read_bytes()
    for share in (0, 0.5, 0.999):
        (specimen / name).write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(SystemExit, match=rf"^error: .*/{name} is damaged \("):
            main(["run", "data/clips/constructed-2-scenes.mp4", "describe the two scenes"])


def test_a_changed_weight_of_a_specimen_is_named(specimen):
    path = specimen / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged \(its checksum in training\.json"):
        load_model("constructed")


def test_a_training_in_a_folder_of_another_is_refused_before_it_begins(tmp_path, monkeypatch):
    monkeypatch.setitem(SPECIMENS, "constructed", tiny("constructed"))
    train_and_export(TrainConfig(seed=3, steps=20, batch=1, device="cpu"), tmp_path, tmp_path / "export")
    with pytest.raises(ValueError, match="holds a run with other settings"):
        train_and_export(TrainConfig(seed=4, steps=20, batch=1, device="cpu"), tmp_path, tmp_path / "export")
