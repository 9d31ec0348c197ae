"""The pictures of the explorers. The static figure above a widget and the widget itself are drawn by the same function.

Each returns a picture of one size, so that nothing jumps while a slider is dragged, in a few milliseconds; any thread may draw.
"""

from dycoke_lab.views.attention import attention_view
from dycoke_lab.views.comparing import compare_view
from dycoke_lab.views.finding import finder_axes, finder_view
from dycoke_lab.views.merging import merge_view
from dycoke_lab.views.page import png

__all__ = ["attention_view", "compare_view", "finder_axes", "finder_view", "merge_view", "png"]
