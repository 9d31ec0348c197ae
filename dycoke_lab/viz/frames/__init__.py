"""Draw the pictures of the explorers. The static figure above a widget and the widget use the same function.

Each returns, in a few milliseconds, a picture of one size for a clip, so that nothing jumps while a slider is
dragged; it knows what of it can be clicked (`places`).
Any thread may draw.
"""

from dycoke_lab.viz.frames.attention_view import attention_view
from dycoke_lab.viz.frames.block_view import block_view
from dycoke_lab.viz.frames.compare_view import compare_view
from dycoke_lab.viz.frames.head_view import head_view
from dycoke_lab.viz.frames.kept_view import kept_view
from dycoke_lab.viz.frames.merge_view import merge_view
from dycoke_lab.viz.frames.page import places, png
from dycoke_lab.viz.frames.threshold_view import finder_axes, finder_view

__all__ = [
    "attention_view",
    "block_view",
    "compare_view",
    "finder_axes",
    "finder_view",
    "head_view",
    "kept_view",
    "merge_view",
    "places",
    "png",
]
