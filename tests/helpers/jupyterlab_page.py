"""Drive a notebook and its explorers in JupyterLab by a real browser (playwright), as a user does."""

from __future__ import annotations

import io
import json
import statistics
import time
from pathlib import Path

import numpy as np
from PIL import Image

SHOTS = Path(__file__).resolve().parents[2] / "build" / "browser"
# the kernel answers in order: what the page has sent before is done, also what it sent on being answered
ANSWERED = """async () => {
    const kernel = jupyterapp.shell.currentWidget.context.sessionContext.session.kernel;
    for (let trip = 0; trip < 2; trip++) await kernel.requestKernelInfo() }"""
SLOW = 1.0  # seconds; a loose bound, since other work may share the machine: latency.json has the times


class Notebook:
    """Open a notebook, and run all its cells. side_bar: whether JupyterLab's list of files stays open."""

    def __init__(self, browser, address, size=(1280, 800), side_bar=False):
        self.context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, permissions=["clipboard-read", "clipboard-write"]
        )
        self.page = page = self.context.new_page()
        self.errors: list[str] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(address)
        page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=90_000)
        page.wait_for_function(
            "jupyterapp.shell.currentWidget?.context?.sessionContext?.session?.kernel?.status === 'idle'",
            timeout=90_000,
        )
        if not side_bar:
            page.evaluate("jupyterapp.commands.execute('application:toggle-left-area')")
        page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells') }")
        page.wait_for_function(
            """() => { const notebook = jupyterapp.shell.currentWidget;
                       const cells = notebook.content.widgets.filter(c => c.model.type === 'code');
                       const run = c => c.model.executionCount && c.model.executionState !== 'running';
                       const kernel = notebook.context.sessionContext.session.kernel;
                       return cells.every(run) && kernel.status === 'idle' }""",
            timeout=240_000,
        )

    def _console(self, message):
        if message.type == "error":
            self.errors.append(message.text)

    def panel(self, number=0):
        """Return the explorer of this number, scrolled into view."""
        panel = self.page.locator(".dycoke-panel").nth(number)
        panel.wait_for(timeout=60_000)
        panel.scroll_into_view_if_needed()
        return Panel(self.page, panel)

    def assert_no_errors(self):
        """Fail if a cell or the page's console has an error."""
        outputs = self.page.evaluate(
            """() => jupyterapp.shell.currentWidget.content.widgets.filter(c => c.model.type === 'code')
                     .flatMap(c => c.model.outputs.toJSON())
                     .filter(o => o.output_type === 'error' || o.name === 'stderr')"""
        )
        assert outputs == []
        assert self.errors == []

    def close(self):
        self.context.close()


class Panel:
    """Drive one explorer on the page."""

    def __init__(self, page, panel):
        self.page, self.panel, self.image = page, panel, panel.locator(".widget-image")

    def control(self, label):
        found = self.panel.locator(".widget-inline-hbox", has=self.page.get_by_text(label, exact=True))
        return found.first

    def value(self, label):
        return self.control(label).locator(".widget-readout").inner_text()

    def settled(self):
        """Wait until the kernel has answered all that the page has sent, no model run is under way, and the
        panel is the same after that as before."""
        before, end = None, time.monotonic() + 60
        while True:
            assert time.monotonic() < end, "the panel does not come to rest"
            self.page.evaluate(ANSWERED)
            self.panel.locator(".dycoke-status[data-busy=false]").wait_for(timeout=30_000)
            now = (self.source(), self.panel.inner_text())
            if now == before:
                return
            before = now
            self.page.wait_for_timeout(50)

    def source(self):
        return self.image.get_attribute("src")

    def picture(self):
        """Return the pixels that the page has got; a screenshot's would depend on how far it is scrolled."""
        found = self.image.evaluate(
            """async image => {
                const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
                return Array.from(bytes, byte => String.fromCharCode(byte)).join('') }"""
        )
        return np.asarray(Image.open(io.BytesIO(found.encode("latin-1"))).convert("RGB"), int)

    def code(self):
        return self.panel.locator("code").first.inner_text()

    def view(self):
        return self.panel.locator("code").last.inner_text()

    def changing(self, act, picture=True):
        """Run the model by an act: the busy mark comes and goes, and the picture changes if it should."""
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
        """Press keys on a slider while the model still runs for the one before; wait for the last one."""
        handle = self.control(label).locator(".noUi-handle").first
        handle.focus()
        for key in keys:
            self.page.keyboard.press(key)
            self.page.wait_for_timeout(250)  # longer than a panel's pause, shorter than a run and its picture
        self.settled()

    def choose(self, label, option):
        """Pick from a menu; wait for what it does."""
        source = self.source()
        self.control(label).locator("select").select_option(label=option)
        self.page.wait_for_function(
            "([image, before]) => image.src !== before",
            arg=[self.image.element_handle(), source],
            timeout=20_000,
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

    def share(self, label):
        """Return where a slider's handle stands on its track, from 0 to 1."""
        control = self.control(label)
        control.scroll_into_view_if_needed()
        track = control.locator(".noUi-base").bounding_box()
        handle = control.locator(".noUi-handle").first.bounding_box()
        return (handle["x"] + handle["width"] / 2 - track["x"]) / track["width"]

    def drag(self, label, share, picture=True):
        """Drag a slider's handle to this share of its track, in steps, as a hand does; wait for what it does.
        Return the milliseconds from letting go until the picture was the last one.

        picture: whether another picture must come of it; else a change of the setting is enough."""
        control, before = self.control(label), (self.source(), self.code())
        control.scroll_into_view_if_needed()
        track = control.locator(".noUi-base").bounding_box()
        handle = control.locator(".noUi-handle").first.bounding_box()
        x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
        image = self.image.element_handle()
        image.evaluate(
            """image => { image.up = null; image.last = 0;
                addEventListener('pointerup', () => { image.up = performance.now() },
                                 {once: true, capture: true});
                image.watcher = new MutationObserver(() => { image.last = performance.now() });
                image.watcher.observe(image, {attributes: true, attributeFilter: ['src']}) }"""
        )
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(track["x"] + track["width"] * share, y, steps=8)
        self.page.mouse.up()
        self.settled()
        took = image.evaluate(
            "image => { image.watcher.disconnect(); return Math.max(0, image.last - image.up) }"
        )
        assert (self.source(), self.code()) != before, f"dragging “{label}” did nothing"
        said = self.panel.locator(".dycoke-status").inner_text()
        assert self.source() != before[0] or not picture, f"dragging “{label}” changed no picture: {said}"
        return took

    def click(self, box, size):
        """Click into the middle of a part of the picture by the mouse; milliseconds until another is shown.

        box: left, top, right, bottom, in pixels of the picture as it was drawn, which has this size."""
        self.image.scroll_into_view_if_needed()
        shown, (left, top, right, bottom) = self.image.bounding_box(), box
        x = shown["x"] + (left + right) / 2 * shown["width"] / size[0]
        y = shown["y"] + (top + bottom) / 2 * shown["height"] / size[1]
        self.image.evaluate(
            """image => { image.took = null; let begun = 0;
                image.addEventListener('click', () => { begun = performance.now() },
                                       {once: true, capture: true});
                const watcher = new MutationObserver(() => {
                    watcher.disconnect(); image.took = performance.now() - begun });
                watcher.observe(image, {attributes: true, attributeFilter: ['src']}) }"""
        )
        self.page.mouse.click(x, y)
        handle = self.image.element_handle()
        self.page.wait_for_function("image => image.took !== null", arg=handle, timeout=20_000)
        return handle.evaluate("image => image.took")

    def press(self, label, key):
        """Press a key on a slider; milliseconds until the picture has changed."""
        handle = self.control(label).locator(".noUi-handle").first
        handle.focus()
        return handle.evaluate(
            """(handle, key) => new Promise((done, failed) => {
                const image = handle.closest('.dycoke-panel').querySelector('.widget-image');
                const started = performance.now();
                const watcher = new MutationObserver(() => {
                    watcher.disconnect(); done(performance.now() - started) });
                watcher.observe(image, {attributes: true, attributeFilter: ['src']});
                setTimeout(() => {
                    watcher.disconnect(); failed(new Error('the picture did not change')) }, 10000);
                handle.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
            })""",
            key,
        )


def shoot(panel, name, size):
    """Leave a screenshot of the whole window; fail if the explorer does not fit into it."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    panel.page.screenshot(path=SHOTS / f"{name}-{size}.png")
    box, image = panel.panel.bounding_box(), panel.image.bounding_box()
    width = panel.page.viewport_size["width"]
    assert box["height"] < panel.page.viewport_size["height"], box
    assert box["x"] >= 0 and box["x"] + box["width"] <= width
    assert image["x"] >= box["x"] and image["x"] + image["width"] <= box["x"] + box["width"] + 1


def report(name, latencies):
    """Add latencies, in milliseconds, to latency.json; fail if they are far too long."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    file = SHOTS / "latency.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    median, worst = round(statistics.median(latencies)), round(max(latencies))
    known[name] = {"median_ms": median, "worst_ms": worst, "changes": len(latencies)}
    file.write_text(json.dumps(known, indent=1) + "\n")
    print(name, known[name])
    assert statistics.median(latencies) < 1000 * SLOW and max(latencies) < 5000 * SLOW
