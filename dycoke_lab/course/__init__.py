"""What the course's notebooks need: guesses before an answer, and checks of exercises."""

from dycoke_lab.course import check
from dycoke_lab.course.guess import Guess

__all__ = ["Guess", "check"]
