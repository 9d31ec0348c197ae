"""Hide a part of a clip and have the answer decoded again: is what is attended to also used?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import ipywidgets as w

from dycoke_lab.attention.blocking import Block
from dycoke_lab.methods import Compression
from dycoke_lab.viz.clip_runs import Clip, ClipRun, ClipRunner
from dycoke_lab.viz.frames import block_view
from dycoke_lab.viz.frames.page import Hit
from dycoke_lab.viz.widgets.controls import buttons, call, chooser, clip_slider, ranges, slider, start_at
from dycoke_lab.viz.widgets.panel import Panel

ALL = "all heads"
UNITS = {
    "frame": "A frame",
    "scene": "All frames of a scene",
    "thing": "One thing, in all frames of its scene",
    "token": "A visual token",
}


class BlockExplorer(Panel):
    """A click hides a frame, a scene, a thing or a token from layer L on, or shows it again. The answer is
    decoded again, and changed words are marked. By keys: sliders choose a token, a button hides it.

    hidden: visual tokens, (frame * rows + row) * cols + col, hidden at the start. head: the only one that
    does not see them. frame, token: where the keys act, token counted within the frame.
    """

    def __init__(
        self,
        runner: ClipRunner,
        clip: str,
        hidden: Iterable[int] = (),
        from_layer: int = 0,
        head: int | str = ALL,
        unit: str = "frame",
        step: int = 0,
        frame: int = 0,
        token: int = 0,
    ) -> None:
        self.runner, self.shown, self.first = runner, clip, frozenset(hidden)
        self.hidden, self.history = self.first, list[frozenset[int]]()
        here, depth = runner.clip(clip), runner.depth(clip)
        frames, tokens = here.features.shape[:2]
        if wrong := sorted(number for number in self.hidden if not 0 <= number < frames * tokens):
            raise ValueError(f"hidden={wrong!r} must be whole numbers from 0 to {frames * tokens - 1}")
        heads = [ALL, *range(runner.model(clip).config.get_text_config().num_attention_heads)]
        steps = dict(min=0, max=len(here.answer) - 1)
        where, keys = "Layers from L on do not see what is hidden.", "Where “Hide or show it” acts."
        controls = {
            "clip": clip_slider(runner.names),
            "step": slider(w.IntSlider, "step", "The word whose tokens are outlined.", **steps),
            "unit": buttons("a click hides", UNITS, "65px"),
            "head": chooser("hidden from", "One attention head, or all.", heads),
            "from_layer": slider(w.IntSlider, "from_layer L", where, min=0, max=depth - 1),
            "frame": slider(w.IntSlider, "frame", keys, min=0, max=frames - 1),
            "token": slider(w.IntSlider, "token of the frame", keys, min=0, max=tokens - 1),
        }
        start_at(controls, clip=clip, step=step, unit=unit, head=head, from_layer=from_layer)
        start_at(controls, frame=frame, token=token)
        self.block = block_of(here, self.hidden, from_layer, None if head == ALL else int(head))
        self.base, self.run = self._run(clip, self.block)
        about = "Hide what the sliders frame and token choose, or show it again"
        act = [
            _button("Hide or show it", "eye-slash", about, lambda: self.toggle(self.cursor())),
            _button("Undo", "reply", "Take back the last change of what is hidden", self.undo),
        ]
        super().__init__("Block and decode again", controls, [list(controls)], {"clip": act})

    def cursor(self) -> int:
        """Return the token that the sliders choose."""
        return int(self["frame"] * self.runner.clip(self["clip"]).features.shape[1] + self["token"])

    def clicked(self, found: Hit) -> None:
        if found.what != "frame" or self.shown != self["clip"]:  # the other clip is on its way
            super().clicked(found)
            return
        side = self.runner.clip(self.shown).side
        self.put(frame=found.number, token=int(found.down * side) * side + int(found.across * side))
        self.toggle(self.cursor())

    def toggle(self, token: int) -> None:
        """Hide what this token is part of, or show it again if all of it is hidden."""
        with self.lock:
            part = part_of(self.runner.clip(self["clip"]), token, self["unit"])
            self.history.append(self.hidden)
            self.hidden = self.hidden - part if part <= self.hidden else self.hidden | part
            self.refresh()

    def undo(self) -> None:
        """Take back the last change of what is hidden."""
        with self.lock:
            if self.history:
                self.hidden = self.history.pop()
                self.refresh()

    def follow(self, name: str) -> None:
        if name == "clip":
            frames, tokens = self.runner.clip(self["clip"]).features.shape[:2]
            self.end("frame", frames - 1)
            self.end("token", tokens - 1)
            self.end("from_layer", self.runner.depth(self["clip"]) - 1)
            self.hidden = frozenset()  # another clip's tokens have other numbers
            self.history.clear()

    def reset(self) -> None:
        with self.lock:
            self.hidden = self.first
            self.history.clear()
            super().reset()

    def hiding(self) -> Block | None:
        """Return what is hidden now; None for nothing."""
        head = None if self["head"] == ALL else self["head"]
        return block_of(self.runner.clip(self["clip"]), self.hidden, self["from_layer"], head)

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "hidden": ranges(self.hidden) if self.hidden else ()}

    def code(self) -> str:
        return code_of(self.hiding())

    def draw(self) -> Any:
        clip, step, cursor = self.runner.clip(self.shown), self["step"], None
        if self.shown == self["clip"]:
            cursor = self.cursor()
        key = (self.shown, self.block, step, cursor)
        base, run, block = self.base, self.run, self.block
        return key, lambda: block_view(clip, base, run, block, step, cursor)

    def ask(self) -> Any:
        name, block = self["clip"], self.hiding()
        known = self.runner.known(name, block or Compression())
        base = self.runner.known(name, Compression())
        if known and base:
            self.take((name, block, base, known))
            return None
        return lambda: (name, block, *self._run(name, block)), self.take

    def _run(self, name: str, block: Block | None) -> tuple[ClipRun, ClipRun]:
        base = self.runner.run(name, Compression())
        return base, self.runner.blocked(name, block) if block else base

    def take(self, result: tuple[str, Block | None, ClipRun, ClipRun]) -> None:
        """Show this answer from now on."""
        self.shown, self.block, self.base, self.run = result
        self.end("step", len(self.runner.clip(self.shown).answer) - 1)


def part_of(clip: Clip, token: int, unit: str) -> frozenset[int]:
    """Return the visual tokens of the frame, scene or thing that a token is part of. unit: of `UNITS`."""
    size = clip.features.shape[1]
    frame = token // size
    if unit == "token":
        return frozenset([token])
    if unit == "thing":
        return frozenset(clip.thing(token))
    frames = [frame] if unit == "frame" else (clip.scene == clip.scene[frame]).nonzero()[:, 0].tolist()
    return frozenset(number * size + place for number in frames for place in range(size))


def block_of(clip: Clip, hidden: frozenset[int], from_layer: int, head: int | None) -> Block | None:
    """Return the block that hides these visual tokens, whole frames by their numbers; None if there are
    none."""
    if not hidden:
        return None
    size = clip.features.shape[1]
    whole = [f for f in range(len(clip.features)) if hidden.issuperset(range(f * size, (f + 1) * size))]
    tokens = sorted(token for token in hidden if token // size not in whole)
    return Block(whole, tokens, None if head is None else [head], from_layer)


def code_of(block: Block | None) -> str:
    """Return a block as Python, without what it has by default."""
    fields: dict[str, Sequence[int] | int | None] = {} if block is None else vars(block)
    given = {name: value for name, value in fields.items() if value not in ((), None)}
    return "None" if block is None else call("Block", **given)


def _button(text: str, icon: str, about: str, act: Callable[[], None]) -> w.Button:
    button = w.Button(description=text, icon=icon, tooltip=about)
    button.on_click(lambda _: act())
    return button
