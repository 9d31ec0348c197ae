"""Solutions of notebook 07."""

import torch


def active_count(retained, prune_ratio):
    return max(1, round((1 - prune_ratio) * retained))


def dynamic_step(scores, before, budget):
    order = sorted(range(len(scores)), key=lambda token: scores[token], reverse=True)
    active = set(order[:budget])
    return active, before - active, active - before


def selects_anew(attention, below):
    close = torch.cosine_similarity(attention[1:], attention[:-1], dim=1)
    return [1, *(step for step, cosine in enumerate(close, 2) if cosine < below)]
