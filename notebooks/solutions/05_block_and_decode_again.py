"""Solutions of notebook 05."""

from dycoke_lab.viz.clip_runs import ClipRunner


def renormalised(attention, hidden):
    left = attention.clone()
    left[hidden] = 0
    return left / left.sum()


# all tokens that the word of step 6 names: one actor, in every frame of its scene
my_tokens = ClipRunner(0).clip("constructed-4-scenes.mp4").named(6).flatten().nonzero()[:, 0].tolist()
