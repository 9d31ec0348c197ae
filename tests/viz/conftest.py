"""A real JupyterLab and a real browser, for the tests that are marked `browser`."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
PYTHON = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},  # all cells stay in the page
}


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """Start JupyterLab on copies of the notebooks, with few videos and results out of the way."""
    home = tmp_path_factory.mktemp("lab")
    for name, values in SETTINGS.items():
        file = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    options = ["--no-browser", "--allow-root", "--expose-app-in-browser", "--ip=127.0.0.1", f"--port={port}"]
    options += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={home}"]
    options += ["--ServerApp.disable_check_xsrf=False"]
    command = [sys.executable, "-m", "jupyterlab", *options]
    environment = {**os.environ, "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "OMP_NUM_THREADS": "1"}
    log = (home / "lab.log").open("w")
    process = subprocess.Popen(command, cwd=home, env=environment, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/api/status?token={token}", timeout=2)
                break
            except OSError:
                assert process.poll() is None, (home / "lab.log").read_text()
                time.sleep(0.25)

        def fresh(name, *cells):
            """Return the address of a notebook that nobody has opened yet: of these cells, else a copy."""
            copy = home / f"{len(list(home.glob('*.ipynb')))}-{name}"
            results = home / f"results-{copy.stem}"
            results.mkdir()
            if cells:
                notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells], metadata=PYTHON)
            else:
                notebook = nbformat.read(NOTEBOOKS / name, 4)
            for cell in notebook.cells:
                cell.source = cell.source.replace("results = None", f"results = {str(results)!r}")
                cell.source = re.sub(r"videos = \d+", "videos = 4", cell.source)
                if cell.cell_type == "code":
                    cell.outputs, cell.execution_count = [], None
            nbformat.write(notebook, copy)
            return f"{address}/lab/tree/{copy.name}?token={token}&reset"

        yield fresh
    finally:
        process.terminate()
        process.wait(20)
        log.close()


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()
