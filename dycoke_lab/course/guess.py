"""Ask for a guess, keep it, and show it beside the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from IPython.display import display


class Guess:
    """A question with a slider, or a choice, and a button that keeps what was chosen.

    options: what to choose from; None: a whole number from 0 to `most`, in `unit`. `guess.answer(value)`
    prints the kept guess beside the answer, and returns nothing. Without a live page (`make study`), the
    question stands there as text, and no guess is kept.
    """

    def __init__(self, question: str, options: Sequence[str] | None = None, most: int = 100, unit: str = "%"):
        self.question, self.options, self.unit = question, options, unit
        self.kept: str | int | None = None
        self._most = most
        self._panel = self._widget()

    def _widget(self) -> Any:
        import ipywidgets as w

        wide, style = w.Layout(width="420px"), {"description_width": "90px"}
        if self.options is None:
            about = f"Your guess, in {self.unit}. Arrow keys move it."
            control: Any = w.IntSlider(
                self._most // 2,
                0,
                self._most,
                description="my guess",
                tooltip=about,
                layout=wide,
                style=style,
            )
        else:
            control = w.RadioButtons(options=list(self.options), value=None, layout=w.Layout(width="auto"))
        button = w.Button(description="Keep my guess", tooltip="It is shown beside the answer below.")
        said = w.HTML()

        def keep(_: Any) -> None:
            if control.value is not None:
                self.kept = control.value
                said.value = f"Kept: <b>{self._written(self.kept)}</b>. Go on."

        button.on_click(keep)
        return w.VBox([w.HTML(f"<b>Guess:</b> {self.question}"), control, w.HBox([button, said])])

    def _written(self, value: Any) -> str:
        if self.options is not None or isinstance(value, str):
            return str(value)
        return f"{value:.3g} {self.unit}".rstrip()

    def _repr_mimebundle_(self, **_: Any) -> Any:
        bundle = self._panel._repr_mimebundle_()
        choice = "" if self.options is None else f" ({' / '.join(self.options)})"
        return {**bundle, "text/plain": f"Guess: {self.question}{choice}"}

    def answer(self, value: float | str) -> None:
        """Print the kept guess beside the answer."""
        guess = "No guess was kept." if self.kept is None else f"Your guess: {self._written(self.kept)}."
        print(f"{guess} It is {self._written(value)}.")

    def show(self) -> None:
        """Display it, from the middle of a cell."""
        display(self)  # type: ignore[no-untyped-call]
