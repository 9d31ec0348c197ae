"""Compare one-shot with dynamic pruning: the same video, the same number of active tokens, two answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import ipywidgets as w

from dycoke_lab.methods import METHODS, Compression, compose, label_of
from dycoke_lab.viz.clip_runs import ClipRun, ClipRunner
from dycoke_lab.viz.frames import compare_view
from dycoke_lab.viz.widgets.compare_kept import pruning_label
from dycoke_lab.viz.widgets.controls import (
    call,
    chooser,
    clip_slider,
    layer_slider,
    merge_slider,
    neat,
    prune_slider,
    slider,
    start_at,
)
from dycoke_lab.viz.widgets.panel import Panel

ONCE = ("last_query", "fastv", "first_step", "random", "uniform", "keep_first")
LAYER = 3  # the paper's L


class OneShotVsDynamic(Panel):
    """Answers side by side, wrong words marked, at the sliders' ratios. The P slider's places are run ahead.

    method: the name of the one-shot method, of this library or of one's own.
    """

    def __init__(
        self,
        runner: ClipRunner,
        clip: str,
        merge_ratio: float = 0.5,
        prune_ratio: float = 0.9,
        method: str = "last_query",
        step: int = 6,
        from_layer: int = LAYER,
    ) -> None:
        self.runner, self.shown = runner, clip
        last = len(runner.clip(clip).answer) - 1
        names = [(label_of(name), name) for name in dict.fromkeys([*ONCE, method])]
        about = "Below: the tokens that are active under each method while this word is written."
        controls = {
            "clip": clip_slider(runner.names),
            "method": chooser("against", "Who selects once, for the whole answer.", names, "330px"),
            "prune_ratio": prune_slider(least=0.05),
            "merge_ratio": merge_slider(),
            "from_layer": layer_slider(runner.depth(clip)),
            "step": slider(w.IntSlider, "step", about, min=0, max=last),
        }
        start_at(controls, clip=clip, method=method, step=step, from_layer=from_layer)
        start_at(controls, prune_ratio=prune_ratio, merge_ratio=merge_ratio)
        self.runs = self._run(clip, _pair(method, merge_ratio, prune_ratio, from_layer))
        rows = [["clip", "method", "step"], ["prune_ratio", "merge_ratio", "from_layer"]]
        super().__init__("One-shot and dynamic pruning", controls, rows)

    def compressions(self) -> list[Compression]:
        """Return the present setting, for the one-shot method and for dynamic pruning."""
        merge, prune = neat(self["merge_ratio"]), neat(self["prune_ratio"])
        return _pair(self["method"], merge, prune, self["from_layer"])

    def _run(self, name: str, compressions: Iterable[Compression]) -> list[ClipRun]:
        return [self.runner.run(name, compression) for compression in compressions]

    def follow(self, name: str) -> None:
        if name == "clip":
            self.end("from_layer", self.runner.depth(self["clip"]) - 1)

    def code(self) -> str:
        name = METHODS[self["method"]].__name__
        pruning = call(name, neat(self["prune_ratio"]), from_layer=self["from_layer"])
        merge = neat(self["merge_ratio"])
        return f"{call('TTM', merge)} + {pruning}" if merge else pruning

    def draw(self) -> Any:
        return self._picture(self.shown, self.runs, self["step"])

    def upcoming(self) -> Any:
        """Yield the other words, then the other prune ratios, which the model runs for."""
        name, runs, step = self.shown, self.runs, self["step"]
        yield from (self._picture(name, runs, other) for other in range(len(self.runner.clip(name).answer)))
        merge, layer, method = neat(self["merge_ratio"]), self["from_layer"], self["method"]
        for twentieth in range(1, 20):
            others = self._run(name, self.latest.each(_pair(method, merge, neat(twentieth / 20), layer)))
            yield self._picture(name, others, step)

    def _picture(self, name: str, runs: list[ClipRun], step: int) -> Any:
        clip = self.runner.clip(name)
        step = min(step, len(clip.answer) - 1)
        labelled = [(pruning_label(run.compression), run) for run in runs]
        return (name, *(run.compression for run in runs), step), lambda: compare_view(clip, labelled, step)

    def ask(self) -> Any:
        name, compressions = self["clip"], self.compressions()
        known = [run for compression in compressions if (run := self.runner.known(name, compression))]
        if len(known) == len(compressions):
            self.take((name, known))
            return None
        return lambda: (name, self._run(name, self.latest.each(compressions))), self.take

    def take(self, result: tuple[str, list[ClipRun]]) -> None:
        """Show these runs from now on."""
        self.shown, self.runs = result
        self.end("step", len(self.runner.clip(self.shown).answer) - 1)


def _pair(method: str, merge: float, prune: float, layer: int) -> list[Compression]:
    return [compose(name, merge, prune, layer) for name in (method, "dynamic")]
