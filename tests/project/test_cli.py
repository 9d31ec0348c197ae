"""The command line: common commands first, answers, and errors as people expect them."""

from __future__ import annotations

import re
import sys

import pytest

from dycoke_lab.cli import main
from dycoke_lab.specimen.clips import CLIPS, truth

CLIP = "constructed-4-scenes.mp4"
COMMANDS = ["run", "study", "bench", "evidence", "sweep", "summary", "specimen"]


def test_help_lists_the_common_commands_first_with_a_line_each(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    commands = [line.split()[0] for line in lines[lines.index("commands:") + 2 :]]
    assert stop.value.code == 0 and commands == COMMANDS
    assert all(len(line) <= 80 for line in lines)


@pytest.mark.parametrize("command", [*COMMANDS, "specimen train", "specimen evaluate", "specimen clips"])
def test_every_command_has_a_help_page(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0 and f"usage: dycoke-lab {command}" in capsys.readouterr().out


def test_run_answers_and_compares(capsys):
    question, right, *_ = truth(CLIP)
    main(["run", str(CLIPS / CLIP), question, "--merge-ratio", "0.5"])
    assert capsys.readouterr().out.strip() == right
    main(["run", str(CLIPS / CLIP), question, "--compare", "--prune-ratio", "0.9", "--method", "keep_first"])
    out = capsys.readouterr().out
    assert f"full cache: {right}\n" in out and re.search(r"visual tokens after merging +256 +124\n", out)
    assert int(re.search(r"(\d+) of 19 words differ \(.*keep first; K=0.7, P=0.9, L=3\)", out)[1]) > 5
    main(["run", str(CLIPS / CLIP), question, "--frames", "4", "--max-new-tokens", "3"])
    assert len(capsys.readouterr().out.split()) == 3


@pytest.mark.parametrize(("arguments", "message"), [
    (["run", "missing.mp4", "x"], r"missing\.mp4.*neither a file nor a folder"),
    (["run", str(CLIPS / CLIP), "x", "--prune-ratio", "2"], r"prune_ratio=2\.0 must be"),
    (["run", str(CLIPS / CLIP), "x", "--model", "missing"], r"missing holds no checkpoint"),
    (["run", str(CLIPS / CLIP), "x", "--from-layer", "9"], r"from_layer=9 must be below"),
    (["run", str(CLIPS / CLIP), "x", "--dtype", "int8"], r"dtype='int8' must be"),
    (["bench", "--shape", "huge"], r"--shape huge: known are tiny, "),
    (["bench", "--methods", "full,magic"], r"--methods magic: known are "),
    (["evidence", "--seed", "0"], r"holds a finished run: choose another folder with --out"),
])  # fmt: skip
def test_errors_are_one_line_and_exit_with_one(arguments, message):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert re.match(f"error: .*{message}", str(stop.value.code)) and "\n" not in stop.value.code


def test_wrong_usage_exits_with_two(capsys):
    for arguments in (
        ["clip.mp4"],
        ["clip.mp4", "x", "--frames", "2", "--fps", "1"],
        ["clip.mp4", "x", "--method", "magic"],
    ):
        with pytest.raises(SystemExit) as stop:
            main(["run", *arguments])
        assert stop.value.code == 2
    assert "usage: dycoke-lab run" in capsys.readouterr().err


def test_study_without_jupyter_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "dycoke_lab.notebooks", raising=False)
    monkeypatch.setitem(sys.modules, "papermill", None)
    with pytest.raises(SystemExit, match=r"papermill.*pip install 'dycoke_lab\[lab\]'"):
        main(["study"])


def test_bench_measures_the_configs_it_is_asked_for(tmp_path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr("dycoke_lab.bench.benchmark.run_benchmark", lambda *given: asked.append(given))
    monkeypatch.setattr("dycoke_lab.bench.summary.summary", lambda folder: "the table")
    settings = ["--frames", "4", "--new-tokens", "3", "--methods", "full,dycoke", "--reselect-below", ".9,2"]
    main(["bench", *settings, "--merge-ratio", ".5", "--out", str(tmp_path)])
    ((configs, *others),) = asked
    assert others == [3, tmp_path, "cpu", "float32", None]
    assert [config.label for config in configs] == [
        "full",
        "dycoke K=0.5 P=0.7",
        "dycoke K=0.5 P=0.7 every step",
    ]
    assert "the table" in capsys.readouterr().out


def test_ctrl_c_says_what_is_saved(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("dycoke_lab.evaluation.grids.run_grid", interrupted)
    with pytest.raises(SystemExit) as stop:
        main(["sweep", "--seed", "0"])
    assert stop.value.code == 130 and "Finished settings are saved" in capsys.readouterr().err
