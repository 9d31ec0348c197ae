"""Work that is killed by SIGKILL at random moments and begun again, until it is done.

`run_killed` begins an interpreter, which imports everything once and then forks for each attempt.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dycoke_lab.results import rows
from dycoke_lab.results.rows import RowStore

TESTS = Path(__file__).parents[1]
Work = Callable[[Path], None]


def run_killed(folder: Path, *kinds: str) -> None:
    """Do each kind of work in FOLDER/KIND/whole, and killed in FOLDER/KIND/killed."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); from helpers.killed import main; main(*sys.argv[2:])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(TESTS), str(folder), *kinds],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=TESTS.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


def main(folder: str, *kinds: str) -> None:
    torch.set_num_threads(1)
    rows.provenance = lambda: {"commit": "known"}  # git takes longer than a cell
    for kind in kinds:
        if kind == "steps":
            killed_at_each_step(Path(folder) / kind)
        else:
            killed_at_random(*KINDS[kind](), Path(folder) / kind)


def killed_at_random(work: Work, watched: str, kills: int, folder: Path) -> None:
    """Do the work undisturbed; and in another folder, killed so many times. watched: the file whose lines
    tell how far it is."""
    whole, killed = folder / "whole", folder / "killed"
    began = time.monotonic()
    assert wait(begin(work, whole)) == 0
    pace = (time.monotonic() - began) / lines(whole / watched)
    chance = random.Random(0)
    for _ in range(kills):
        pid, wanted = begin(work, killed), lines(killed / watched) + chance.randrange(2)
        how = os.WEXITED | os.WNOHANG | os.WNOWAIT
        while lines(killed / watched) < wanted and not os.waitid(os.P_PID, pid, how):
            time.sleep(0.002)
        time.sleep(chance.uniform(0, pace))
        os.kill(pid, signal.SIGKILL)
        assert wait(pid) == -signal.SIGKILL, "it was done before it could be killed: give it more to do"
    assert wait(begin(work, killed)) == 0


def begin(work: Work, folder: Path) -> int:
    """Begin the work in a process of its own; return the process's id."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        work(folder)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait(pid: int) -> int:
    """Return a process's exit code; of one that was killed, the signal's number, negative."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def grid() -> tuple[Work, str, int]:
    from dycoke_lab.evaluation import grids
    from dycoke_lab.evaluation.settings import combinations
    from helpers.tiny_specimens import tiny

    torch.manual_seed(0)
    model = tiny("constructed").build().eval()
    grids.load_model = lambda name, seed: (model, None)
    some = ("dynamic", "random", "uniform", "last_query", "keep_first")
    configs = combinations([0], merge=(0.0, 0.5), prune=(0.7,), layers=(2,), methods=some)
    assert len(configs) * 4 == 48  # rows, a batch each: more than twice twenty
    return lambda folder: grids.run_grid(configs, 4, folder, progress=False), rows.ROWS, 20


def training() -> tuple[Work, str, int]:
    from dycoke_lab.specimen import train
    from dycoke_lab.specimen.specimens import SPECIMENS
    from helpers.tiny_specimens import tiny

    SPECIMENS["constructed"] = tiny("constructed")
    train.LOG_EVERY, train.SAVE_EVERY = 1, 2
    config = train.TrainConfig(seed=3, steps=22, batch=1, device="cpu")
    return lambda folder: train.train_and_export(config, folder, folder / "export"), "log.jsonl", 10


def bench() -> tuple[Work, str, int]:
    from dycoke_lab.bench import benchmark
    from dycoke_lab.bench.configs import configs
    from dycoke_lab.bench.roofline import Device

    benchmark.measured_device = lambda device, dtype: Device("a test's", 1e9, 1e10)
    found = configs("tiny", 4, 1, 2, ["full", "dycoke"], [0.5], [0.7])

    def work(folder: Path) -> None:
        benchmark.run_benchmark(found, 9, folder, "cpu", "float32", progress=False)

    return work, rows.ROWS, 4


def study() -> tuple[Work, str, int]:
    import nbformat
    import pandas as pd

    from dycoke_lab import notebooks

    def work(folder: Path) -> None:
        notebooks.NOTEBOOKS = folder.with_name("notebooks")
        notebooks.NOTEBOOKS.mkdir(parents=True, exist_ok=True)
        for name in ("01_one", "02_two", "03_three", "08_four"):
            number = name.partition("_")[0]
            cells = [
                'results = ""',
                "import csv, time\nfrom pathlib import Path",
                f"Path(results, 'times-{number}').open('a').write('begun\\n')",
                f"Path(results, '{number}-live').mkdir(exist_ok=True)",
                f"path = Path(results, '{number}-headline.csv')\nassert not path.exists()",
                "path.write_text('a\\n1\\n')\ntime.sleep(0.2)",
            ]
            made = [nbformat.v4.new_code_cell(cell) for cell in cells]
            made[0].metadata["tags"] = ["parameters"]
            about = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
            book = nbformat.v4.new_notebook(cells=made, metadata=about)
            nbformat.write(book, notebooks.NOTEBOOKS / f"{name}.ipynb")
        notebooks.headline_text = lambda table: str(len(pd.DataFrame(table)))
        sys.stdout = sys.stderr
        notebooks.make_study(4, folder)

    return work, rows.ROWS, 2


KINDS = {"grid": grid, "training": training, "bench": bench, "study": study}


def killed_at_each_step(folder: Path) -> None:
    """Write and pack rows in FOLDER/0, FOLDER/1, ...: the N-th is killed before the N-th thing that it
    does to a file, and then begun again; the last one has not so many to do."""

    def work(place: Path) -> None:
        with RowStore(place, videos=4) as store:
            done = {row["a"] for row in store.rows()}
            store.begin()
            for number in range(3):
                if number not in done:
                    store.append([{"a": number}])
            store.pack()

    for step in range(1000):
        place = folder / str(step)
        pid = begin(lambda place, step=step: (kill_at(step, place), work(place)), place)
        if code := wait(pid):
            assert code == -signal.SIGKILL
            if not (place / rows.PACKED).exists():
                assert wait(begin(work, place)) == 0
        else:
            return
    raise AssertionError("it does not end")


def kill_at(step: int, folder: Path) -> None:
    """Kill this process before it does the step-th thing to a file of the folder."""
    left = [step]

    def count(*_: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if event in ("open", "os.rename", "os.remove", "os.mkdir") and str(folder) in str(given[0]):
            count()

    sync = os.fsync
    os.fsync = lambda handle: (count(), sync(handle))
    sys.addaudithook(hook)
