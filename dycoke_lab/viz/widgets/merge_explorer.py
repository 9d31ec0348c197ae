"""Explore what temporal merging retains of a clip, by ratio or by threshold."""

from __future__ import annotations

import html
from typing import Any

import ipywidgets as w
from PIL.Image import Image as Picture
from torch import Tensor

from dycoke_lab.bench import flops
from dycoke_lab.bench.model_shapes import SHAPES, other_tokens
from dycoke_lab.evaluation.metrics import wrong_words
from dycoke_lab.methods import TTM, Compression, compose, temporal_merge
from dycoke_lab.methods.temporal_merging import Merged
from dycoke_lab.viz.clip_runs import ClipRun, ClipRunner, equivalent_ratio, equivalent_threshold
from dycoke_lab.viz.frames import merge_view
from dycoke_lab.viz.plots import WRONG
from dycoke_lab.viz.widgets.controls import buttons, call, clip_slider, merge_slider, neat, slider, start_at
from dycoke_lab.viz.widgets.panel import Panel
from dycoke_lab.viz.widgets.price import measured, price_text

# fine where tokens begin to differ; below, few are left to merge
THRESHOLDS = [
    (f"{value:g}", value)
    for value in (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, *(n / 10_000 for n in range(9_900, 10_001)))
]


class MergeExplorer(Panel):
    """Ratio K and similarity threshold move together: the one that was moved decides, the other follows.

    threshold: if there is one, it decides at the start, whatever merge_ratio is.
    """

    def __init__(
        self,
        runner: ClipRunner,
        clip: str,
        merge_ratio: float = 0.7,
        threshold: float | None = None,
        frame: int = 1,
        window: int = 4,
        combine: str = "drop",
    ) -> None:
        self.runner = runner
        self.leads = self.first = "merge_ratio" if threshold is None else "threshold"
        self._merged: dict[Any, Merged] = {}
        last = len(runner.clip(clip).pixels) - 1
        large = "The frame shown large, beside the one it is compared with."
        alike = "Merge away every token at least this similar (cosine) to its reference."
        windows = "Frames are merged within windows of this many; the paper's is 4."
        controls = {
            "clip": clip_slider(runner.names),
            "frame": slider(w.IntSlider, "frame", large, min=0, max=last),
            "merge_ratio": merge_slider(step=0.01),
            "threshold": slider(w.SelectionSlider, "or: threshold", alike, options=THRESHOLDS),
            "window": slider(w.IntSlider, "window, frames", windows, min=2, max=8),
            "combine": buttons(
                "merged away",
                {"drop": "Dropped, as in the paper", "average": "Averaged into the token they repeat"},
                "90px",
            ),
        }
        start_at(controls, clip=clip, frame=frame, window=window, combine=combine, merge_ratio=merge_ratio)
        if threshold is not None:
            start_at(controls, threshold=threshold)
        start_at(controls, **self._follower(controls))
        self.price = w.HTML()  # beside the two controls that it is of
        rows = [["clip", "frame", "window"], ["merge_ratio", "threshold"], ["combine"]]
        super().__init__("Merge explorer", controls, rows, {"merge_ratio": [self.price]})

    def _similarity(self, clip: str, window: int) -> Tensor:
        return temporal_merge(self.runner.clip(clip).features, 0.0, window).similarity

    def merged(self) -> Merged:
        """Return what merging retains under the present setting."""
        return self._merge(self["clip"], self["window"], self.leads, neat(self[self.leads]))

    def _merge(self, clip: str, window: int, by: str, value: float) -> Merged:
        key = (clip, window, by, value)
        if key not in self._merged:
            setting: dict[str, Any] = {by: value}
            features = self.runner.clip(clip).features
            self._merged[key] = temporal_merge(features, window=window, **setting)
        return self._merged[key]

    def follow(self, name: str) -> None:
        if name in ("merge_ratio", "threshold"):
            self.leads = name
        if name == "clip":
            self.end("frame", len(self.runner.clip(self["clip"]).pixels) - 1)
        self.put(**self._follower(self.controls))

    def _follower(self, controls: dict[str, Any]) -> dict[str, float]:
        """Return where the one of ratio and threshold belongs that does not lead."""
        similarity = self._similarity(controls["clip"].value, controls["window"].value)
        value, ratio = neat(controls[self.leads].value), controls["merge_ratio"]
        if self.leads == "merge_ratio":
            return {"threshold": at_or_below(equivalent_threshold(similarity, value))}
        return {"merge_ratio": on_step(ratio, equivalent_ratio(similarity, value))}

    def reset(self) -> None:
        self.leads = self.first
        super().reset()

    def compression(self) -> Compression:
        """Return the present setting."""
        return Compression.of(TTM(**self._fields()))

    def _fields(self) -> dict[str, Any]:
        return {self.leads: neat(self[self.leads]), "window": self["window"], "combine": self["combine"]}

    def arguments(self) -> dict[str, Any]:
        given = super().arguments()
        del given["threshold" if self.leads == "merge_ratio" else "merge_ratio"]
        return given

    def code(self) -> str:
        return call("TTM", **self._fields())

    def draw(self) -> Any:
        found = measured("merge_ratio" if self.leads == "merge_ratio" else "merge_threshold")
        of = "K" if self.leads == "merge_ratio" else "threshold"
        text = price_text(found, self[self.leads])
        self.price.value = (
            f'<span class="dycoke-price" style="margin-right:1em">{of} {text} (constructed videos)</span>'
            if text
            else ""
        )
        return self._picture(self.leads, self[self.leads], self["frame"])

    def upcoming(self) -> Any:
        """Yield the other ratios, and the other frames."""
        leads, value, frame = self.leads, self[self.leads], self["frame"]
        yield from (self._picture("merge_ratio", step / 20, frame) for step in range(21))
        yield from (self._picture(leads, value, other) for other in range(self.controls["frame"].max + 1))

    def _picture(self, by: str, value: float, frame: int) -> Any:
        clip, window, value = self["clip"], self["window"], neat(value)
        merged = self._merge(clip, window, by, value)
        threshold = value if by == "threshold" else equivalent_threshold(merged.similarity, value)
        key = (clip, window, by, value, frame)
        lead = f"K = {value:g}" if by == "merge_ratio" else f"threshold {value:g}"
        return key, lambda: merge_figure(self.runner, clip, merged, threshold, frame, window, lead)

    def ask(self) -> Any:
        name, settings = self["clip"], (compose("full"), self.compression())
        known = [run for setting in settings if (run := self.runner.known(name, setting))]
        if len(known) == len(settings):
            self.tell(known)
            return None
        self.tell(None)
        return lambda: [self.runner.run(name, setting) for setting in settings], self.tell

    def tell(self, runs: list[ClipRun] | None) -> None:
        """Write the answers before and after merging, in a box of fixed height."""
        answer = self.runner.clip(self["clip"]).answer
        lines = []
        for place, label in enumerate(("before", "after")):
            text = "…" if runs is None else marked(runs[place].words, answer)
            name = f"<td style='padding-right:1em'><b>{label} merging</b></td>"
            lines.append(f"<tr>{name}<td>{text}</td></tr>")
        self.words.value = f"<table style='font-size:1.15em;min-height:4.2em'>{''.join(lines)}</table>"


def on_step(control: Any, value: float) -> float:
    """Return the slider's place at or below a value: between two places, the page would round it and send
    that back as a move."""
    steps = int((value - control.min) / control.step + 1e-6)
    return neat(min(max(control.min + steps * control.step, control.min), control.max))


def at_or_below(threshold: float) -> float:
    """Return the highest threshold of the slider that is not above this one."""
    return max(value for _, value in THRESHOLDS if value <= max(threshold, 0.0))


def merge_figure(
    runner: ClipRunner,
    name: str,
    merged: Merged,
    threshold: float,
    frame: int,
    window: int = 4,
    lead: str = "",
) -> Picture:
    """Draw the explorer's picture; also the static one above it. lead: the setting that the title begins
    with, as "K = 0.7"."""
    saved = f"prefill FLOPs saved in a 7B: {100 * prefill_saved(merged.retained):.0f} %"
    share = f"{len(merged.kept)} of {len(merged.into)} tokens retained ({100 * merged.retained:.0f} %)"
    return merge_view(
        runner.clip(name), merged, threshold, frame, window, f"{lead}{': ' * bool(lead)}{share}; {saved}"
    )


def prefill_saved(retained: float, model: str = "llava-ov-7b", frames: int = 32) -> float:
    """Return the share of a large model's prefill FLOPs that is saved where this share of its visual tokens
    is retained, all operations of the whole prompt counted."""
    shape = SHAPES[model]
    visual, other = frames * shape.grid[0] * shape.grid[1], other_tokens(model)
    lengths = ([other + round(share * visual)] * shape.layers for share in (1, retained))
    full, ours = (flops.prefill(shape, length) for length in lengths)
    return 1 - ours / full


def marked(words: list[str], answer: list[str]) -> str:
    """Return an answer as HTML: wrong words are crossed out, and marked by a sign that needs no colour."""
    parts = []
    for word, bad in zip(words, wrong_words(words, answer), strict=True):
        text = html.escape({"<|end|>": "."}.get(word, word))
        parts.append(f"<b style='color:{WRONG}'>✗<s>{text}</s></b>" if bad else text)
    return " ".join(parts)
