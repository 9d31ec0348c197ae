"""Solutions of notebook 03."""


def aim_of_a_head(attention, named):
    return 100 * float(attention[named].sum() / attention.sum())


def mean_and_best(attention, named):
    aims = [aim_of_a_head(head, named) for head in attention]
    return aim_of_a_head(attention.mean(0), named), max(aims)


def pick_the_layer(changed, most):
    fine = [layer for layer, value in enumerate(changed, start=1) if value <= most]
    return min(fine) if fine else 1 + changed.index(min(changed))
