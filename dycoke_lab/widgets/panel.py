"""What all explorers have in common: labelled controls over a picture that answers at once.

A change draws at once, from what is known. What needs the model runs in one background thread, once the controls have been still
for a moment; only the newest request counts.
"""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import RLock
from typing import Any

import ipywidgets as w
from PIL.Image import Image as Picture

from dycoke_lab.views import png

STILL = 0.15  # seconds without a change before the model runs
KEPT_PICTURES = 300
COPY = "Copy this setting as code"
_THREAD = ThreadPoolExecutor(1, "dycoke_lab_explorer")  # one for all: a model can run only one setting at a time


class Latest:
    """Runs jobs one at a time, in the background; of those that wait only the newest runs, and no overtaken result is shown."""

    def __init__(self, still: float = STILL) -> None:
        self.still, self.number, self.lock = still, 0, RLock()
        self.pending: Future[None] | None = None

    def submit(self, job: Callable[[], Any], show: Callable[[Any], None], failed: Callable[[Exception], None]) -> None:
        """Have `show` called with what `job` returns, or `failed` with its error, unless something newer comes before."""
        with self.lock:
            self.number += 1
            self.pending = _THREAD.submit(self._run, self.number, time.monotonic(), job, show, failed)

    def overtake(self) -> None:
        """Nothing that was asked for so far is shown any more."""
        with self.lock:
            self.number += 1

    def wait(self) -> None:
        """Until nothing is left to do; for scripts and tests."""
        pending = None
        while pending is not self.pending:
            pending = self.pending
            if pending is not None:
                pending.result()

    def _run(self, number: int, asked: float, job: Callable[[], Any], show: Callable[[Any], None],
             failed: Callable[[Exception], None]) -> None:  # fmt: skip
        time.sleep(max(0.0, self.still - (time.monotonic() - asked)))
        if number != self.number:
            return
        try:
            result = job()
            with self.lock:
                if number == self.number:
                    show(result)
        except Exception as error:
            with self.lock:
                if number == self.number:
                    failed(error)


class Panel(w.VBox):
    """Base of the explorers. A subclass says what `draw`, `code` and, if it needs the model, `ask` are.

    controls: by name; their values when the panel is made are what "Reset" goes back to.
    """

    def __init__(self, title: str, controls: dict[str, Any], rows: list[list[str]], extra: dict[str, list[w.Widget]] | None = None):
        self.controls = controls
        self.start = {name: control.value for name, control in controls.items()}
        self.ends = {name: control.max for name, control in controls.items() if hasattr(control, "max")}
        self.latest, self.quiet = Latest(), False
        self.lock = self.latest.lock  # one lock: whoever shows a result also sets controls
        self.pictures: dict[Any, bytes] = {}
        self.picture = w.Image(format="png", layout=w.Layout(width="100%", max_width="1500px", object_fit="contain", margin="0"))
        self.status, self.words, self.setting = w.HTML(), w.HTML(), w.HTML()
        reset = w.Button(description="Reset", icon="undo", tooltip="Put every control of this panel back to where it was")
        reset.on_click(lambda _: self.reset())
        lines = [[*(controls[name] for name in row), *(extra or {}).get(row[0], [])] for row in rows]
        flow = w.Layout(flex_flow="row wrap", align_items="center")
        boxes = [w.HBox(line, layout=flow) for line in lines]
        foot = w.HBox([reset, self.setting, self.status], layout=flow)
        super().__init__([w.HTML(f"<b style='font-size:1.2em'>{html.escape(title)}</b>"), *boxes, self.picture, self.words, foot])
        self.add_class("dycoke-panel")
        self.picture._view_count = 0  # have the page count
        self.picture.observe(lambda change: self.refresh(), "_view_count")
        for name, control in controls.items():
            control.observe(lambda change, name=name: self.changed(name), "value")
        self.refresh()

    def __repr__(self) -> str:
        return f"{type(self).__name__}: run this notebook in JupyterLab to move it; the figure above shows the same"

    def draw(self) -> tuple[Any, Callable[[], Picture]]:
        """A key that decides the picture, and how to draw it."""
        raise NotImplementedError

    def code(self) -> str:
        """The present setting as Python."""
        raise NotImplementedError

    def ask(self) -> tuple[Callable[[], Any], Callable[[Any], None]] | None:
        """What the model must still do for the present setting, and how to show it; None if all is known."""
        return None

    def __getitem__(self, name: str) -> Any:
        return self.controls[name].value

    def changed(self, name: str) -> None:
        """A control has moved."""
        with self.lock:  # while a thread sets controls by `put`, it alone is quiet
            if not self.quiet:
                self.refresh()

    def put(self, **values: Any) -> None:
        """Set controls without drawing in between."""
        with self.lock:
            before, self.quiet = self.quiet, True
            try:
                for name, value in values.items():
                    self.controls[name].value = value
            finally:
                self.quiet = before

    def end(self, name: str, last: int) -> None:
        """Let a slider end at `last`, and stand there if it was beyond."""
        if last != self.controls[name].max:
            self.put(**{name: min(self[name], last)})
            self.controls[name].max = last

    def reset(self) -> None:
        self.latest.overtake()
        for name, end in self.ends.items():  # first, or a shorter clip's end would hold a value down
            self.controls[name].max = end
        self.put(**self.start)
        self.refresh()

    def refresh(self) -> None:
        """Draw what is known now; ask for the rest."""
        started = time.perf_counter()
        self.latest.overtake()
        wanted = self.ask()
        self.show()
        self.say("working…" if wanted else f"drawn in {1000 * (time.perf_counter() - started):.0f} ms", bool(wanted))
        if wanted is None:
            self.latest.submit(self.draw_ahead, lambda _: None, self.failed)
        else:
            self.latest.submit(wanted[0], lambda result: self.arrived(wanted[1], result), self.failed)

    def show(self) -> None:
        """Draw the present setting, from memory if it was drawn before."""
        with self.lock:
            picture = self.made(*self.draw())
            if self.picture.value != picture:
                self.picture.value = picture
            self.setting.value = copy_button(self.code())

    def made(self, key: Any, make: Callable[[], Picture]) -> bytes:
        """The picture of a key, drawn now unless it is known."""
        picture = self.pictures.get(key)
        if picture is None:
            picture = png(make())
            with self.lock:
                while len(self.pictures) >= KEPT_PICTURES:
                    self.pictures.pop(next(iter(self.pictures)))
                self.pictures[key] = picture
        return picture

    def upcoming(self) -> Iterable[tuple[Any, Callable[[], Picture]]]:
        """What the user is likely to ask for next, as `draw` returns it; may run the model in between."""
        return ()

    def draw_ahead(self) -> None:
        """In the background, until a control moves; not while nobody looks, as when a notebook is run without a page."""
        mine = self.latest.number
        if not self.picture._view_count:
            return
        for key, make in self.upcoming():
            if self.latest.number != mine:
                return
            self.made(key, make)

    def arrived(self, show: Callable[[Any], None], result: Any) -> None:
        with self.lock:
            show(result)
            self.show()
            self.say("done", False)
        self.latest.submit(self.draw_ahead, lambda _: None, self.failed)

    def failed(self, error: Exception) -> None:
        self.say(f"this setting failed: {error}", False)

    def say(self, text: str, busy: bool) -> None:
        mark = "⏳" if busy else "✓"
        about = f'role="status" class="dycoke-status" data-busy="{str(busy).lower()}" style="display:inline-block;min-width:14em"'
        self.status.value = f"<span {about}>{mark} {html.escape(text)}</span>"

    def wait(self) -> None:
        """Until the newest model run has been shown; for scripts and tests."""
        self.latest.wait()


def copy_button(code: str) -> str:
    """A button that copies the code, and the code itself."""
    text = html.escape(code, quote=True)
    script = (
        "navigator.clipboard.writeText(this.dataset.code); this.textContent = 'Copied';"
        f" setTimeout(() => this.textContent = '{COPY}', 1200)"
    )
    return (
        f'<button class="jupyter-button widget-button dycoke-copy" style="width:17em" data-code="{text}" onclick="{script}"'
        f' title="Put the Python line for this setting on the clipboard">{COPY}</button>'
        f' <code style="white-space:pre-wrap">{text}</code>'
    )


def slider(kind: type, description: str, tooltip: str, **options: Any) -> Any:
    """A slider with a label, a tooltip that names its keys, and room for both."""
    layout = w.Layout(width=options.pop("width", "360px"))
    about = {"description": description, "tooltip": f"{tooltip} Arrow keys move it.", "style": {"description_width": "150px"}}
    return kind(**about, layout=layout, **options)


def share_slider(description: str, tooltip: str, value: float, least: float = 0.0, most: float = 1.0, step: float = 0.05) -> Any:
    return slider(w.FloatSlider, description, tooltip, value=value, min=least, max=most, step=step, readout_format=".2f")


def merge_slider(value: float, step: float = 0.05, description: str = "K, share merged") -> Any:
    return share_slider(description, "Share of the tokens of a window's later frames that is merged away.", value, step=step)


def prune_slider(value: float, least: float) -> Any:
    return share_slider(
        "P, share pruned", "Share of the visual tokens that waits, or is gone, in the pruned layers.", value, least, 0.95
    )


def layer_slider(value: int, layers: int) -> Any:
    tooltip = "Layers from L on are pruned, by the attention of layer L - 1."
    return slider(w.IntSlider, "L, first pruned layer", tooltip, value=value, min=1, max=layers - 1)


def clip_slider(names: list[str], name: str) -> w.SelectionSlider:
    options = [(other.rsplit(".", 1)[0], other) for other in names]  # the place for the value is narrow
    return slider(w.SelectionSlider, "clip", "Which sample video.", options=options, value=name)


def chooser(description: str, tooltip: str, options: Any, value: Any, width: str = "300px") -> w.Dropdown:
    return w.Dropdown(description=description, tooltip=f"{tooltip} Arrow keys move through it.", options=options, value=value,
                      layout=w.Layout(width=width), style={"description_width": "110px"})  # fmt: skip


def call(config_fields: dict[str, Any]) -> str:
    """DyCokeConfig(...) as code."""
    return "DyCokeConfig(" + ", ".join(f"{name}={value!r}" for name, value in config_fields.items()) + ")"


def neat(value: float) -> float:
    """A slider's value without the noise of binary fractions."""
    return round(float(value), 6)
