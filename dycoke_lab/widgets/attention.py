"""Attention explorer: step through an answer, and see what each word looks at and what it may look at."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ipywidgets as w

from dycoke_lab.config import DyCokeConfig
from dycoke_lab.explore import Lab, Run
from dycoke_lab.views import attention_view
from dycoke_lab.widgets.panel import (
    Panel,
    call,
    chooser,
    clip_slider,
    layer_slider,
    merge_slider,
    neat,
    prune_slider,
    share_slider,
    slider,
)

MEAN = "mean over heads"


class AttentionExplorer(Panel):
    """A step scrubber with play; layer and head; L, P, K and the gate."""

    def __init__(self, lab: Lab, clip: str, config: DyCokeConfig | None = None, step: int = 6) -> None:
        self.lab = lab
        self.base = config or DyCokeConfig(merge_ratio=0.5, prune_ratio=0.9)
        self.run: Run = lab.run(clip, self.base)
        self.shown = clip
        text = lab.model.config.get_text_config()
        layers, heads = text.num_hidden_layers, text.num_attention_heads
        last = len(self.run.words) - 1
        controls = {
            "clip": clip_slider(lab.names, clip),
            "step": slider(
                w.IntSlider, "step", "Which word of the answer is being written.", value=step, min=0, max=last, width="460px"
            ),
            "layer": slider(
                w.IntSlider,
                "layer shown",
                "Whose attention is shown as brightness.",
                value=self.base.score_layer - 1,
                min=0,
                max=layers - 1,
            ),
            "head": chooser("head", "One attention head, or their mean.", [MEAN, *range(heads)], MEAN),
            "score_layer": layer_slider(self.base.score_layer, layers),
            "prune_ratio": prune_slider(self.base.prune_ratio, least=0.0),
            "merge_ratio": merge_slider(self.base.merge_ratio),
            "gate": share_slider(
                "gate",
                "A step chooses anew only if its attention's cosine with the step before is below.",
                self.base.gate,
                most=1.05,
            ),
        }
        self.play = w.Play(
            value=step, min=0, max=last, interval=700, show_repeat=False, tooltip="Play, pause, or stop; the space bar presses"
        )
        w.jslink((self.play, "value"), (controls["step"], "value"))
        rows = [["clip", "step"], ["score_layer", "prune_ratio", "merge_ratio"], ["gate", "layer", "head"]]
        super().__init__("Attention explorer", controls, rows, {"clip": [self.play]})

    def config(self) -> DyCokeConfig:
        return replace(self.base, score_layer=self["score_layer"], prune_ratio=neat(self["prune_ratio"]),
                       merge_ratio=neat(self["merge_ratio"]), gate=neat(self["gate"]))  # fmt: skip

    def code(self) -> str:
        config = self.config()
        names = ("merge_ratio", "score_layer", "prune_ratio", "gate")
        return call({name: getattr(config, name) for name in names})

    def draw(self) -> Any:
        return self._picture(min(self["step"], len(self.run.words) - 1))

    def upcoming(self) -> Any:
        """The other steps."""
        yield from (self._picture(step) for step in range(len(self.run.words)))

    def _picture(self, step: int) -> Any:
        head = None if self["head"] == MEAN else self["head"]
        run, clip, layer = self.run, self.lab.clip(self.shown), self["layer"]
        return (self.shown, run.config, step, layer, head), lambda: attention_view(clip, run, step, layer, head)

    def ask(self) -> Any:
        name, config = self["clip"], self.config()
        known = self.lab.known(name, config)
        if known:
            self.take((name, known))
            return None
        return lambda: (name, self.lab.run(name, config)), self.take

    def reset(self) -> None:
        self.play.playing = False
        super().reset()

    def take(self, result: tuple[str, Run]) -> None:
        """Show this run from now on."""
        self.shown, self.run = result
        last = len(self.run.words) - 1
        self.end("step", last)
        self.play.max = last
