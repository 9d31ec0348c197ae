"""Solutions of notebook 04."""

from torch.nn.functional import cosine_similarity


def step_cosines(attention):
    return cosine_similarity(attention[1:], attention[:-1], dim=1)


def held_by_the_first_look(attention, count):
    first = attention[0].topk(count).indices
    return 100 * attention[:, first].sum(1) / attention.sum(1)
