"""Solutions of notebook 05."""

from dycoke_lab.viz.clip_runs import ClipRunner


def renormalised(attention, hidden):
    left = attention.clone()
    left[hidden] = 0
    return left / left.sum()


def last_layer_that_reads(changed, most):
    return max((layer for layer, value in enumerate(changed) if value > most), default=0)


# all tokens that the word of step 6 names: one actor, in every frame of its scene
my_tokens = ClipRunner(0).clip("constructed-4-scenes.mp4").named(6).flatten().nonzero()[:, 0].tolist()
