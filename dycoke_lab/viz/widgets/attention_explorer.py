"""Step through an answer: where attention goes, and which tokens are active, inactive or merged away."""

from __future__ import annotations

from typing import Any

import ipywidgets as w

from dycoke_lab.methods import Compression, DyCoke
from dycoke_lab.viz.clip_runs import ClipRun, ClipRunner
from dycoke_lab.viz.frames import attention_view
from dycoke_lab.viz.widgets.controls import (
    call,
    chooser,
    clip_slider,
    layer_slider,
    merge_slider,
    neat,
    prune_slider,
    share_slider,
    slider,
    start_at,
)
from dycoke_lab.viz.widgets.panel import Panel

MEAN = "mean over heads"


class AttentionExplorer(Panel):
    """A step scrubber with play; layer and head; L, P, K and when to re-select. It starts with the setting
    `DyCoke(...)` of the same arguments.

    layer: shown at the start; None for the one below from_layer.
    """

    def __init__(
        self,
        runner: ClipRunner,
        clip: str,
        merge_ratio: float = 0.5,
        prune_ratio: float = 0.9,
        from_layer: int = 3,
        reselect_below: float = 0.9,
        step: int = 6,
        layer: int | None = None,
        head: int | str = MEAN,
    ) -> None:
        self.runner, self.shown = runner, clip
        start = DyCoke(merge_ratio, prune_ratio, from_layer, reselect_below=reselect_below)
        self.run: ClipRun = runner.run(clip, start)
        depth, steps = runner.depth(clip), dict(min=0, max=len(self.run.words) - 1)
        heads = [MEAN, *range(runner.model(clip).config.get_text_config().num_attention_heads)]
        again = "A step selects anew only if its attention's cosine with the step before is below this."
        shown = "Whose attention is shown as brightness."
        controls = {
            "clip": clip_slider(runner.names),
            "step": slider(
                w.IntSlider, "step", "Which word of the answer is being written.", **steps, width="460px"
            ),
            "layer": slider(w.IntSlider, "layer shown", shown, min=0, max=depth - 1),
            "head": chooser("head", "One attention head, or their mean.", heads),
            "from_layer": layer_slider(depth),
            "prune_ratio": prune_slider(least=0.0),
            "merge_ratio": merge_slider(),
            "reselect_below": share_slider("re-select below", again, most=1.05),
        }
        start_at(controls, clip=clip, step=step, layer=from_layer - 1 if layer is None else layer, head=head)
        start_at(controls, from_layer=from_layer, prune_ratio=prune_ratio, merge_ratio=merge_ratio)
        start_at(controls, reselect_below=reselect_below)
        about = "Play, pause, or stop; the space bar presses"
        self.play = w.Play(value=step, **steps, interval=700, show_repeat=False, tooltip=about)
        w.jslink((self.play, "value"), (controls["step"], "value"))
        self.selected = w.HTML()  # how often was selected, beside the threshold that decides it
        ratios = ["from_layer", "prune_ratio", "merge_ratio"]
        rows = [["clip", "step"], ratios, ["reselect_below"], ["layer", "head"]]
        extra = {"clip": [self.play], "reselect_below": [self.selected]}
        super().__init__("Attention explorer", controls, rows, extra)

    def follow(self, name: str) -> None:
        if name == "clip":
            depth = self.runner.depth(self["clip"])
            self.end("from_layer", depth - 1)
            self.end("layer", depth - 1)

    def _fields(self) -> dict[str, Any]:
        names = ("merge_ratio", "prune_ratio", "from_layer", "reselect_below")
        return {name: self[name] if name == "from_layer" else neat(self[name]) for name in names}

    def compression(self) -> Compression:
        """Return the present setting."""
        return DyCoke(**self._fields())

    def code(self) -> str:
        return call("DyCoke", **self._fields())

    def draw(self) -> Any:
        return self._picture(min(self["step"], len(self.run.words) - 1))

    def upcoming(self) -> Any:
        """Yield the other steps."""
        yield from (self._picture(step) for step in range(len(self.run.words)))

    def _picture(self, step: int) -> Any:
        head = None if self["head"] == MEAN else self["head"]
        run, clip = self.run, self.runner.clip(self.shown)
        layer = min(self["layer"], self.runner.depth(self.shown) - 1)  # the clip to come may have more
        key = (self.shown, run.compression, step, layer, head)
        return key, lambda: attention_view(clip, run, step, layer, head)

    def ask(self) -> Any:
        name, compression = self["clip"], self.compression()
        known = self.runner.known(name, compression)
        if known:
            self.take((name, known))
            return None
        return lambda: (name, self.runner.run(name, compression)), self.take

    def reset(self) -> None:
        self.play.playing = False
        super().reset()

    def take(self, result: tuple[str, ClipRun]) -> None:
        """Show this run from now on."""
        self.shown, self.run = result
        last = len(self.run.words) - 1
        self.end("step", last)
        self.play.max = last
        made = self.run.selections()
        text = "no selection while decoding" if made is None else f"{made[0]} of {made[1]} selections made"
        self.selected.value = f'<span class="dycoke-selected">{text}</span>'
