"""Instruments to move by hand, in JupyterLab. Each draws with the function that draws the static figure above it."""

from dycoke_lab.widgets.attention import AttentionExplorer
from dycoke_lab.widgets.comparing import OneShotAgainstDynamic
from dycoke_lab.widgets.finding import ThresholdFinder
from dycoke_lab.widgets.merging import MergeExplorer

__all__ = ["AttentionExplorer", "MergeExplorer", "OneShotAgainstDynamic", "ThresholdFinder"]
