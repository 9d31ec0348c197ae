"""Files whole or not at all, and what is said of a folder before work begins."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from dycoke_lab.cli import main
from dycoke_lab.results import files
from dycoke_lab.results.files import check_folder, held, replace_text, replacing
from dycoke_lab.results.rows import RowStore
from dycoke_lab.specimen.clips import CLIPS, write_clips
from dycoke_lab.specimen.train import TrainConfig, train_and_export

CLIP = str(CLIPS / "constructed-2-scenes.mp4")
Usage = namedtuple("Usage", "total used free")


def test_replace_text_leaves_no_other_file(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    replace_text(tmp_path / "a.txt", "new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["new"]


def test_what_fails_while_it_is_written_leaves_the_old_file(tmp_path):
    (tmp_path / "a.txt").write_text("old")

    def fail():
        with replacing(tmp_path / "a.txt") as new:
            new.write_text("half")
            raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        fail()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


@pytest.fixture(params=["read-only", "full", "a file"])
def unusable(request, tmp_path, monkeypatch):
    """A folder that no run can use, and what should be said of it."""
    if request.param == "full":
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(9e9, 9e9, 20 * 2**20))
        return tmp_path / "new", r"new has 20 MiB left on its disk, and a run needs about 100 MiB: make room"
    if request.param == "a file":
        (tmp_path / "there").write_text("")
        return tmp_path / "there", "there is not a folder: choose another one with --out"
    if os.getuid():
        tmp_path.chmod(0o500)
        return tmp_path / "new", "new cannot be written .*: choose another folder with --out"
    if not os.path.isdir("/sys/kernel"):
        pytest.skip("root may write everywhere here")
    return Path("/sys/kernel/new"), "new cannot be written .*: choose another folder with --out"


def test_a_folder_that_no_run_can_use_is_named_and_nothing_is_left(unusable):
    folder, message = unusable
    before = sorted(folder.parent.iterdir())
    for use in (check_folder, RowStore, lambda path: held(path).__enter__(), write_clips):
        with pytest.raises(OSError, match=message):
            use(folder)
    assert sorted(folder.parent.iterdir()) == before


@pytest.mark.parametrize(
    "command",
    [
        ["fidelity", CLIP, "--question", "describe the two scenes", "--out"],
        ["diagnose", CLIP, "--question", "describe the two scenes", "--out"],
        ["bench", "--out"],
        ["evidence", "constructed", "--seed", "0", "--out"],
        ["sweep", "constructed", "--seed", "0", "--out"],
        ["validate", "constructed", "--seed", "0", "--out"],
        ["study", "--out"],
        ["specimen", "train", "constructed", "--seed", "0", "--out"],
    ],
    ids=lambda command: command[0],
)
def test_each_command_says_so_before_its_work_begins(unusable, command, monkeypatch):
    def work(*_, **__):
        raise AssertionError("the work has begun")

    for place in (
        "models.loading.load_model", "evaluation.grids.load_model", "evaluation.predictions.load_model",
        "bench.benchmark.build_model", "bench.benchmark.measured_device", "notebooks.execute",
        "specimen.specimens.Specimen.build",
    ):  # fmt: skip
        monkeypatch.setattr(f"dycoke_lab.{place}", work)
    folder, message = unusable
    out = folder / "table.csv" if command[0] == "diagnose" else folder
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        main([*command, str(out)])


def test_a_training_says_that_its_model_cannot_be_left(unusable, tmp_path_factory):
    folder, message = unusable
    message = message.removeprefix("new")  # the disk is full for all folders
    run = tmp_path_factory.mktemp("other") / "run"
    with pytest.raises(OSError, match=message):
        train_and_export(TrainConfig(device="cpu"), run, folder)
    assert not run.exists()


def test_a_folder_is_held_against_other_processes_until_the_holder_ends(tmp_path):
    code = "import sys; from pathlib import Path; from dycoke_lab.results.files import held\n"
    code += "with held(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(tmp_path / "a")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError, match="/a is in use by another run"):
            RowStore(tmp_path / "a")
        with pytest.raises(SystemExit, match=r"error: .*/a is in use by another run"):
            main(["specimen", "train", "constructed", "--seed", "0", "--out", str(tmp_path / "a")])
        assert not list((tmp_path / "a").iterdir())
        other.kill()
    RowStore(tmp_path / "a").close()


def test_a_file_system_without_locks_is_used_without(tmp_path, monkeypatch):
    def none(handle, how):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(files.fcntl, "flock", none)
    RowStore(tmp_path / "a").close()
