"""Understand, check and improve token compression for video LLMs."""

from dycoke_lab._torchvision import ensure_torchvision

ensure_torchvision()  # before transformers first looks for it

from dycoke_lab.apply import DyCoke  # noqa: E402
from dycoke_lab.capture import capture_attention  # noqa: E402
from dycoke_lab.config import DyCokeConfig  # noqa: E402
from dycoke_lab.loading import load_model  # noqa: E402
from dycoke_lab.merge import temporal_merge  # noqa: E402
from dycoke_lab.methods import METHODS  # noqa: E402

__all__ = ["METHODS", "DyCoke", "DyCokeConfig", "capture_attention", "load_model", "temporal_merge"]
