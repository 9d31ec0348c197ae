"""Make the controls that the explorers share, and the button that copies a setting as code."""

from __future__ import annotations

import html
from typing import Any

import ipywidgets as w

COPY = "Copy this setting as code"


def slider(kind: type, description: str, tooltip: str, **options: Any) -> Any:
    """Return a slider with a label, a tooltip that names its keys, and room for both."""
    layout = w.Layout(width=options.pop("width", "360px"))
    style = {"description_width": "150px"}
    about = f"{tooltip} Arrow keys move it."
    return kind(description=description, tooltip=about, style=style, layout=layout, **options)


def share_slider(
    description: str, tooltip: str, value: float, least: float = 0.0, most: float = 1.0, step: float = 0.05
) -> w.FloatSlider:
    """Return a slider for a number between 0 and 1."""
    limits = dict(value=value, min=least, max=most, step=step)
    return slider(w.FloatSlider, description, tooltip, readout_format=".2f", **limits)


def merge_slider(value: float, step: float = 0.05) -> w.FloatSlider:
    """Return the slider of K."""
    about = "The share of the visual tokens of a window's later frames that is merged away."
    return share_slider("merge ratio K", about, value, step=step)


def prune_slider(value: float, least: float) -> w.FloatSlider:
    """Return the slider of P."""
    about = "The share of the retained tokens that is inactive, or evicted, in the pruned layers."
    return share_slider("prune ratio P", about, value, least, 0.95)


def layer_slider(value: int, layers: int) -> w.IntSlider:
    """Return the slider of L."""
    about = "Layers from L on are pruned, by the attention of layer L - 1."
    return slider(w.IntSlider, "from_layer L", about, value=value, min=1, max=layers - 1)


def clip_slider(names: list[str], name: str) -> w.SelectionSlider:
    """Return the slider that chooses a sample clip."""
    options = [(other.rsplit(".", 1)[0], other) for other in names]  # the place for the value is narrow
    return slider(w.SelectionSlider, "clip", "Which sample video.", options=options, value=name)


def chooser(description: str, tooltip: str, options: Any, value: Any, width: str = "300px") -> w.Dropdown:
    """Return a menu with a label and a tooltip that names its keys."""
    about = f"{tooltip} Arrow keys move through it."
    layout, style = w.Layout(width=width), {"description_width": "110px"}
    return w.Dropdown(
        description=description, tooltip=about, options=options, value=value, layout=layout, style=style
    )


def copy_button(code: str) -> str:
    """Return the HTML of a button that copies the code, and of the code itself."""
    text = html.escape(code, quote=True)
    script = (
        "navigator.clipboard.writeText(this.dataset.code); this.textContent = 'Copied';"
        f" setTimeout(() => this.textContent = '{COPY}', 1200)"
    )
    return (
        '<button class="jupyter-button widget-button dycoke-copy" style="width:17em"'
        f' data-code="{text}" onclick="{script}"'
        f' title="Put the Python line for this setting on the clipboard">{COPY}</button>'
        f' <code style="white-space:pre-wrap">{text}</code>'
    )


def call(name: str, *values: Any, **fields: Any) -> str:
    """Return the code of a call: call("TTM", 0.5, window=4) is "TTM(0.5, window=4)"."""
    given = [*map(repr, values), *(f"{key}={value!r}" for key, value in fields.items())]
    return f"{name}({', '.join(given)})"


def neat(value: float) -> float:
    """Return a slider's value without the noise of binary fractions."""
    return round(float(value), 6)
