"""Compression methods as pure tensor functions, on three seams (base.py), one file each; METHODS has them by
name."""

from dycoke_lab.methods.ablations import DynamicAblation, DynamicMass
from dycoke_lab.methods.base import Compression, Merger, Method, PrefillReducer, Selector
from dycoke_lab.methods.before_llm import EveryNth, FewerFrames, FirstTokens, RandomTokens, SmallerFrames
from dycoke_lab.methods.controls import KeepFirst, KeepNone, Random, Uniform
from dycoke_lab.methods.divprune import DivPrune
from dycoke_lab.methods.dynamic_pruning import DyCoke, Dynamic
from dycoke_lab.methods.evs import EVS
from dycoke_lab.methods.fastv import FastV
from dycoke_lab.methods.fastvid import FastVID
from dycoke_lab.methods.first_step import FirstStep
from dycoke_lab.methods.framefusion import FrameFusion
from dycoke_lab.methods.h2o import H2O
from dycoke_lab.methods.hindsight import Hindsight
from dycoke_lab.methods.holitom import HoliTom
from dycoke_lab.methods.holitom_inner import HoliTomInner
from dycoke_lab.methods.interface import Assignment, LayerState, Place, Step, VideoTokens
from dycoke_lab.methods.last_query import LastQuery
from dycoke_lab.methods.prumerge import PruMergePlus
from dycoke_lab.methods.prunevid import PruneVid
from dycoke_lab.methods.prunevid_inner import PruneVidInner
from dycoke_lab.methods.pyramiddrop import PyramidDrop
from dycoke_lab.methods.pyramidkv import PyramidKV
from dycoke_lab.methods.quest import Quest
from dycoke_lab.methods.reference_code import ReferenceCode
from dycoke_lab.methods.registry import METHODS, PUBLISHED, colour_of, compose, composed, label_of
from dycoke_lab.methods.snapkv import SnapKV
from dycoke_lab.methods.streamingllm import StreamingLLM
from dycoke_lab.methods.sttm import STTM
from dycoke_lab.methods.temporal_merging import TTM, Merged, temporal_merge
from dycoke_lab.methods.tome import ToMe
from dycoke_lab.methods.tova import TOVA
from dycoke_lab.methods.vidcom2 import VidCom2
from dycoke_lab.methods.visionzip import VisionZip

__all__ = [
    "EVS",
    "H2O",
    "METHODS",
    "PUBLISHED",
    "STTM",
    "TOVA",
    "TTM",
    "Assignment",
    "Compression",
    "DivPrune",
    "DyCoke",
    "Dynamic",
    "DynamicAblation",
    "DynamicMass",
    "EveryNth",
    "FastV",
    "FastVID",
    "FewerFrames",
    "FirstStep",
    "FirstTokens",
    "FrameFusion",
    "Hindsight",
    "HoliTom",
    "HoliTomInner",
    "KeepFirst",
    "KeepNone",
    "LastQuery",
    "LayerState",
    "Merged",
    "Merger",
    "Method",
    "Place",
    "PrefillReducer",
    "PruMergePlus",
    "PruneVid",
    "PruneVidInner",
    "PyramidDrop",
    "PyramidKV",
    "Quest",
    "Random",
    "RandomTokens",
    "ReferenceCode",
    "Selector",
    "SmallerFrames",
    "SnapKV",
    "Step",
    "StreamingLLM",
    "ToMe",
    "Uniform",
    "VidCom2",
    "VideoTokens",
    "VisionZip",
    "colour_of",
    "compose",
    "composed",
    "label_of",
    "temporal_merge",
]
