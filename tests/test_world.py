import torch

from dycoke_lab.specimen.world import make_videos


def test_same_seed_same_videos() -> None:
    first, second = (make_videos(2, 3, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first.pixels, second.pixels)
    assert first.pixels.shape == (2, 12, 3, 32, 32)
    assert torch.equal(first.actor.sort(1).values[:, -4:], torch.arange(4).expand(2, -1))
