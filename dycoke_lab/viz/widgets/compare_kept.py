"""Compare what 2 to 6 methods keep: the same clip, the same frames, the same step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import ipywidgets as w

from dycoke_lab.methods import METHODS, PUBLISHED, Compression, Merger, compose, label_of
from dycoke_lab.viz.clip_runs import ClipRun, ClipRunner
from dycoke_lab.viz.frames import kept_view
from dycoke_lab.viz.frames.compare_view import scene_frames
from dycoke_lab.viz.frames.kept_view import MOST
from dycoke_lab.viz.widgets.controls import (
    clip_slider,
    layer_slider,
    merge_slider,
    neat,
    prune_slider,
    slider,
    start_at,
)
from dycoke_lab.viz.widgets.panel import Panel

FIRST = ("last_query", "fastv", "random", "dynamic")


class CompareKept(Panel):
    """Kept tokens of 2 to 6 methods side by side on the same frames.

    methods: names in `METHODS`. frame: the first one shown. The frames follow the word: they begin with the
    scene that it names (None), until the slider "frame" is moved.
    """

    def __init__(
        self,
        runner: ClipRunner,
        clip: str,
        methods: Sequence[str] = FIRST,
        merge_ratio: float = 0.0,
        prune_ratio: float = 0.9,
        from_layer: int = 3,
        step: int = 6,
        frame: int | None = None,
    ) -> None:
        self.runner, self.shown = runner, clip
        self.chosen = check(methods)
        here = runner.clip(clip)
        last, count = len(here.answer) - 1, len(here.pixels)
        skipped = {*PUBLISHED, "hindsight"}
        names = [n for n, cls in METHODS.items() if n not in skipped and not issubclass(cls, Merger)]
        options = [(label_of(name), name) for name in dict.fromkeys([*names, *methods])]
        about = f"2 to {MOST} methods: hold Ctrl to choose several; with keys, Shift and an arrow."
        controls = {
            "clip": clip_slider(runner.names),
            "step": slider(w.IntSlider, "step", "The word being written.", min=0, max=last),
            "prune_ratio": prune_slider(least=0.05),
            "merge_ratio": merge_slider(),
            "from_layer": layer_slider(runner.depth(clip)),
            "frame": slider(w.IntSlider, "frame", "The first frame shown.", min=0, max=count - 1),
            "methods": w.SelectMultiple(
                options=options,
                description="methods",
                tooltip=about,
                rows=4,
                layout=w.Layout(width="360px"),
                style={"description_width": "110px"},
            ),
        }
        start_at(controls, clip=clip, step=step, methods=self.chosen, from_layer=from_layer)
        start_at(controls, prune_ratio=prune_ratio, merge_ratio=merge_ratio)
        start_at(controls, frame=scene_frames(here, step)[0] if frame is None else frame)
        self.runs = self._run(clip, self.compressions_of(controls))
        super().__init__("What do the methods keep?", controls, [list(controls)])

    @staticmethod
    def compressions_of(controls: dict[str, Any]) -> list[Compression]:
        """Return the setting of these controls, a compression a method."""
        merge, prune = neat(controls["merge_ratio"].value), neat(controls["prune_ratio"].value)
        layer = controls["from_layer"].value
        return [compose(name, merge, prune, layer) for name in controls["methods"].value]

    def compressions(self) -> list[Compression]:
        """Return the present setting, a compression a method."""
        return self.compressions_of(self.controls)

    def _run(self, name: str, compressions: Iterable[Compression]) -> list[tuple[str, ClipRun]]:
        runs = [self.runner.run(name, compression) for compression in compressions]
        return [(pruning_label(run.compression), run) for run in runs]

    def follow(self, name: str) -> None:
        if name == "methods":
            if 2 <= len(self["methods"]) <= MOST:
                self.chosen = self["methods"]
            else:
                self.put(methods=self.chosen)  # too few or too many: as it was
        clip = self.runner.clip(self["clip"])
        if name == "clip":
            self.end("from_layer", self.runner.depth(self["clip"]) - 1)
            self.end("frame", len(clip.pixels) - 1)
        if name in ("clip", "step"):
            self.put(frame=scene_frames(clip, self["step"])[0])

    def reset(self) -> None:
        self.chosen = self.start["methods"]
        super().reset()

    def draw(self) -> Any:
        return self._picture(self.shown, self.runs, self["step"], self["frame"])

    def upcoming(self) -> Any:
        """Yield the other words, then the other prune ratios, which the model runs for."""
        name, runs, step, frame = self.shown, self.runs, self["step"], self["frame"]
        clip, (merge, layer) = self.runner.clip(name), (neat(self["merge_ratio"]), self["from_layer"])
        for other in range(len(clip.answer)):
            yield self._picture(name, runs, other, scene_frames(clip, other)[0])
        for twentieth in range(1, 20):
            wanted = [compose(method, merge, neat(twentieth / 20), layer) for method in self.chosen]
            yield self._picture(name, self._run(name, self.latest.each(wanted)), step, frame)

    def _picture(self, name: str, runs: list[tuple[str, ClipRun]], step: int, frame: int) -> Any:
        clip = self.runner.clip(name)
        frame = min(frame, len(clip.pixels) - 1)
        key = (name, *(run.compression for _, run in runs), step, frame)
        return key, lambda: kept_view(clip, runs, step, frame)

    def ask(self) -> Any:
        name, compressions = self["clip"], self.compressions()
        if all(self.runner.known(name, compression) for compression in compressions):
            self.take((name, self._run(name, compressions)))
            return None
        return lambda: (name, self._run(name, self.latest.each(compressions))), self.take

    def take(self, result: tuple[str, list[tuple[str, ClipRun]]]) -> None:
        """Show these runs from now on."""
        self.shown, self.runs = result
        self.end("step", len(self.runner.clip(self.shown).answer) - 1)


def check(methods: Sequence[str]) -> tuple[str, ...]:
    """Return these methods' names. Raises ValueError for fewer than 2, more than 6, or unknown ones."""
    if not 2 <= len(methods) <= MOST:
        raise ValueError(f"methods={list(methods)!r} must be from 2 to {MOST} names")
    if unknown := [name for name in methods if name not in METHODS]:
        raise ValueError(f"methods={unknown!r} must be of {', '.join(METHODS)}")
    return tuple(methods)


def pruning_label(compression: Compression) -> str:
    """Return the label of what prunes, without the merging."""
    return label_of(compression.selector or compression.reducer or compression)
