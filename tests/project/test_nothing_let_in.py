"""No socket without a download that was asked for, no pickle, and no remote code."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from dycoke_lab.results.folders import ROOT

CODE = {path: ast.parse(path.read_text()) for path in (ROOT / "dycoke_lab").rglob("*.py")}
NETWORK = {
    "socket", "socketserver", "ssl", "asyncio", "http", "urllib", "ftplib", "smtplib", "xmlrpc", "requests",
    "httpx", "aiohttp", "urllib3", "websocket", "huggingface_hub", "zmq", "tornado",
}  # fmt: skip
PICKLE = {"pickle", "marshal", "shelve", "dbm", "dill", "joblib", "cloudpickle"}


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def calls(name):
    """Each call of a method or function of this name, as (file, call)."""
    return [
        (path.name, node)
        for path, tree in CODE.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and name == getattr(node.func, "attr", getattr(node.func, "id", None))
    ]  # fmt: skip


def keyword(call, name):
    """The value of a keyword that is a constant; None if there is none."""
    return next((ast.literal_eval(one.value) for one in call.keywords if one.arg == name), None)


def test_no_module_imports_what_opens_sockets_or_reads_pickles():
    assert len(CODE) > 100
    found = {(path.name, name) for path, tree in CODE.items() for name in imported(tree)}
    assert not {(path, name) for path, name in found if name in NETWORK | PICKLE}


def test_torch_load_reads_weights_only_and_nothing_else_reads_pickles():
    loads = [(file, call) for file, call in calls("load") if ast.unparse(call.func) == "torch.load"]
    assert [file for file, _ in loads] == ["train.py"]
    assert keyword(loads[0][1], "weights_only") is True
    others = {ast.unparse(call.func) for _, call in calls("load")} - {"torch.load"}
    assert not {name for name in others if name.startswith(("np.", "numpy.", "torch."))}
    assert not calls("read_pickle")


def test_remote_code_is_never_trusted():
    """What `load_model` gives, a test of its own checks with a hostile folder (tests/models)."""
    loaders = calls("from_pretrained")
    assert {file for file, _ in loaders} == {"loading.py", "words.py"}
    for file, call in loaders:
        assert keyword(call, "trust_remote_code") is False or "**settings" in ast.unparse(call), file
    text = "".join(path.read_text() for path in CODE)
    assert text.count("trust_remote_code") == 2 and '"trust_remote_code": False' in text


def test_jupyterlab_listens_on_this_machine_alone():
    (line,) = [line for line in (ROOT / "Makefile").read_text().splitlines() if "jupyter lab --" in line]
    assert "--ip=127.0.0.1" in line


ALONE = """
import os, sys
from pathlib import Path

refused = []

def refuse(event, given):
    if event.startswith("socket.") and event not in ("socket.__new__", "socket.bind"):  # urllib3 tries IPv6
        if event != "socket.connect" or isinstance(given[1], tuple):  # a name: a socket of this machine
            refused.append(f"{event} {given}")
            raise PermissionError(refused[-1])

sys.addaudithook(refuse)
import socket
try:
    socket.create_connection(("127.0.0.1", 9))
except PermissionError:
    print("sockets are refused")
    refused.clear()

import torch
torch.set_num_threads(1)
from dycoke_lab import DyCoke, capture_attention, load_model
from dycoke_lab.attention.trace import Trace
from dycoke_lab.cli import main
from dycoke_lab.evaluation.grids import run_grid
from dycoke_lab.evaluation.settings import combinations
from dycoke_lab.specimen.clips import CLIPS, truth
from dycoke_lab.video import prompt, read_video

out, clip = Path(sys.argv[1]), "constructed-2-scenes.mp4"
question, right, *_ = truth(clip)
model, processor = load_model()
inputs = prompt(processor, read_video(CLIPS / clip), question)
with DyCoke(0.5, 0.5)(model), capture_attention(model) as trace:
    model.generate(**inputs, do_sample=False, max_new_tokens=4)
trace.save(out / "trace")
print(len(Trace.load(out / "trace")), "steps captured")
configs = combinations([0], merge=(0.0,), prune=(0.9,), methods=("dynamic",))
print(len(run_grid(configs, 4, out, False)), "rows")
main(["run", str(CLIPS / clip), question])
main(["diagnose", str(CLIPS / clip), "--question", question, "--out", str(out / "table.csv")])
given = ["--methods", "dynamic", "--kept", ".5", "--out", str(out / "fidelity")]
main(["fidelity", str(CLIPS / clip), "--question", question, *given])
print("tried:", refused)
"""


@pytest.mark.slow
def test_no_socket_is_used_where_no_download_was_asked_for(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for expected in (
        "sockets are refused",
        "4 steps captured",
        "8 rows",
        "Recommended: L = ",
        "same choice, %",
    ):
        assert expected in done.stdout
    assert "tried: []" in done.stdout  # also not by what goes on without an answer
