"""Solutions of notebook 12's exercises."""


def pareto_front(points):
    """A point stays if no other one costs no more and has no fewer words, and differs from it."""
    return [
        not any(cost <= own_cost and words >= own_words and (cost, words) != (own_cost, own_words)
                for cost, words in points)
        for own_cost, own_words in points
    ]  # fmt: skip


def told_apart(points, p):
    """All seeds must agree in sign, and two of them must be beyond chance."""
    sure = sum(value < 0.05 for value in p) >= 2
    if sure and all(value > 0 for value in points):
        return "ahead"
    if sure and all(value < 0 for value in points):
        return "behind"
    return "not told apart"
