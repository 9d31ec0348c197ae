"""Compression methods as pure tensor functions, on three seams (base.py), one file each; METHODS has them by
name."""

from dycoke_lab.methods.base import Compression, Merger, Method, PrefillReducer, Selector
from dycoke_lab.methods.controls import KeepFirst, KeepNone, Random, Uniform
from dycoke_lab.methods.dynamic_pruning import DyCoke, Dynamic
from dycoke_lab.methods.fastv import FastV
from dycoke_lab.methods.first_step import FirstStep
from dycoke_lab.methods.hindsight import Hindsight
from dycoke_lab.methods.interface import Assignment, LayerState, Place, Step, VideoTokens
from dycoke_lab.methods.last_query import LastQuery
from dycoke_lab.methods.reference_code import ReferenceCode
from dycoke_lab.methods.registry import METHODS, PUBLISHED, colour_of, compose, label_of
from dycoke_lab.methods.temporal_merging import TTM, Merged, temporal_merge

__all__ = [
    "METHODS",
    "PUBLISHED",
    "TTM",
    "Assignment",
    "Compression",
    "DyCoke",
    "Dynamic",
    "FastV",
    "FirstStep",
    "Hindsight",
    "KeepFirst",
    "KeepNone",
    "LastQuery",
    "LayerState",
    "Merged",
    "Merger",
    "Method",
    "Place",
    "PrefillReducer",
    "Random",
    "ReferenceCode",
    "Selector",
    "Step",
    "Uniform",
    "VideoTokens",
    "colour_of",
    "compose",
    "label_of",
    "temporal_merge",
]
