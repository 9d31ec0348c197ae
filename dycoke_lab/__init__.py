"""Understand, check and improve token compression for video LLMs."""

# ruff: noqa: E402
from dycoke_lab._torchvision import ensure_torchvision

ensure_torchvision()  # before transformers first looks for it

from dycoke_lab import apply as apply  # so that methods can be called with a model
from dycoke_lab.attention.blocking import Block
from dycoke_lab.attention.capture import capture_attention
from dycoke_lab.methods import METHODS, TTM, DyCoke, Dynamic, FastV, temporal_merge
from dycoke_lab.models.loading import load_model

__all__ = [
    "METHODS",
    "TTM",
    "Block",
    "DyCoke",
    "Dynamic",
    "FastV",
    "capture_attention",
    "load_model",
    "temporal_merge",
]
