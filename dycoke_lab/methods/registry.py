"""The methods by name: one line each. `METHODS` prints as a table; a user's own joins by `METHODS["name"] =
Class`."""

from __future__ import annotations

import zlib
from ast import literal_eval
from dataclasses import fields
from typing import Any

from dycoke_lab.methods.ablations import DynamicAblation, DynamicMass
from dycoke_lab.methods.base import Compression, Merger, Method, Selector
from dycoke_lab.methods.before_llm import EveryNth, FewerFrames, FirstTokens, RandomTokens, SmallerFrames
from dycoke_lab.methods.controls import KeepFirst, KeepNone, Random, Uniform
from dycoke_lab.methods.divprune import DivPrune
from dycoke_lab.methods.dynamic_pruning import Dynamic
from dycoke_lab.methods.evs import EVS
from dycoke_lab.methods.fastv import FastV
from dycoke_lab.methods.fastvid import FastVID
from dycoke_lab.methods.first_step import FirstStep
from dycoke_lab.methods.framefusion import FrameFusion
from dycoke_lab.methods.h2o import H2O
from dycoke_lab.methods.hindsight import Hindsight
from dycoke_lab.methods.holitom import HoliTom
from dycoke_lab.methods.holitom_inner import HoliTomInner
from dycoke_lab.methods.last_query import LastQuery
from dycoke_lab.methods.layer_vote import LayerVote
from dycoke_lab.methods.prumerge import PruMergePlus
from dycoke_lab.methods.prunevid import PruneVid
from dycoke_lab.methods.prunevid_inner import PruneVidInner
from dycoke_lab.methods.pyramiddrop import PyramidDrop
from dycoke_lab.methods.pyramidkv import PyramidKV
from dycoke_lab.methods.quest import Quest
from dycoke_lab.methods.reference_code import ReferenceCode
from dycoke_lab.methods.snapkv import SnapKV
from dycoke_lab.methods.streamingllm import StreamingLLM
from dycoke_lab.methods.sttm import STTM
from dycoke_lab.methods.temporal_merging import TTM
from dycoke_lab.methods.tome import ToMe
from dycoke_lab.methods.tova import TOVA
from dycoke_lab.methods.vidcom2 import VidCom2
from dycoke_lab.methods.visionzip import VisionZip

FULL = "full"  # no method at all
SPARE_COLOURS = ("#7f3c8d", "#11a579", "#3969ac", "#f2b701", "#e73f74", "#80ba5a", "#e68310", "#008695")


class Registry(dict[str, type[Method]]):
    """Method classes by name."""

    def __setitem__(self, name: str, method: type[Method]) -> None:
        if not (isinstance(method, type) and issubclass(method, Method)):
            raise TypeError(
                f"METHODS[{name!r}] must be a class with Merger, PrefillReducer or Selector as its base"
            )
        super().__setitem__(name, method)

    def table(self) -> Any:
        """Return a DataFrame: name, paper, seam, needs, can return."""
        import pandas as pd

        return pd.DataFrame([
            {"name": name, "paper": cls.paper, "seam": cls.seam, "needs": ", ".join(sorted(cls.needs)),
             "can return": ("yes" if cls.can_return else "no") if issubclass(cls, Selector) else ""}
            for name, cls in self.items()
        ])  # fmt: skip

    def __repr__(self) -> str:
        return str(self.table().to_string(index=False))

    def _repr_html_(self) -> str:
        return str(self.table().to_html(index=False))


METHODS = Registry(
    {
        "ttm": TTM,
        "dynamic": Dynamic,
        "layer_vote": LayerVote,
        "first_step": FirstStep,
        "reference_code": ReferenceCode,
        "last_query": LastQuery,
        "fastv": FastV,
        "random": Random,
        "uniform": Uniform,
        "keep_first": KeepFirst,
        "keep_none": KeepNone,
        "hindsight": Hindsight,
    }
)
CORE = tuple(METHODS)
METHODS.update({
    # before the LLM
    "visionzip": VisionZip, "prumerge": PruMergePlus, "vidcom2": VidCom2, "evs": EVS, "divprune": DivPrune,
    "tome": ToMe, "fastvid": FastVID, "prunevid": PruneVid, "holitom": HoliTom,
    "fewer_frames": FewerFrames, "smaller_frames": SmallerFrames, "random_tokens": RandomTokens,
    "every_nth": EveryNth, "first_tokens": FirstTokens,
    # inside the prefill
    "pyramiddrop": PyramidDrop, "framefusion": FrameFusion, "holitom_inner": HoliTomInner,
    "prunevid_inner": PruneVidInner, "sttm": STTM,
    # on the KV cache
    "snapkv": SnapKV, "tova": TOVA, "h2o": H2O, "streamingllm": StreamingLLM, "pyramidkv": PyramidKV,
    "quest": Quest, "dynamic_ablation": DynamicAblation, "dynamic_mass": DynamicMass,
})  # fmt: skip
# in the matrix, not in the other grids and in quick comparisons, which have DyCoke, its parts, and controls
PUBLISHED = tuple(name for name in METHODS if name not in CORE)


def compose(
    method: str, merge_ratio: float = 0.0, prune_ratio: float = 0.0, from_layer: int = 3,
    threshold: float | None = None, **others: Any,
) -> Compression:  # fmt: skip
    """Return temporal merging by a ratio or a threshold, and then the selector or reducer of this name.

    "full" is the full cache (of what merging retains). others: other parameters of the method. Raises
    ValueError for an unknown name, and what the methods raise for their parameters.

    >>> compose("fastv", prune_ratio=0.5, from_layer=2)
    FastV(prune_ratio=0.5, from_layer=2)
    """
    if method != FULL and method not in METHODS:
        raise ValueError(f"method={method!r} must be one of {', '.join([FULL, *METHODS])}")
    if threshold is not None and merge_ratio:
        raise ValueError(f"give either merge_ratio={merge_ratio} or threshold={threshold}, not both")
    merging = Compression()
    if threshold is not None or merge_ratio:
        merging = Compression.of(TTM(threshold=threshold) if threshold is not None else TTM(merge_ratio))
    if method == FULL or (METHODS[method] is TTM and merging.parts):
        return merging
    if issubclass(METHODS[method], Merger):
        return Compression.of(METHODS[method](**others))
    given = {"prune_ratio": prune_ratio, "from_layer": from_layer}
    known = METHODS[method].__dataclass_fields__  # type: ignore[attr-defined]
    return merging + METHODS[method](**{name: given[name] for name in given if name in known}, **others)


def composed(
    text: str, merge_ratio: float = 0.0, prune_ratio: float = 0.0, from_layer: int = 3
) -> Compression:
    """Return what a text says: one name, as `compose` takes it; or methods with "+" between them, each with
    fields of its own after a colon.

    K, P and L stand for the fields that the text leaves out. Raises ValueError for an unknown name or field.

    >>> composed("visionzip: dominant=0.2 + dynamic", prune_ratio=0.5, from_layer=8).selector
    Dynamic(prune_ratio=0.5, from_layer=8, reselect_below=0.9, inactive='device')
    """
    if "+" not in text and ":" not in text:
        return compose(text.strip(), merge_ratio, prune_ratio, from_layer)
    common = {"merge_ratio": merge_ratio, "prune_ratio": prune_ratio, "from_layer": from_layer}
    found = Compression()
    for part in text.split("+"):
        name, _, settings = (piece.strip() for piece in part.partition(":"))
        if name not in METHODS:
            raise ValueError(f"method={name!r} must be one of {', '.join(METHODS)}")
        known = {field.name for field in fields(METHODS[name]) if field.init}  # type: ignore[arg-type]
        given = {key: value for key, value in common.items() if key in known}
        for setting in filter(None, (piece.strip() for piece in settings.split(","))):
            key, _, value = (piece.strip() for piece in setting.partition("="))
            if key not in known:
                raise ValueError(f"{name} has no field {key!r}: it has {', '.join(sorted(known))}")
            try:
                given[key] = literal_eval(value)
            except (SyntaxError, ValueError):
                raise ValueError(f"{key}={value} of {name} is no number, name in quotes, or None") from None
        found = found + METHODS[name](**given)
    return found


def label_of(method: str | type[Method] | Method | Compression) -> str:
    """Return what a method is called in figures and tables: its label, or the name of its class."""
    if isinstance(method, Compression):
        return method.label
    if method == FULL:
        return "full cache"
    if isinstance(method, str):
        if method not in METHODS:
            return method
        method = METHODS[method]
    cls = method if isinstance(method, type) else type(method)
    return cls.label or cls.__name__


def colour_of(method: str | type[Method] | Method) -> str:
    """Return a method's colour; one that has none gets a spare one by its name, always the same."""
    if method == FULL:
        return "#000000"
    found = METHODS.get(method) if isinstance(method, str) else method
    colour = getattr(found, "colour", "")
    return colour or SPARE_COLOURS[zlib.crc32(label_of(method).encode()) % len(SPARE_COLOURS)]
