"""Solutions of notebook 11's exercises."""

import torch

from dycoke_lab.methods import Selector
from dycoke_lab.methods.scores import top


class EverySecond(Selector):
    """Number the candidates, not the places; with P = 0.5 those with even numbers are the budget."""

    def select(self, step):
        number = step.candidates.cumsum(1) - 1
        return step.candidates & (number % 2 == 0)


class RunningSum(Selector):
    """Remember in step.memory: it lasts for one answer."""

    every_step = True
    can_return = True

    def select(self, step):
        step.memory["sum"] = step.memory.get("sum", 0) + step.scores
        return top(step.memory["sum"], step.candidates, step.budget)


class Spread(Selector):
    """Beats FastV with one choice: every frame gets its share, ranked by the prompt's last eight queries."""

    window = 8

    def select(self, step):
        votes = step.window_attention.sum((1, 2))  # over heads and queries
        frame = step.place.frame
        of_frame = torch.zeros_like(votes).scatter_add(1, frame, votes).gather(1, frame)
        return top(votes / of_frame.clamp(min=1e-9), step.candidates, step.budget)
