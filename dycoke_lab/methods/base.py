"""The three places where a method can act, each with one small base class, and their composition.

Merger: between vision tower and decoder layer 0. Which visual tokens are retained, merged away or dropped?
PrefillReducer: before chosen decoder layers, inside the prefill. The same question.
Selector: on the KV cache, after the prefill and at decoding steps. Which visual tokens are active?

A method is a frozen dataclass: its parameters are the fields, what kind it is are class attributes. Methods
of different seams compose by `+`, and are switched on with a model:
`with (TTM(0.7) + Dynamic(0.7))(model): ...`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, Literal

from jaxtyping import Bool, Int
from torch import Tensor

from dycoke_lab.methods.interface import Assignment, LayerState, Step, VideoTokens
from dycoke_lab.methods.scores import retained_budget

SCOPES = ("shared", "layer", "head")
ABOVE = "attention above"  # of the pruned layers, at the prompt's last token; for a choice that is shared


@dataclass(frozen=True)
class Method:
    """Base of the three seams. label, colour: in figures and tables. paper: where it is published. needs:
    what is given to it only if asked for. knob: the field that decides how many tokens survive; knob_range:
    its values, between which the number rises or falls throughout."""

    label: ClassVar[str] = ""
    colour: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]] = frozenset()
    seam: ClassVar[str] = ""
    knob: ClassVar[str] = ""
    knob_range: ClassVar[tuple[float, float]] = (0.005, 1.0)

    @property
    def off(self) -> bool:
        """Whether these parameters change nothing, so that the model is left as it is."""
        return False

    @property
    def shipped(self) -> bool:
        """Whether it is the library's own: its choices are tested, and not checked again at each step."""
        return type(self).__module__.startswith("dycoke_lab.")

    def __add__(self, other: Method | Compression) -> Compression:
        return Compression.of(self) + other

    def __call__(self, model: Any) -> Any:
        """Return a context in which every generation of this model is compressed."""
        return Compression.of(self)(model)

    def __enter__(self) -> None:
        raise TypeError(
            f"{type(self).__name__} has no model yet: write `with {type(self).__name__}(...)(model):`"
        )

    def __exit__(self, *_: Any) -> None: ...


class Merger(Method, ABC):
    """Acts between vision tower and decoder layer 0."""

    seam: ClassVar[str] = "merger"
    positions: Literal["original", "repacked"] | Any = "original"

    @abstractmethod
    def merge(self, video: VideoTokens) -> Assignment:
        """Return what becomes of each token, numbered (frame * rows + row) * cols + col."""


@dataclass(frozen=True)
class _Pruning(Method):
    """prune_ratio: P, the share of the candidates to prune, from 0 to below 1. from_layer: L, the first layer
    with fewer tokens."""

    prune_ratio: float = 0.7
    from_layer: int = 3

    knob: ClassVar[str] = "prune_ratio"
    knob_range: ClassVar[tuple[float, float]] = (0.0, 0.999)
    first_layer: ClassVar[int] = 1  # the lowest from_layer: the layer below is the one that scores

    def __post_init__(self) -> None:
        if not isinstance(self.prune_ratio, Real) or not 0 <= self.prune_ratio < 1:
            raise ValueError(f"prune_ratio={self.prune_ratio!r} must be at least 0 and below 1")
        if type(self.from_layer) is not int or self.from_layer < self.first_layer:
            why = (
                ": layer 0 is never pruned, since the layer below from_layer scores"
                if self.first_layer
                else ""
            )
            raise ValueError(
                f"from_layer={self.from_layer!r} must be a whole number from {self.first_layer}{why}"
            )

    @property
    def off(self) -> bool:
        return self.prune_ratio == 0

    def budget(self, candidates: Bool[Tensor, "*rows visual"]) -> Int[Tensor, "*rows"]:
        """Return how many tokens to keep of those that merging retained."""
        return retained_budget(candidates, self.prune_ratio)


class PrefillReducer(_Pruning, ABC):
    """Acts inside the prefill, before chosen decoder layers; what it drops is gone for all layers from there
    on.

    first_layer: the lowest layer before which it may act; 0 for one that then needs no scores.
    window: how many of the prompt's last queries `state.window_attention` holds; "text": all that follow the
        last video.
    """

    seam: ClassVar[str] = "prefill reducer"
    needs: ClassVar[frozenset[str]] = frozenset({"attention"})
    window: ClassVar[int | Literal["text"]] = 1

    def layers(self, depth: int) -> Sequence[int]:
        """Return the layers before which `reduce` is asked, of a model with so many decoder layers."""
        return [self.from_layer]

    @abstractmethod
    def reduce(self, state: LayerState) -> Assignment | None:
        """Return what becomes of each visual token from this layer on; None changes nothing."""


class Selector(_Pruning, ABC):
    """Acts on the KV cache of the layers from `from_layer` on.

    can_return: tokens that are not selected stay inactive, and can be selected later; else they are evicted.
    every_step: `select` is asked at every decoding step; else no more once it has chosen.
    fixed_budget: it always selects as many as `budget` says; else each selection is counted, for which a GPU
        must be waited for.
    scope: one choice "shared" by all pruned layers, made by the attention of layer from_layer - 1 before they
        attend; or one for each "layer", or for each key "head" of each layer, made by the layer's own
        attention, which takes effect at the next step.
    answer_counts: with eviction, whether each step takes one token from the budget, down to 1, so that the
        cache keeps its size as the answer grows.
    window: how many of the prompt's last queries `step.window_attention` holds.
    layers_below: how many layers below from_layer score, for a choice that is shared; `step.scores` is the
        mean of their attention, `step.by_layer` has each.
    """

    seam: ClassVar[str] = "selector"
    needs: ClassVar[frozenset[str]] = frozenset({"attention"})
    can_return: ClassVar[bool] = False
    every_step: ClassVar[bool] = False
    fixed_budget: ClassVar[bool] = True
    answer_counts: bool | Any = False
    scope: ClassVar[Literal["shared", "layer", "head"]] = "shared"
    window: ClassVar[int] = 1
    layers_below: ClassVar[int] = 1
    inactive: Any = "device"  # where tokens that can return are meanwhile: "device", "offload" or "evict"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.scope not in SCOPES:
            raise TypeError(f"{cls.__name__}.scope={cls.scope!r} must be one of {', '.join(SCOPES)}")
        if cls.can_return and cls.scope != "shared":
            raise TypeError(
                f"{cls.__name__}: tokens can return (can_return=True) only with scope='shared': a layer's "
                "own attention is known when the layer has attended, and inactive tokens have none in it"
            )
        if ABOVE in cls.needs and cls.scope != "shared":
            raise TypeError(f"{cls.__name__} needs {ABOVE!r}, which a choice with scope='shared' alone gets")
        cls.first_layer = 1 if cls.scope == "shared" else 0

    @abstractmethod
    def select(self, step: Step) -> Bool[Tensor, "*rows visual"] | None:
        """Return the tokens to attend to from this step on, some of the candidates; None changes nothing."""

    def budget_in(
        self, candidates: Bool[Tensor, "*rows visual"], layer: int, pruned: Sequence[int]
    ) -> Int[Tensor, "*rows"]:
        """Return how many tokens to keep in this layer, one of the pruned ones (the first, if the choice is
        shared)."""
        return self.budget(candidates)

    @property
    def scoring(self) -> range:
        """The layers whose attention scores, for a choice that is shared."""
        return range(max(0, self.from_layer - self.layers_below), self.from_layer)

    @property
    def evicts(self) -> bool:
        return not self.can_return or self.inactive == "evict"


@dataclass(frozen=True, repr=False)
class Compression:
    """At most one method of each seam. `a + b` makes one; `with compression(model): ...` switches it on."""

    merger: Merger | None = None
    reducer: PrefillReducer | None = None
    selector: Selector | None = None

    open: ClassVar[Callable[[Compression, Any], Any]]  # set by dycoke_lab.apply, which methods do not import

    @classmethod
    def of(cls, part: Method | Compression) -> Compression:
        """Return a composition of one method, or the composition itself."""
        if isinstance(part, Compression):
            return part
        for name, seam in (("merger", Merger), ("reducer", PrefillReducer), ("selector", Selector)):
            if isinstance(part, seam):
                return cls(**{name: part})  # type: ignore[arg-type]
        raise TypeError(
            f"{part!r} is no Merger, PrefillReducer, Selector or Compression: only those can be composed"
        )

    @property
    def parts(self) -> tuple[Method, ...]:
        return tuple(part for part in (self.merger, self.reducer, self.selector) if part is not None)

    def __add__(self, other: Method | Compression) -> Compression:
        other = Compression.of(other)
        for name in ("merger", "reducer", "selector"):
            one, two = getattr(self, name), getattr(other, name)
            if one is not None and two is not None:
                raise ValueError(f"{one!r} and {two!r} act in the same place ({one.seam}): give one of them")
        return Compression(
            self.merger or other.merger, self.reducer or other.reducer, self.selector or other.selector
        )

    def __call__(self, model: Any) -> Any:
        """Return a context in which every generation of this model is compressed (`dycoke_lab.apply`)."""
        return Compression.open(self, model)

    def __enter__(self) -> None:
        raise TypeError("a compression has no model yet: write `with compression(model):`")

    def __exit__(self, *_: Any) -> None: ...

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.parts)) or "Compression()"

    @property
    def off(self) -> bool:
        """Whether no part changes anything."""
        return all(part.off for part in self.parts)

    @property
    def on(self) -> Compression:
        """The parts that change something."""
        parts = (
            None if part is None or part.off else part for part in (self.merger, self.reducer, self.selector)
        )
        return Compression(*parts)  # type: ignore[arg-type]

    @property
    def label(self) -> str:
        return " + ".join(part.label or type(part).__name__ for part in self.parts) or "full cache"

    @property
    def merge_ratio(self) -> float:
        """K of temporal merging; 0 without it, or with a threshold."""
        return float(getattr(self.merger, "merge_ratio", None) or 0.0)

    @property
    def prune_ratio(self) -> float:
        """P of the selector or the reducer; 0 without either."""
        part = self.selector or self.reducer
        return float(part.prune_ratio) if part else 0.0

    @property
    def from_layer(self) -> int:
        """L, the first pruned layer. ValueError if nothing prunes."""
        part = self.selector or self.reducer
        if part is None:
            raise ValueError(f"{self!r} prunes nothing: it has no from_layer")
        return part.from_layer
