"""Compare what 2 to 6 methods keep: the same clip, the same frames, the same step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import ipywidgets as w

from dycoke_lab.methods import METHODS, Compression, label_of
from dycoke_lab.viz.clip_runs import ClipRun, ClipRunner
from dycoke_lab.viz.equal_tokens import Setting, at_share, is_known, why_not
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

    methods: names in `METHODS`, before the LLM and inside the prefill, too; none whose layers or heads choose
    apart. Each leaves 1 - P of the tokens: its knob is solved on the clip (`equal_tokens`). frame: the first
    one shown. The frames follow the word: they begin with the scene that it names (None), until the slider
    "frame" is moved.
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
        names = [name for name in METHODS if not why_not(name) and not name.startswith("dynamic_")]
        options = [(label_of(name), name) for name in dict.fromkeys([*names, *methods])]
        about = (
            f"2 to {MOST} methods: hold Ctrl to choose several; with keys, Shift and an arrow. Each leaves "
            "1 - P of the tokens; one before the LLM takes the place of temporal merging, so K is not for it."
        )
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
                rows=6,
                layout=w.Layout(width="360px"),
                style={"description_width": "110px"},
            ),
        }
        start_at(controls, clip=clip, step=step, methods=self.chosen, from_layer=from_layer)
        start_at(controls, prune_ratio=prune_ratio, merge_ratio=merge_ratio)
        start_at(controls, frame=scene_frames(here, step)[0] if frame is None else frame)
        values = {name: control.value for name, control in controls.items()}
        self.runs = self._run(clip, settings_of(values))
        super().__init__("What do the methods keep?", controls, [list(controls)])

    def settings(self) -> list[Setting]:
        """Return what the controls say, a setting a method."""
        return settings_of({name: self[name] for name in self.controls})

    def compressions(self) -> list[Compression]:
        """Return the present setting, a compression a method."""
        return [at_share(self.runner, *setting) for setting in self.settings()]

    def _run(self, name: str, settings: Iterable[Setting]) -> list[tuple[str, ClipRun]]:
        runs = [self.runner.run(name, at_share(self.runner, *setting)) for setting in settings]
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
            wanted = [(name, method, merge, neat(twentieth / 20), layer) for method in self.chosen]
            yield self._picture(name, self._run(name, self.latest.each(wanted)), step, frame)

    def _picture(self, name: str, runs: list[tuple[str, ClipRun]], step: int, frame: int) -> Any:
        clip = self.runner.clip(name)
        frame = min(frame, len(clip.pixels) - 1)
        key = (name, *(run.compression for _, run in runs), step, frame)
        return key, lambda: kept_view(clip, runs, step, frame)

    def ask(self) -> Any:
        name, settings = self["clip"], self.settings()
        if all(is_known(self.runner, setting) for setting in settings) and all(
            self.runner.known(name, compression) for compression in self.compressions()
        ):
            self.take((name, self._run(name, settings)))
            return None
        return lambda: (name, self._run(name, self.latest.each(settings))), self.take

    def take(self, result: tuple[str, list[tuple[str, ClipRun]]]) -> None:
        """Show these runs from now on."""
        self.shown, self.runs = result
        self.end("step", len(self.runner.clip(self.shown).answer) - 1)


def check(methods: Sequence[str]) -> tuple[str, ...]:
    """Return these methods' names. Raises ValueError for fewer than 2, more than 6, unknown ones, and those
    that one picture cannot show."""
    if not 2 <= len(methods) <= MOST:
        raise ValueError(f"methods={list(methods)!r} must be from 2 to {MOST} names")
    if unknown := [name for name in methods if name not in METHODS]:
        raise ValueError(f"methods={unknown!r} must be of {', '.join(METHODS)}")
    if reasons := [reason for reason in map(why_not, methods) if reason]:
        raise ValueError(f"methods={list(methods)!r}: {'; '.join(reasons)}")
    return tuple(methods)


def settings_of(values: dict[str, Any]) -> list[Setting]:
    """Return what values of the controls say, a setting a method."""
    merge, prune = neat(values["merge_ratio"]), neat(values["prune_ratio"])
    return [(values["clip"], name, merge, prune, values["from_layer"]) for name in values["methods"]]


def pruning_label(compression: Compression) -> str:
    """Return the label of what prunes, without the merging."""
    return label_of(compression.selector or compression.reducer or compression.merger or compression)
