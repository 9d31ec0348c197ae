"""One-shot against dynamic: the same video, the same number of tokens, two answers."""

from __future__ import annotations

from typing import Any

import ipywidgets as w

from dycoke_lab.config import DyCokeConfig
from dycoke_lab.explore import Lab, Run
from dycoke_lab.tables import METHOD_NAMES
from dycoke_lab.views import compare_view
from dycoke_lab.widgets.panel import Panel, call, chooser, clip_slider, layer_slider, merge_slider, neat, prune_slider, slider

ONCE = ("last_query", "fastv", "first_step", "random", "uniform", "keep_first")


class OneShotAgainstDynamic(Panel):
    """Answers side by side, wrong words marked, at the sliders' ratios. The settings on the P slider are run ahead."""

    def __init__(
        self, lab: Lab, clip: str, merge_ratio: float = 0.5, prune_ratio: float = 0.9, method: str = "last_query", step: int = 6
    ) -> None:
        self.lab = lab
        layers = lab.model.config.get_text_config().num_hidden_layers
        last = len(lab.clip(clip).answer) - 1
        controls = {
            "clip": clip_slider(lab.names, clip),
            "method": chooser(
                "against", "Who chooses once, for the whole answer.", [(METHOD_NAMES[m], m) for m in ONCE], method, "330px"
            ),
            "prune_ratio": prune_slider(prune_ratio, least=0.05),
            "merge_ratio": merge_slider(merge_ratio),
            "score_layer": layer_slider(3, layers),
            "step": slider(
                w.IntSlider,
                "step",
                "Below: what each method may look at while this word is written.",
                value=min(step, last),
                min=0,
                max=last,
            ),
        }
        self.runs = self._run(clip, self._configs(merge_ratio, prune_ratio, 3, method))
        self.shown = clip
        rows = [["clip", "method", "step"], ["prune_ratio", "merge_ratio", "score_layer"]]
        super().__init__("One-shot against dynamic", controls, rows)

    def _configs(self, merge: float, prune: float, layer: int, method: str) -> list[DyCokeConfig]:
        return [DyCokeConfig(merge_ratio=merge, prune_ratio=prune, score_layer=layer, method=m) for m in (method, "dynamic")]

    def configs(self) -> list[DyCokeConfig]:
        """The present setting, for the one-shot method and for dynamic pruning."""
        return self._configs(neat(self["merge_ratio"]), neat(self["prune_ratio"]), self["score_layer"], self["method"])

    def _run(self, name: str, configs: list[DyCokeConfig]) -> list[Run]:
        return [self.lab.run(name, config) for config in configs]

    def code(self) -> str:
        config = self.configs()[0]
        names = ("merge_ratio", "score_layer", "prune_ratio", "method")
        return call({name: getattr(config, name) for name in names})

    def draw(self) -> Any:
        return self._picture(self.shown, self.runs, self["step"])

    def upcoming(self) -> Any:
        """The other words, then the other pruning ratios, which the model runs for."""
        name, runs, step = self.shown, self.runs, self["step"]
        yield from (self._picture(name, runs, other) for other in range(len(self.lab.clip(name).answer)))
        merge, layer, method = neat(self["merge_ratio"]), self["score_layer"], self["method"]
        for twentieth in range(1, 20):
            yield self._picture(name, self._run(name, self._configs(merge, neat(twentieth / 20), layer, method)), step)

    def _picture(self, name: str, runs: list[Run], step: int) -> Any:
        clip = self.lab.clip(name)
        step = min(step, len(clip.answer) - 1)
        named = [(METHOD_NAMES[str(run.config.method)], run) for run in runs]
        return (name, *(run.config for run in runs), step), lambda: compare_view(clip, named, step)

    def ask(self) -> Any:
        name, configs = self["clip"], self.configs()
        known = [self.lab.known(name, config) for config in configs]
        if all(known):
            self.take((name, known))  # type: ignore[arg-type]
            return None
        return lambda: (name, self._run(name, configs)), self.take

    def take(self, result: tuple[str, list[Run]]) -> None:
        """Show these runs from now on."""
        self.shown, self.runs = result
        self.end("step", len(self.lab.clip(self.shown).answer) - 1)
