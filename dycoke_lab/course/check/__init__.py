"""Checks of the course's exercises: `check.name(yours)` says "Right", or gives a hint. They test what an
answer does, not how it is written."""

from dycoke_lab.course.check.evidence_and_cost import *  # noqa: F403
from dycoke_lab.course.check.heads_and_drift import *  # noqa: F403
from dycoke_lab.course.check.merging_and_pruning import *  # noqa: F403
from dycoke_lab.course.check.tokens_and_attention import *  # noqa: F403
from dycoke_lab.course.check.which_method import *  # noqa: F403
