"""Offer instruments for JupyterLab. Each draws with the function that draws the static figure above it."""

from dycoke_lab.viz.widgets.attention_explorer import AttentionExplorer
from dycoke_lab.viz.widgets.block_explorer import BlockExplorer
from dycoke_lab.viz.widgets.compare_kept import CompareKept
from dycoke_lab.viz.widgets.head_map import HeadMap
from dycoke_lab.viz.widgets.merge_explorer import MergeExplorer
from dycoke_lab.viz.widgets.one_shot_vs_dynamic import OneShotVsDynamic
from dycoke_lab.viz.widgets.threshold_finder import ThresholdFinder

__all__ = [
    "AttentionExplorer",
    "BlockExplorer",
    "CompareKept",
    "HeadMap",
    "MergeExplorer",
    "OneShotVsDynamic",
    "ThresholdFinder",
]
