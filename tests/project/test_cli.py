"""The command line: common commands first, answers, and errors as people expect them."""

from __future__ import annotations

import re
import sys

import pandas as pd
import pytest
from PIL import Image

from dycoke_lab.cli import main
from dycoke_lab.methods import METHODS, TTM, Compression, Dynamic, composed
from dycoke_lab.specimen.clips import CLIPS, truth

CLIP, SHORT = "constructed-4-scenes.mp4", "constructed-2-scenes.mp4"
COMMANDS = [
    "run", "diagnose", "fidelity", "study", "bench", "evidence", "sweep", "validate", "matrix", "costs",
    "summary", "specimen",
]  # fmt: skip


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


def test_run_compares_compositions(capsys):
    question, right, *_ = truth(SHORT)
    given = ["run", str(CLIPS / SHORT), question, "--compare", "--merge-ratio", "0"]
    two = ["--method", "every_nth: share=0.25 + last_query", "--method", "dynamic"]
    main([*given, *two, "--prune-ratio", "0.5"])
    out = capsys.readouterr().out
    assert out.count(f"full cache: {right}\n") == 2 and out.count("words differ") == 2
    assert re.search(r"visual tokens after merging +128 +32\n", out), out
    assert re.search(r"active ones, in the pruned layers +128 +16\n", out)
    assert re.search(r"active ones, in the pruned layers +128 +64\n", out)


@pytest.mark.parametrize(("text", "message"), [
    ("dynamic + magic", r"method='magic' must be one of ttm, dynamic"),
    ("visionzip: share=1 + dynamic", r"visionzip has no field 'share': it has contextual, dom"),
    ("visionzip: dominant=x + dynamic", r"dominant=x of visionzip is no number"),
    ("dynamic + last_query", r"act in the same place"),
    ("every_nth: share=2", r"share=2 must be"),
])  # fmt: skip
def test_a_composition_as_text_is_checked(text, message):
    with pytest.raises(ValueError, match=message):
        composed(text, 0.5, 0.5)


def test_a_composition_as_text():
    assert composed("ttm + dynamic", 0.5, 0.9, 8) == TTM(0.5) + Dynamic(0.9, 8)
    assert composed("dynamic", 0.5, 0.9, 8) == TTM(0.5) + Dynamic(0.9, 8)
    assert composed("dynamic: reselect_below=2", 0.5, 0.9, 8) == Compression.of(Dynamic(0.9, 8, 2))
    assert composed("full", 0.5) == Compression.of(TTM(0.5))


def test_run_compares_all_methods(capsys):
    question, right, *_ = truth(SHORT)
    main(["run", str(CLIPS / SHORT), question, "--compare", "all", "--prune-ratio", "0.9"])
    out = capsys.readouterr().out
    assert f"full cache: {right}\n" in out and "\nkeep_first: " in out and "\nfastv: " in out
    assert "same choice, %" in out and "dynamic (DyCoke)" in out


def test_diagnose_recommends_a_layer_and_leaves_its_table(tmp_path, capsys):
    question, *_ = truth(SHORT)
    clips = [str(CLIPS / SHORT), str(CLIPS / SHORT)]
    main(["diagnose", *clips, "--question", question, "--out", str(tmp_path / "table.csv")])
    table = pd.read_csv(tmp_path / "table.csv")
    assert set(table["from_layer"]) == {1, 2, 3, 4, 5} and set(table["prune_ratio"]) == {0.7}
    out = capsys.readouterr().out
    layer = int(re.search(r"Recommended: L = (\d)", out)[1])
    dynamic = table[(table["method"] == "dynamic") & (table["from_layer"] == layer)]
    assert dynamic["changed"].mean() <= 0.02 and max(map(len, out.splitlines())) <= 110


def test_fidelity_measures_methods_and_continues(tmp_path, capsys):
    question, *_ = truth(SHORT)
    (tmp_path / "mine.py").write_text(
        "from dycoke_lab.methods import KeepFirst\nclass Mine(KeepFirst): ...\n"
    )
    given = ["fidelity", str(CLIPS / SHORT), "--question", question, "--out", str(tmp_path / "out")]
    main([*given, "--methods", "dynamic,random", "--kept", ".5,.25", "--from-layer", "3"])
    first = (tmp_path / "out" / "rows.jsonl").read_text()
    assert "dynamic (DyCoke)" in capsys.readouterr().out and len(first.splitlines()) == 4
    try:
        main([*given, "--methods", "dynamic", "--method", f"{tmp_path}/mine.py:Mine", "--kept", ".5"])
    finally:
        METHODS.pop("Mine", None)
    rows = (tmp_path / "out" / "rows.jsonl").read_text()
    assert rows.startswith(first) and len(rows.splitlines()) == 5 and '"Mine"' in rows.splitlines()[-1]
    table = pd.read_csv(tmp_path / "out" / "fidelity.csv")
    assert len(table) == 2 and (tmp_path / "out" / "fidelity.png").exists()
    with pytest.raises(SystemExit, match="holds a run with"):
        main([*given[:3], "another question", *given[4:]])


def test_layer_0_is_refused_and_no_other_taken_for_it(tmp_path):
    given = ["fidelity", str(CLIPS / SHORT), "--question", "x", "--out", str(tmp_path), "--from-layer", "0"]
    with pytest.raises(SystemExit, match="from_layer=0 must be"):
        main([*given, "--methods", "random", "--kept", ".5"])


@pytest.mark.parametrize(("arguments", "message"), [
    (["run", "missing.mp4", "x"], r"missing\.mp4.*neither a file nor a folder"),
    (["run", str(CLIPS / CLIP), "x", "--prune-ratio", "2"], r"prune_ratio=2\.0 must be"),
    (["run", str(CLIPS / CLIP), "x", "--model", "missing"], r"missing holds no checkpoint"),
    (["run", str(CLIPS / CLIP), "x", "--from-layer", "9"], r"from_layer=9 must be below"),
    (["run", str(CLIPS / CLIP), "x", "--dtype", "int8"], r"dtype='int8' must be"),
    (["bench", "--shape", "huge"], r"--shape huge: known are tiny, "),
    (["bench", "--methods", "full,magic"], r"--methods magic: known are "),
    (["evidence", "constructed", "--seed", "0"], r"holds a finished run: choose another folder with --out"),
    (["matrix", "nothing", "--seed", "0"], r"specimen='nothing' must be one of constructed, footage"),
    (["sweep", "nothing", "--seed", "0"], r"specimen='nothing' must be one of constructed, footage"),
    (["specimen", "train", "nothing", "--seed", "0"], r"specimen='nothing' must be one of constructed"),
    (["diagnose", "missing.mp4", "--question", "x"], r"videos='missing\.mp4' is neither a file nor a folder"),
    (["diagnose", str(CLIPS / CLIP), "--question", "x", "--prune-ratio", "1"], r"prune_ratio=1\.0 must be"),
    (["fidelity", str(CLIPS / CLIP), "--question", "x", "--kept", "1.5"], r"kept=1\.5 must be above 0"),
    (["fidelity", str(CLIPS / CLIP), "--question", "x", "--method", "a.py:B"], r"a\.py is no Python file"),
    (["fidelity", str(CLIPS / CLIP), "--question", "x", "--methods", "magic"], r"method='magic' must be one"),
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
    for arguments in (
        ["evidence", "--seed", "0"],
        ["sweep", "constructed"],
        ["specimen", "train", "footage"],
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2 and "are required: " in capsys.readouterr().err


def test_study_without_jupyter_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "dycoke_lab.notebooks", raising=False)
    monkeypatch.setitem(sys.modules, "papermill", None)
    with pytest.raises(SystemExit, match=r"papermill.*pip install 'dycoke_lab\[lab,site\]'"):
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
        main(["sweep", "constructed", "--seed", "0"])
    assert stop.value.code == 130 and "Finished settings are saved" in capsys.readouterr().err


ERRORS = {
    "ours": (ValueError("frames=0 must be\n1"), "error: frames=0 must be 1"),
    "of another": (KeyError("video"), "error: KeyError: 'video' (--debug shows where)"),
    "memory": (MemoryError("no room"), "error: out of memory: take fewer --frames, a smaller --dtype"),
    "a GPU's memory": (
        RuntimeError("CUDA out of memory. Tried"),
        "error: out of memory: take fewer --frames",
    ),
    "a full disk": (
        OSError(28, "No space left on device", "a/b"),
        "error: [Errno 28] No space left on device",
    ),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_is_one_line_unless_where_it_comes_from_is_asked_for(kind, monkeypatch):
    error, line = ERRORS[kind]

    def fail(*_):
        raise error

    monkeypatch.setattr("dycoke_lab.evaluation.evidence.chosen_layers", fail)
    with pytest.raises(SystemExit) as stop:
        main(["summary"])
    assert str(stop.value).startswith(line) and "\n" not in str(stop.value)
    for arguments in (["summary", "--debug"], ["--debug", "summary"]):
        with pytest.raises(type(error)):
            main(arguments)


def test_what_the_gpu_plan_needs_is_told_without_a_gpu():
    with pytest.raises(SystemExit, match=r"sees no GPU here\. The 7B shape needs an NVIDIA GPU with 24 GB"):
        main(["bench", "--shape", "llava-ov-7b", "--gpu-plan", "--device", "cuda"])


def test_the_rate_of_a_folder_of_pictures_is_an_option(tmp_path, capsys):
    from dycoke_lab.video import read_video

    for number, frame in enumerate(read_video(CLIPS / SHORT).frames):
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
    question, right, *_ = truth(SHORT)
    main(["run", str(tmp_path), question, "--rate", "8", "--fps", "8", "--method", "full"])
    assert capsys.readouterr().out.strip() == right
    for wrong in (["--fps", "8"], ["--fps", "inf", "--rate", "8"], ["--rate", "0"]):
        with pytest.raises(SystemExit, match=r"error: (fps|rate)="):
            main(["run", str(tmp_path), question, *wrong])
