"""Make the controls that the explorers share, start them at a setting, and write a setting as code."""

from __future__ import annotations

import html
from collections.abc import Iterable
from numbers import Real
from typing import Any

import ipywidgets as w

SETTING, VIEW = "Copy this setting as code", "Copy code for this view"


def slider(kind: type, description: str, tooltip: str, **options: Any) -> Any:
    """Return a slider with a label, a tooltip that names its keys, and room for both."""
    layout = w.Layout(width=options.pop("width", "360px"))
    style = {"description_width": "150px"}
    about = f"{tooltip} Arrow keys move it."
    return kind(description=description, tooltip=about, style=style, layout=layout, **options)


def share_slider(
    description: str, tooltip: str, least: float = 0.0, most: float = 1.0, step: float = 0.05
) -> w.FloatSlider:
    """Return a slider for a number between 0 and 1."""
    limits = dict(min=least, max=most, step=step)
    return slider(w.FloatSlider, description, tooltip, readout_format=".2f", **limits)


def merge_slider(step: float = 0.05) -> w.FloatSlider:
    """Return the slider of K."""
    about = "The share of the visual tokens of a window's later frames that is merged away."
    return share_slider("merge ratio K", about, step=step)


def prune_slider(least: float) -> w.FloatSlider:
    """Return the slider of P."""
    about = "The share of the retained tokens that is inactive, or evicted, in the pruned layers."
    return share_slider("prune ratio P", about, least, 0.95)


def layer_slider(layers: int) -> w.IntSlider:
    """Return the slider of L."""
    about = "Layers from L on are pruned, by the attention of layer L - 1."
    return slider(w.IntSlider, "from_layer L", about, min=1, max=layers - 1)


def clip_slider(names: list[str]) -> w.SelectionSlider:
    """Return the slider that chooses a sample clip."""
    options = [(other.rsplit(".", 1)[0], other) for other in names]  # the place for the value is narrow
    return slider(w.SelectionSlider, "clip", "Which sample video.", options=options)


def chooser(description: str, tooltip: str, options: Any, width: str = "300px") -> w.Dropdown:
    """Return a menu with a label and a tooltip that names its keys."""
    about = f"{tooltip} Arrow keys move through it."
    layout, style = w.Layout(width=width), {"description_width": "110px"}
    return w.Dropdown(description=description, tooltip=about, options=options, layout=layout, style=style)


def buttons(description: str, options: dict[Any, str], width: str) -> w.ToggleButtons:
    """Return one button for each choice, beside their label. options: {choice, or (label, choice): tooltip};
    width: of a button."""
    style = {"button_width": width, "description_width": "110px"}
    layout = w.Layout(width="max-content", display="flex", flex_flow="row nowrap")  # the label beside them
    return w.ToggleButtons(
        options=list(options),
        description=description,
        tooltips=list(options.values()),
        style=style,
        layout=layout,
    )


def start_at(controls: dict[str, Any], **values: Any) -> None:
    """Set controls to a constructor's arguments of their names. Raises ValueError for what a control does not
    allow: it would quietly show something else."""
    for name, value in values.items():
        control = controls[name]
        chosen = value if isinstance(control, w.SelectMultiple) else [value]
        if hasattr(control, "options"):
            options = [other[1] if isinstance(other, tuple) else other for other in control.options]
            allowed, right = f"one of {listed(options)}", all(other in options for other in chosen)
        else:
            allowed = f"from {neat(control.min):g} to {neat(control.max):g}"
            right = isinstance(value, Real) and control.min <= value <= control.max
            if isinstance(control, w.IntSlider):
                allowed, right = f"a whole number {allowed}", right and value == int(value)
        if not right:
            raise ValueError(f"{name}={value!r} must be {allowed}")
        control.value = value


def listed(values: list[Any]) -> str:
    """Return values in words; of many only the first and the last."""
    texts = [repr(value) for value in values]
    return ", ".join(texts if len(texts) <= 12 else [*texts[:8], "...", *texts[-3:]])


def copy_row(labels: dict[str, str]) -> str:
    """Return the HTML of one row: for each code a button of this label that copies it, and the code, cut off
    where there is no room."""
    style = "flex:1 1 8em; min-width:0; overflow:hidden; text-overflow:ellipsis; white-space:nowrap"
    parts = (
        f'{copy_button(code, label)}<code style="{style}">{html.escape(code, quote=True)}</code>'
        for code, label in labels.items()
    )
    return f'<div style="display:flex; align-items:center; gap:0.5em">{"".join(parts)}</div>'


def copy_button(code: str, label: str) -> str:
    """Return the HTML of a button that copies the code."""
    text = html.escape(code, quote=True)
    script = (
        "navigator.clipboard.writeText(this.dataset.code); this.textContent = 'Copied';"
        f" setTimeout(() => this.textContent = '{label}', 1200)"
    )
    return (
        '<button class="jupyter-button widget-button dycoke-copy" style="width:17em"'
        f' data-code="{text}" onclick="{script}"'
        f' title="Put this line of Python on the clipboard: {text}">{label}</button>'
    )


def call(name: str, *values: Any, **fields: Any) -> str:
    """Return the code of a call: call("TTM", 0.5, window=4) is "TTM(0.5, window=4)"."""
    given = [*map(repr, values), *(f"{key}={value!r}" for key, value in fields.items())]
    return f"{name}({', '.join(given)})"


class Code(str):
    """Python that `call` writes as it is."""

    __repr__ = str.__str__


def ranges(numbers: Iterable[int]) -> Code:
    """Return the code of a list of whole numbers, as "[*range(3, 9), 12]"."""
    found: list[list[int]] = []  # first, last of each run of neighbours
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    parts = [f"{a}" if a == b else f"*range({a}, {b + 1})" for a, b in found]
    return Code(f"[{', '.join(parts)}]")


def neat(value: float) -> float:
    """Return a slider's value without the noise of binary fractions."""
    return round(float(value), 6)
