"""The float32 Muon of training against torch's own, which runs in bfloat16."""

from __future__ import annotations

import torch

from dycoke_lab.specimen.muon import Muon, orthogonal


def test_it_makes_the_steps_of_torchs_muon():
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 24), (24, 8), (8, 24), (16, 16)]
    ours = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    pair = (
        Muon(ours, lr=0.01, weight_decay=0.1),
        torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    start = [p.detach().clone() for p in ours]
    for _ in range(4):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        for optimizer in pair:
            optimizer.step()
    for a, b, was in zip(ours, theirs, start, strict=True):
        gone = (b - was).norm()
        assert gone > 0.01
        assert (a - b).norm() / gone < 0.01  # torch's rounds to bfloat16, 8 bits


def test_orthogonal_makes_singular_values_near_one():
    x = torch.randn(3, 6, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values = torch.linalg.svdvals(orthogonal(x))
    assert values.min() > 0.6 and values.max() < 1.3
