"""Token layouts: where visual tokens stand, how columns are packed, and that shapes are checked in tests."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError

from dycoke_lab.methods.scores import top
from dycoke_lab.models.token_layout import TokenGrid, lay_out, left_packed, take
from dycoke_lab.runtime.kv_swap import fetch


def test_a_grid_counts_its_tokens():
    grid = TokenGrid(8, 3, 4)
    assert (grid.per_frame, grid.tokens) == (12, 96)


def test_videos_of_one_size_are_grouped():
    one, two = TokenGrid(2, 1, 2), TokenGrid(1, 1, 3)
    videos = [[(one, torch.arange(4)), (two, torch.arange(6, 9))], [(one, torch.arange(3, 7))]]
    layout = lay_out(videos, 10, torch.device("cpu"))
    assert layout.real.sum(1).tolist() == [7, 4] and layout.length == 10
    groups = {grid: (rows.tolist(), numbers.tolist()) for grid, rows, numbers in layout.alike()}
    assert groups == {one: ([0, 1], [[0, 1, 2, 3], [0, 1, 2, 3]]), two: ([0], [[4, 5, 6]])}
    place = layout.place()
    assert place.frame[0].tolist() == [0, 0, 1, 1, 2, 2, 2]  # counted over all videos of a prompt
    assert place.col[0].tolist() == [0, 1, 0, 1, 0, 1, 2]


def test_columns_are_packed_to_the_right():
    keep = torch.tensor([[True, False, True, True], [False, True, False, True]])
    index, real = left_packed(keep)
    assert index[0].tolist() == [0, 2, 3] and index[1, 1:].tolist() == [1, 3]
    assert real.tolist() == [[True] * 3, [False, True, True]]
    assert left_packed(keep[:1])[1] is None
    states = torch.arange(8.0).view(2, 4, 1)
    assert take(states, index)[0, :, 0].tolist() == [0, 2, 3]


def test_wrong_shapes_are_named_in_tests():
    """Else nothing would check what signatures say."""
    with pytest.raises(TypeCheckError, match="candidates"):
        top(torch.rand(2, 3), torch.ones(3, 2, dtype=torch.bool), torch.ones(2, dtype=torch.long))
    with pytest.raises(TypeCheckError, match="store"):
        fetch(torch.rand(2, 3), torch.rand(2, 2, 3, 4), None)
    with pytest.raises(TypeCheckError, match="keep"):
        left_packed(torch.ones(2, 3))
