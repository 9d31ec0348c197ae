"""The explorers as a user has them: a real JupyterLab, a real browser, a mouse and keys. `make test-browser` runs these.

Screenshots and latencies are left in build/browser.
"""

from __future__ import annotations

import io
import json
import os
import re
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SHOTS = ROOT / "build" / "browser"
SIZES = {"1280x800": (1280, 800), "1920x1080": (1920, 1080)}
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},  # all cells stay in the page
}
SLOW = 1.0  # seconds; the bound is loose, since other work may share the machine: what was measured is in latency.json

pytestmark = pytest.mark.browser


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """A running JupyterLab on copies of the notebooks, with few videos and results out of the way."""
    home = tmp_path_factory.mktemp("lab")
    for name, values in SETTINGS.items():
        file = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={home}", "--allow-root", "--expose-app-in-browser", "--ServerApp.disable_check_xsrf=False",
    ]  # fmt: skip
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

        def fresh(name):
            """The address of a copy of a notebook that nobody has opened yet."""
            copy = home / f"{len(list(home.glob('*.ipynb')))}-{name}"
            results = home / f"results-{copy.stem}"
            results.mkdir()
            notebook = nbformat.read(ROOT / "notebooks" / name, 4)
            for cell in notebook.cells:
                cell.source = re.sub(
                    r"videos = \d+", "videos = 4", cell.source.replace("results = None", f"results = {str(results)!r}")
                )
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


class Notebook:
    """An opened notebook whose cells have all run."""

    def __init__(self, browser, address, size=(1280, 800)):
        self.context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, permissions=["clipboard-read", "clipboard-write"]
        )
        self.page = page = self.context.new_page()
        self.errors: list[str] = []
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(address)
        page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=90_000)
        page.wait_for_function(
            "jupyterapp.shell.currentWidget?.context?.sessionContext?.session?.kernel?.status === 'idle'", timeout=90_000
        )
        page.evaluate("jupyterapp.commands.execute('application:toggle-left-area')")
        page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells') }")
        page.wait_for_function(
            """() => { const cells = jupyterapp.shell.currentWidget.content.widgets.filter(c => c.model.type === 'code');
                       return cells.every(c => c.model.executionCount && c.model.executionState !== 'running') &&
                              jupyterapp.shell.currentWidget.context.sessionContext.session.kernel.status === 'idle' }""",
            timeout=240_000,
        )

    def panel(self, number=0):
        panel = self.page.locator(".dycoke-panel").nth(number)
        panel.wait_for(timeout=60_000)
        panel.scroll_into_view_if_needed()
        return Panel(self.page, panel)

    def assert_no_errors(self):
        outputs = self.page.evaluate(
            """() => jupyterapp.shell.currentWidget.content.widgets.filter(c => c.model.type === 'code')
                     .flatMap(c => c.model.outputs.toJSON()).filter(o => o.output_type === 'error' || o.name === 'stderr')"""
        )
        assert outputs == []
        assert self.errors == []

    def close(self):
        self.context.close()


class Panel:
    """One explorer on the page."""

    def __init__(self, page, panel):
        self.page, self.panel, self.image = page, panel, panel.locator(".widget-image")

    def control(self, label):
        found = self.panel.locator(".widget-inline-hbox", has=self.page.get_by_text(label, exact=True))
        return found.first

    def value(self, label):
        return self.control(label).locator(".widget-readout").inner_text()

    def settled(self):
        """Wait until no model run is under way, and nothing in the panel has changed for half a second: the page sends a slider's
        last place only when the kernel has answered for the ones before."""
        before, since, end = None, time.monotonic(), time.monotonic() + 60
        while time.monotonic() - since < 0.5:
            assert time.monotonic() < end, "the panel does not come to rest"
            self.panel.locator(".dycoke-status[data-busy=false]").wait_for(timeout=30_000)
            now = (self.source(), self.panel.inner_text())
            if now != before:
                before, since = now, time.monotonic()
            self.page.wait_for_timeout(100)

    def source(self):
        return self.image.get_attribute("src")

    def picture(self):
        return np.asarray(Image.open(io.BytesIO(self.image.screenshot())).convert("RGB"), int)

    def code(self):
        return self.panel.locator("code").inner_text()

    def changing(self, act, picture=True):
        """Do something that asks the model: the busy mark shows, goes, and the picture has changed if it should."""
        source, panel = self.source(), self.panel.element_handle()
        panel.evaluate(
            """panel => { panel.wasBusy = false; panel.watcher = new MutationObserver(() => {
                panel.wasBusy ||= panel.querySelector('.dycoke-status').dataset.busy === 'true' });
                panel.watcher.observe(panel, {subtree: true, childList: true, attributes: true}) }"""
        )
        act()
        self.settled()
        assert panel.evaluate("panel => { panel.watcher.disconnect(); return panel.wasBusy }")
        assert (self.source() != source) == picture

    def hurry(self, label, keys):
        """Press keys on a slider so soon that the model still runs for the one before; wait for what the last one does."""
        handle = self.control(label).locator(".noUi-handle").first
        handle.focus()
        for key in keys:
            self.page.keyboard.press(key)
            self.page.wait_for_timeout(250)  # longer than a panel waits, shorter than it takes to run and draw
        self.settled()

    def choose(self, label, option):
        """Pick from a menu; wait for what it does."""
        source = self.source()
        self.control(label).locator("select").select_option(label=option)
        self.page.wait_for_function(
            "([image, before]) => image.src !== before", arg=[self.image.element_handle(), source], timeout=20_000
        )
        self.settled()

    def type(self, label, text):
        """Write a number beside a slider, as a user may."""
        readout = self.control(label).locator(".widget-readout")
        readout.click()
        self.page.keyboard.press("Control+a")
        self.page.keyboard.type(text)
        self.page.keyboard.press("Enter")
        self.settled()

    def drag(self, label, share, picture=True):
        """Drag a slider's handle to this share of its track, in steps, as a hand does; wait for what it does.

        picture: whether another picture must come of it; else a change of the setting is enough."""
        control, before = self.control(label), (self.source(), self.code())
        control.scroll_into_view_if_needed()
        track, handle = control.locator(".noUi-base").bounding_box(), control.locator(".noUi-handle").first.bounding_box()
        x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(track["x"] + track["width"] * share, y, steps=8)
        self.page.mouse.up()
        self.page.wait_for_timeout(100)
        self.settled()
        assert (self.source(), self.code()) != before, f"dragging “{label}” did nothing"
        assert self.source() != before[0] or not picture, f"dragging “{label}” changed no picture"

    def press(self, label, key):
        """Press a key on a slider; milliseconds until the picture has changed."""
        handle = self.control(label).locator(".noUi-handle").first
        handle.focus()
        return handle.evaluate(
            """(handle, key) => new Promise((done, failed) => {
                const image = handle.closest('.dycoke-panel').querySelector('.widget-image');
                const started = performance.now();
                const watcher = new MutationObserver(() => { watcher.disconnect(); done(performance.now() - started) });
                watcher.observe(image, {attributes: true, attributeFilter: ['src']});
                setTimeout(() => { watcher.disconnect(); failed(new Error('the picture did not change')) }, 10000);
                handle.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
            })""",
            key,
        )


def shoot(panel, name, size):
    """A screenshot of the whole window, for people to look at; and the explorer must fit into it."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    panel.page.screenshot(path=SHOTS / f"{name}-{size}.png")
    box, image = panel.panel.bounding_box(), panel.image.bounding_box()
    width = panel.page.viewport_size["width"]
    assert box["height"] < panel.page.viewport_size["height"]
    assert box["x"] >= 0 and box["x"] + box["width"] <= width
    assert image["x"] >= box["x"] and image["x"] + image["width"] <= box["x"] + box["width"] + 1


def report(name, latencies):
    SHOTS.mkdir(parents=True, exist_ok=True)
    file = SHOTS / "latency.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    known[name] = {"median_ms": round(statistics.median(latencies)), "worst_ms": round(max(latencies)), "changes": len(latencies)}
    file.write_text(json.dumps(known, indent=1) + "\n")
    print(name, known[name])
    assert statistics.median(latencies) < 1000 * SLOW and max(latencies) < 5000 * SLOW


@pytest.mark.parametrize("size", SIZES)
def test_merge_explorer(lab, browser, size):
    notebook = Notebook(browser, lab("05_temporal_merging.ipynb"), SIZES[size])
    panel = notebook.panel()
    panel.settled()
    before, threshold = panel.picture(), panel.value("or: threshold")
    place = panel.image.bounding_box()
    shoot(panel, "merge", size)
    panel.drag("merge ratio K", 0.2)
    assert 0.1 <= float(panel.value("merge ratio K")) <= 0.3
    assert panel.value("or: threshold") != threshold  # the other one follows
    assert (panel.picture() != before).any(-1).mean() > 0.02  # more of the frames is shown
    assert panel.image.bounding_box() == place  # nothing jumps
    panel.drag("or: threshold", 0.9)
    assert "merge_threshold=0.9" in panel.code()
    assert float(panel.value("merge ratio K")) > 0
    panel.changing(lambda: panel.panel.get_by_text("average", exact=True).click(), picture=False)
    assert "merge='average'" in panel.code()
    panel.press("window, frames", "ArrowLeft")
    panel.settled()
    assert "window=3" in panel.code()
    for wrong, allowed in (("7", "1.00"), ("-1", "0.00")):  # what is out of bounds becomes the bound
        panel.type("merge ratio K", wrong)
        assert panel.value("merge ratio K") == allowed and f"merge_ratio={float(allowed)}" in panel.code()
    panel.type("merge ratio K", "0.70")
    clip = panel.value("clip")
    panel.changing(lambda: panel.press("clip", "ArrowRight"))
    assert panel.value("clip") != clip
    report(f"merge ratio from end to end, {size}", [panel.press("merge ratio K", key) for key in ("Home", "End")])
    report(f"merge, frame, {size}", [panel.press("frame", "ArrowRight") for _ in range(6)])
    panel.panel.get_by_text("Reset").click()
    panel.settled()
    assert panel.value("merge ratio K") == "0.70" and (panel.picture() == before).all()
    panel.panel.get_by_text("Copy this setting as code").click()
    assert notebook.page.evaluate("navigator.clipboard.readText()").startswith("DyCokeConfig(merge_ratio=0.7")
    notebook.assert_no_errors()
    notebook.close()


@pytest.mark.parametrize("size", SIZES)
def test_attention_explorer(lab, browser, size):
    notebook = Notebook(browser, lab("06_dynamic_pruning.ipynb"), SIZES[size])
    panel = notebook.panel()
    panel.settled()
    before = panel.picture()
    shoot(panel, "attention", size)
    report(f"attention step, {size}", [panel.press("step", "ArrowRight") for _ in range(6)])
    assert panel.value("step") == "12"
    assert (panel.picture() != before).any(-1).mean() > 0.02
    source = panel.source()
    panel.panel.locator(".jupyter-button[title*=Play], .widget-play button").first.click()
    notebook.page.wait_for_timeout(2500)
    panel.panel.locator(".widget-play button").first.click()
    assert int(panel.value("step")) != 12 and panel.source() != source
    panel.drag("P, share pruned", 0.3)
    ratio = float(panel.value("P, share pruned"))
    assert 0.2 <= ratio <= 0.4
    assert f"prune_ratio={ratio:g}" in panel.code()
    for label, name in (("gate", "gate"), ("L, first pruned layer", "score_layer"), ("K, share merged", "merge_ratio")):
        code = panel.code()
        panel.drag(label, 0.8, picture=False)
        assert panel.code() != code and f"{name}={float(panel.value(label)):g}" in panel.code()
    panel.choose("head", "2")
    panel.press("layer shown", "ArrowRight")
    panel.changing(lambda: panel.press("clip", "ArrowLeft"))
    panel.panel.get_by_text("Reset").click()
    panel.settled()
    panel.hurry("P, share pruned", ["ArrowLeft"] * 4)  # the model is overtaken again and again
    last = panel.picture()
    panel.hurry("P, share pruned", ["ArrowRight"] * 4)
    assert (panel.picture() != last).any()
    panel.hurry("P, share pruned", ["ArrowLeft"] * 4)
    assert (panel.picture() == last).all()  # no result of a setting that was passed by
    panel.panel.get_by_text("Reset").click()
    panel.settled()
    assert panel.value("step") == "6" and (panel.picture() == before).all()
    notebook.assert_no_errors()
    notebook.close()


@pytest.mark.parametrize("size", SIZES)
def test_one_shot_and_threshold_finder(lab, browser, size):
    notebook = Notebook(browser, lab("04_why_one_shot_pruning_fails.ipynb"), SIZES[size])
    panel = notebook.panel(0)
    panel.settled()
    before = panel.picture()
    shoot(panel, "one-shot", size)
    panel.drag("P, share pruned", 0.1)
    assert (panel.picture() != before).any(-1).mean() > 0.02
    panel.choose("against", "keep first")
    assert "method='keep_first'" in panel.code()
    for label, name in (("L, first pruned layer", "score_layer"), ("K, share merged", "merge_ratio")):
        panel.drag(label, 0.8, picture=False)
        assert f"{name}={float(panel.value(label)):g}" in panel.code()
    panel.changing(lambda: panel.press("clip", "ArrowLeft"))
    panel.panel.get_by_text("Reset").click()
    panel.settled()
    assert (panel.picture() == before).all()
    report(f"one-shot against dynamic, word, {size}", [panel.press("step", "ArrowRight") for _ in range(6)])
    finder = notebook.panel(1)
    finder.settled()
    before = finder.picture()
    shoot(finder, "finder", size)
    report(f"threshold finder, {size}", [finder.press("P, share pruned", "ArrowLeft") for _ in range(3)])
    finder.drag("K, share merged", 0.0)
    assert float(finder.value("K, share merged")) == 0
    assert (finder.picture() != before).any()
    finder.press("or: threshold", "ArrowLeft")
    finder.settled()
    assert "merge_threshold=" in finder.code()
    finder.choose("accuracy of", "whole answers")
    finder.panel.get_by_text("Reset").click()
    finder.settled()
    assert (finder.picture() == before).all()
    notebook.assert_no_errors()
    notebook.close()


def test_attention_explorer_without_pruning(lab, browser):
    notebook = Notebook(browser, lab("02_attention_step_by_step.ipynb"))
    panel = notebook.panel()
    panel.settled()
    before = panel.picture()
    panel.press("layer shown", "ArrowLeft")
    assert (panel.picture() != before).any(-1).mean() > 0.02
    shoot(panel, "attention-unpruned", "1280x800")
    notebook.assert_no_errors()
    notebook.close()
