"""The specimens with models so small that a test can build them, and a prompt's inputs by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from dycoke_lab.specimen.families import QWEN2_5_VL, Size
from dycoke_lab.specimen.specimens import SPECIMENS, Specimen
from dycoke_lab.specimen.tasks import Task
from dycoke_lab.specimen.world import Videos


def tiny(name: str, layers: int = 4, **changes: Any) -> Specimen:
    """A specimen of another size. Qwen2.5-VL's three axes need heads of the width that it has."""
    whole = SPECIMENS[name]
    width = 128 if whole.family is QWEN2_5_VL else 32
    return replace(whole, size=Size(2, layers, width, whole.size.tied), **changes)


def inputs_of(specimen: Specimen, videos: Videos, ids: Tensor) -> dict[str, Any]:
    """What a model gets of prompts with these ids, in float64."""
    given = {"input_ids": ids, **Task(specimen, "", videos, ids, ids, ids, ids, []).inputs}
    given["pixel_values_videos"] = given["pixel_values_videos"].double()
    return given
