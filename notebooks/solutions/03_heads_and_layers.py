"""Solutions of notebook 03."""


def aim_of_a_head(attention, named):
    return 100 * float(attention[named].sum() / attention.sum())


def pick_the_layer(changed, most):
    fine = [layer for layer, value in enumerate(changed, start=1) if value <= most]
    return min(fine) if fine else 1 + changed.index(min(changed))
