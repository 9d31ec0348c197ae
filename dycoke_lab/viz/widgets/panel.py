"""Build what all explorers share: labelled controls over a picture that answers at once.

A change draws at once, from what is known. What needs the model runs in one background thread, once no
control has moved for a moment; only the newest request counts.
"""

from __future__ import annotations

import html
import inspect
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ipywidgets as w
from PIL.Image import Image as Picture

from dycoke_lab.viz.frames import places, png
from dycoke_lab.viz.frames.page import Hit, Place, hit
from dycoke_lab.viz.widgets.controls import SETTING, VIEW, Code, call, copy_row, neat
from dycoke_lab.viz.widgets.latest import Latest
from dycoke_lab.viz.widgets.page_side import CLICK, PAGE_SIDE, clicked_at
from dycoke_lab.viz.widgets.saved_view import save_view

MOST_PICTURES = 300  # held in memory


class Panel(w.VBox):
    """The base of the explorers. A subclass says what `draw` and, if it needs the model, `ask` are.

    controls: by name; "Reset" puts them back to their values when the panel is made. Each is an argument of
    the subclass's constructor, after the first, which is what it shows.
    """

    def __init__(
        self,
        title: str,
        controls: dict[str, Any],
        rows: list[list[str]],
        extra: dict[str, list[w.Widget]] | None = None,
    ) -> None:
        self.title, self.controls = title, controls
        self.start = {name: control.value for name, control in controls.items()}
        self.ends = {name: control.max for name, control in controls.items() if hasattr(control, "max")}
        self.latest, self.quiet = Latest(), False
        self.lock = self.latest.lock  # one lock: whoever shows a result also sets controls
        self.pictures: dict[Any, tuple[bytes, list[Place], tuple[int, int]]] = {}
        self.places: list[Place] = []
        self.size = (1, 1)
        size = w.Layout(width="100%", max_width="1500px", object_fit="contain", margin="0")
        self.picture = w.Image(format="png", layout=size)
        self.status, self.words, self.setting = w.HTML(), w.HTML(), w.HTML()
        about = "Put every control of this panel back to where it was"
        reset = w.Button(description="Reset", icon="undo", tooltip=about)
        reset.on_click(lambda _: self.reset())
        lines = [[*(controls[name] for name in row), *(extra or {}).get(row[0], [])] for row in rows]
        flow = w.Layout(flex_flow="row wrap", align_items="center")
        box = w.HBox([control for line in lines for control in line], layout=flow)
        about = "Write the picture and the setting to one HTML file, in the folder of this notebook"
        keep = w.Button(description="Save this view", icon="save", tooltip=about)
        keep.on_click(lambda _: self.save())
        self.saved = w.HTML()  # where a view was saved; a status would soon be overwritten
        self.setting.layout.flex = "1 1 40em"  # the codes fill what the buttons leave of the row
        foot = w.HBox([reset, keep, self.setting, self.saved], layout=flow)
        name = w.HTML(f"<b style='font-size:1.2em'>{html.escape(title)}</b>{PAGE_SIDE}")
        heading = w.HBox([name, self.status], layout=w.Layout(justify_content="space-between"))
        self.click = w.Text(layout=w.Layout(display="none"))  # the page writes into it where was clicked
        self.click.add_class(CLICK)
        self.click.observe(lambda change: self._click(change["new"]), "value")
        super().__init__([heading, box, self.picture, self.words, foot, self.click])
        self.add_class("dycoke-panel")
        self.picture._view_count = 0  # have the page count
        self.picture.observe(lambda change: self.refresh(), "_view_count")
        for name, control in controls.items():
            control.observe(lambda change, name=name: self.changed(name), "value")
        self.refresh()

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"{name}: run this notebook in JupyterLab to move it; the figure above shows the same"

    def draw(self) -> tuple[Any, Callable[[], Picture]]:
        """Return a key that decides the picture, and how to draw it."""
        raise NotImplementedError

    def arguments(self) -> dict[str, Any]:
        """Return the constructor's arguments, after the first, that make this view again."""
        values = {
            name: self[name] for name in inspect.signature(type(self)).parameters if name in self.controls
        }
        return {name: neat(value) if isinstance(value, float) else value for name, value in values.items()}

    def view(self) -> str:
        """Return the Python line that makes this view again, without what is so by default."""
        parameters = inspect.signature(type(self)).parameters
        values = self.arguments()
        given = {n: values[n] for n, p in parameters.items() if n in values and values[n] != p.default}
        return call(type(self).__name__, Code(next(iter(parameters))), **given)

    def code(self) -> str:
        """Return the present setting as Python: what is compressed or hidden, where that has a name."""
        return self.view()

    def ask(self) -> tuple[Callable[[], Any], Callable[[Any], None]] | None:
        """Return what the model must still do for this setting, and how to show it; None if all is known."""
        return None

    def __getitem__(self, name: str) -> Any:
        return self.controls[name].value

    def changed(self, name: str) -> None:
        """Answer to a control that has moved."""
        with self.lock:  # while a thread sets controls by `put`, it alone is quiet
            if not self.quiet:
                self.latest.overtake()
                self.follow(name)
                self.refresh()

    def follow(self, name: str) -> None:
        """Bring the controls that depend on the one that moved into line."""

    def put(self, **values: Any) -> None:
        """Set controls without drawing in between."""
        with self.lock:
            previous, self.quiet = self.quiet, True
            try:
                for name, value in values.items():
                    self.controls[name].value = value
            finally:
                self.quiet = previous

    def end(self, name: str, last: int) -> None:
        """Let a slider end at `last`, and move it there if it was beyond."""
        if last != self.controls[name].max:
            self.put(**{name: min(self[name], last)})
            self.controls[name].max = last

    def reset(self) -> None:
        """Put every control back to where it was when the panel was made."""
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
        drawn = f"drawn in {1000 * (time.perf_counter() - started):.0f} ms"
        self.say("working…" if wanted else drawn, bool(wanted))
        if wanted is None:
            self.go_ahead()
        else:
            self.latest.submit(wanted[0], lambda result: self.arrived(wanted[1], result), self.failed)

    def show(self) -> None:
        """Draw the present setting, from memory if it was drawn before."""
        with self.lock:
            picture, self.places, self.size = self.made(*self.draw())
            if self.picture.value != picture:
                self.picture.value = picture
            labels = (
                {self.view(): VIEW}
                if self.code() == self.view()
                else {self.code(): SETTING, self.view(): VIEW}
            )
            self.setting.value = copy_row(labels)

    def _click(self, text: str) -> None:
        at = clicked_at(text)
        found = hit(self.places, at[0] * self.size[0], at[1] * self.size[1]) if at else None
        if found is not None:
            self.clicked(found)

    def clicked(self, found: Hit) -> None:
        """Answer to a click on the picture: a control of the name of what was clicked is set to it."""
        control = self.controls.get(found.what)
        if control is not None and found.number <= control.max:
            control.value = found.number

    def made(self, key: Any, make: Callable[[], Picture]) -> tuple[bytes, list[Place], tuple[int, int]]:
        """Return the picture of a key, what of it can be clicked, and its size; drawn unless it is known."""
        picture = self.pictures.get(key)
        if picture is None:
            drawn = make()
            picture = png(drawn), places(drawn), drawn.size
            with self.lock:
                while len(self.pictures) >= MOST_PICTURES:
                    self.pictures.pop(next(iter(self.pictures)))
                self.pictures[key] = picture
        return picture

    def upcoming(self) -> Iterable[tuple[Any, Callable[[], Picture]]]:
        """Yield what the user is likely to ask for next, as `draw` returns it; may run the model for it."""
        return ()

    def go_ahead(self) -> None:
        """Have what is upcoming drawn in the background."""
        self.latest.submit(self.draw_ahead, lambda _: None, self.failed, ahead=True)

    def draw_ahead(self) -> None:
        """Draw what is upcoming until a control moves, if a page shows the panel. What any panel is asked for
        goes before."""
        mine = self.latest.number
        if not self.picture._view_count:
            return
        for key, make in self.upcoming():
            if self.latest.number != mine:
                return
            if Latest.waiting:
                self.go_ahead()
                return
            self.made(key, make)

    def arrived(self, show: Callable[[Any], None], result: Any) -> None:
        """Show what the model has done."""
        with self.lock:
            show(result)
            self.show()
            self.say("done", False)
        self.go_ahead()

    def failed(self, error: Exception) -> None:
        """Say that this setting failed."""
        self.say(f"this setting failed: {error}", False)

    def say(self, text: str, busy: bool) -> None:
        """Show a status, and whether the model is running."""
        about = f'role="status" class="dycoke-status" data-busy="{str(busy).lower()}"'
        text = f"{'⏳' if busy else '✓'} {html.escape(text)}"
        self.status.value = f'<span {about} style="display:inline-block;min-width:14em">{text}</span>'

    def save(self, folder: str | Path = ".") -> Path | None:
        """Write the present view to an HTML file that needs nothing else, and say where; None: it failed."""
        name = "".join(letter if letter.isalnum() else "-" for letter in self.title.strip("?").lower())
        about = self.picture.value, [*dict.fromkeys([self.code(), self.view()])], self.words.value
        try:
            path = save_view(Path(folder), name, self.title, *about).resolve()
        except OSError as error:
            self.saved.value = html.escape(f"not saved: {error}")
            return None
        self.saved.value = html.escape(f"saved as {path}")
        return path

    def wait(self) -> None:
        """Wait until the newest model run has been shown; for scripts and tests."""
        self.latest.wait()
