"""Merge explorer: what temporal merging keeps of a clip, by ratio or by threshold."""

from __future__ import annotations

import html
from typing import Any

import ipywidgets as w
import torch
from PIL.Image import Image as Picture

from dycoke_lab import flops
from dycoke_lab.config import DyCokeConfig
from dycoke_lab.explore import Lab, Run, equivalent_ratio, equivalent_threshold, wrong_words
from dycoke_lab.merge import Merged, temporal_merge
from dycoke_lab.plots import WRONG
from dycoke_lab.views import merge_view
from dycoke_lab.widgets.panel import Panel, call, clip_slider, merge_slider, neat, slider

NOTHING = DyCokeConfig(merge_ratio=0.0, prune_ratio=0.0)


class MergeExplorer(Panel):
    """Ratio K and similarity threshold move together: the one that was moved decides, the other shows what it amounts to."""

    def __init__(self, lab: Lab, clip: str, merge_ratio: float = 0.7) -> None:
        self.lab, self.leads = lab, "ratio"
        self._merged: dict[Any, Merged] = {}
        frames = len(lab.clip(clip).pixels)
        controls = {
            "clip": clip_slider(lab.names, clip),
            "frame": slider(
                w.IntSlider, "frame", "The frame shown large, beside the one it is compared with.", value=1, min=0, max=frames - 1
            ),
            "ratio": merge_slider(merge_ratio, step=0.01, description="merge ratio K"),
            "threshold": slider(
                w.FloatSlider,
                "or: threshold",
                "Merge every token at least this similar (cosine) to its reference.",
                value=1.0,
                min=0.0,
                max=1.0,
                step=0.0001,
                readout_format=".4f",
            ),
            "window": slider(
                w.IntSlider,
                "window, frames",
                "Frames are merged within windows of this many; the paper's is 4.",
                value=4,
                min=2,
                max=8,
            ),
            "merge": w.ToggleButtons(
                options=["drop", "average"],
                value="drop",
                description="merged tokens",
                tooltips=["Dropped, as in the paper", "Averaged into the token they repeat"],
                style={"button_width": "90px", "description_width": "110px"},
            ),
        }
        controls["threshold"].value = on_step(controls["threshold"], equivalent_threshold(self._similarity(clip, 4), merge_ratio))
        super().__init__("Merge explorer", controls, [["clip", "frame", "window"], ["ratio", "threshold", "merge"]])

    def _similarity(self, clip: str, window: int) -> torch.Tensor:
        return temporal_merge(self.lab.clip(clip).features, 0.0, window).similarity

    def merged(self) -> Merged:
        """What merging leaves under the present setting."""
        return self._merge(self["clip"], self["window"], self.leads, neat(self[self.leads]))

    def _merge(self, clip: str, window: int, by: str, value: float) -> Merged:
        key = (clip, window, by, value)
        if key not in self._merged:
            setting: dict[str, Any] = {"merge_ratio" if by == "ratio" else "threshold": value}
            self._merged[key] = temporal_merge(self.lab.clip(clip).features, window=window, **setting)
        return self._merged[key]

    def changed(self, name: str) -> None:
        with self.lock:
            if not self.quiet:
                self.latest.overtake()
                self.follow(name)
                self.refresh()

    def follow(self, name: str) -> None:
        """Bring the controls that depend on the one that moved into line."""
        if name in ("ratio", "threshold"):
            self.leads = name
        if name == "clip":
            self.end("frame", len(self.lab.clip(self["clip"]).pixels) - 1)
        similarity = self._similarity(self["clip"], self["window"])
        if self.leads == "ratio":
            self.put(threshold=on_step(self.controls["threshold"], equivalent_threshold(similarity, self["ratio"])))
        else:
            self.put(ratio=on_step(self.controls["ratio"], equivalent_ratio(similarity, self["threshold"])))

    def reset(self) -> None:
        self.leads = "ratio"
        super().reset()

    def config(self) -> DyCokeConfig:
        return DyCokeConfig(prune_ratio=0.0, **self._fields())

    def _fields(self) -> dict[str, Any]:
        by = {"merge_ratio": neat(self["ratio"])} if self.leads == "ratio" else {"merge_threshold": neat(self["threshold"])}
        return {**by, "window": self["window"], "merge": self["merge"]}

    def code(self) -> str:
        return call({**self._fields(), "prune_ratio": 0.0})

    def draw(self) -> Any:
        return self._picture(self.leads, self[self.leads], self["frame"])

    def upcoming(self) -> Any:
        """The other ratios, and the other frames."""
        leads, value, frame = self.leads, self[self.leads], self["frame"]
        yield from (self._picture("ratio", step / 20, frame) for step in range(21))
        yield from (self._picture(leads, value, other) for other in range(self.controls["frame"].max + 1))

    def _picture(self, by: str, value: float, frame: int) -> Any:
        clip, window, value = self["clip"], self["window"], neat(value)
        merged = self._merge(clip, window, by, value)
        threshold = value if by == "threshold" else equivalent_threshold(merged.similarity, value)
        return (clip, window, by, value, frame), lambda: merge_figure(self.lab, clip, merged, threshold, frame, window)

    def ask(self) -> Any:
        name, config = self["clip"], self.config()
        before, after = self.lab.known(name, NOTHING), self.lab.known(name, config)
        if before and after:
            self.tell((before, after))
            return None
        self.tell(None)
        return lambda: (self.lab.run(name, NOTHING), self.lab.run(name, config)), self.tell

    def tell(self, runs: tuple[Run, Run] | None) -> None:
        """The answers before and after merging, in a box of fixed height."""
        answer = self.lab.clip(self["clip"]).answer
        lines = []
        for place, label in enumerate(("before", "after")):
            text = "…" if runs is None else marked(runs[place].words, answer)
            lines.append(f"<tr><td style='padding-right:1em'><b>{label} merging</b></td><td>{text}</td></tr>")
        self.words.value = f"<table style='font-size:1.15em;min-height:4.2em'>{''.join(lines)}</table>"


def on_step(control: Any, value: float) -> float:
    """The slider's place at or below a value. Between two places, the page would round it and send that back as a move."""
    steps = int((value - control.min) / control.step + 1e-6)
    return neat(min(max(control.min + steps * control.step, control.min), control.max))


def merge_figure(lab: Lab, name: str, merged: Merged, threshold: float, frame: int, window: int = 4) -> Picture:
    """The explorer's picture; also the static one above it."""
    clip, total = lab.clip(name), merged.into.numel()
    own = flops.saved(merged.retained, total, flops.decoder_shape(lab.model))
    large = flops.saved(merged.retained, 6272, flops.LLAVA_OV_7B)
    title = (f"{len(merged.kept)} of {total} tokens remain ({merged.retained:.0%}); prefill FLOPs saved: {own:.0%} here, "
             f"{large:.0%} in a 7B model")  # fmt: skip
    return merge_view(clip, merged, threshold, frame, window, title)


def marked(words: list[str], answer: list[str]) -> str:
    """An answer as HTML: wrong words are crossed out, underlined by a mark that needs no colour."""
    parts = []
    for word, bad in zip(words, wrong_words(words, answer), strict=True):
        text = html.escape({"<|end|>": "."}.get(word, word))
        parts.append(f"<b style='color:{WRONG}'>✗<s>{text}</s></b>" if bad else text)
    return " ".join(parts)
