"""Which heads aim? A map of heads and layers; a click shows that head's attention over the frames."""

from __future__ import annotations

from typing import Any

import ipywidgets as w

from dycoke_lab.methods import Compression
from dycoke_lab.viz.clip_runs import ClipRun, ClipRunner
from dycoke_lab.viz.frames import head_view
from dycoke_lab.viz.frames.head_view import aim_map
from dycoke_lab.viz.frames.page import Hit
from dycoke_lab.viz.widgets.controls import buttons, clip_slider, slider, start_at
from dycoke_lab.viz.widgets.panel import Panel


class HeadMap(Panel):
    """Aim of each head: the share of its attention on the video that falls on what the word names. Nothing is
    compressed. A click on a cell, or the sliders, choose the head that the frames show.

    layer, head: shown at the start; None for the head that aims best on average.
    """

    def __init__(
        self,
        runner: ClipRunner,
        clip: str,
        step: int = 0,
        layer: int | None = None,
        head: int | None = None,
        mean: bool = False,
    ) -> None:
        self.runner, self.shown = runner, clip
        self.run: ClipRun = runner.run(clip, Compression())
        depth, heads = self.run.trace.attention[0].shape[:2]
        if layer is None or head is None:
            best = aim_map(runner.clip(clip), self.run, 0, mean=True).flatten().argmax()
            layer, head = divmod(int(best), heads)
        about = "Which head's attention the frames show."
        steps = dict(min=0, max=len(self.run.words) - 1)
        controls = {
            "clip": clip_slider(runner.names),
            "step": slider(w.IntSlider, "step", "Which word of the answer is being written.", **steps),
            "mean": buttons(
                "map of",
                {
                    ("this step", False): "Aim at this step's word",
                    ("mean of steps", True): "Mean of all words that name something",
                },
                "110px",
            ),
            "layer": slider(w.IntSlider, "layer", about, min=0, max=depth - 1),
            "head": slider(w.IntSlider, "head", about, min=0, max=heads - 1),
        }
        start_at(controls, clip=clip, step=step, mean=mean, layer=layer, head=head)
        super().__init__("Which heads aim?", controls, [list(controls)])

    def clicked(self, found: Hit) -> None:
        if found.what != "cell":
            super().clicked(found)
            return
        layer, head = divmod(found.number, self.run.trace.attention[0].shape[1])
        with self.lock:
            self.put(layer=layer, head=head)
            self.refresh()

    def draw(self) -> Any:
        return self._picture(self["step"])

    def upcoming(self) -> Any:
        """Yield the other steps."""
        yield from (self._picture(step) for step in range(len(self.run.words)))

    def _picture(self, step: int) -> Any:
        run, clip = self.run, self.runner.clip(self.shown)
        depth, heads = run.trace.attention[0].shape[:2]
        layer, head = min(self["layer"], depth - 1), min(self["head"], heads - 1)
        step, mean = min(step, len(run.words) - 1), self["mean"]
        key = (self.shown, step, layer, head, mean)
        return key, lambda: head_view(clip, run, step, layer, head, mean)

    def follow(self, name: str) -> None:
        if name == "clip":
            self.end("layer", self.runner.depth(self["clip"]) - 1)

    def ask(self) -> Any:
        name = self["clip"]
        known = self.runner.known(name, Compression())
        if known:
            self.take((name, known))
            return None
        return lambda: (name, self.runner.run(name, Compression())), self.take

    def take(self, result: tuple[str, ClipRun]) -> None:
        """Show this run from now on."""
        self.shown, self.run = result
        self.end("step", len(self.run.words) - 1)
