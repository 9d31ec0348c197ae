"""Exercises of notebook 12."""

from __future__ import annotations

import random
from typing import Any

from dycoke_lab.course.check.verdict import compare

__all__ = ["pareto_front", "told_apart"]


def pareto_front(yours: Any) -> bool:
    """Write `pareto_front(points)`: a list of (cost, words). Return a list of True and False: whether each
    point is on the Pareto front. A point is not, if another one costs no more, has no fewer words right, and
    is better in at least one of the two."""
    draw = random.Random(4)
    cases: list[Any] = [
        ([(10, 60), (20, 80), (30, 70)],), ([(10, 60), (20, 60), (20, 80), (30, 80)],), ([(5, 5), (5, 5)],),
        ([(40, 90), (10, 60), (20, 55), (30, 90)],),
    ]  # fmt: skip
    cases += [([(draw.randint(1, 9), draw.randint(1, 9)) for _ in range(12)],) for _ in range(3)]

    def better(one: Any, other: Any) -> bool:
        return bool(one[0] <= other[0] and one[1] >= other[1] and one != other)

    def reference(points: Any) -> list[bool]:
        return [not any(better(other, point) for other in points) for point in points]

    def hints(found: Any, expected: Any, case: Any) -> str:
        (points,) = case
        if not isinstance(found, list) or len(found) != len(points) or any(x not in (0, 1) for x in found):
            return f"{points}: return a list of {len(points)} truth values, one a point."
        said = f"{points}: you found {found}, expected {expected}."
        both = [not any(a < cost and b > words for a, b in points) for cost, words in points]
        if found == both:
            return f"{said} As many words for less cost is better, too; so is more words for the same."
        alone = [
            not any(a <= c and b >= w for n, (a, b) in enumerate(points) if n != m)
            for m, (c, w) in enumerate(points)
        ]
        if found == alone:
            return f"{said} Two equal points do not beat each other: both stay."
        dear = [not any(a >= c and b >= w and (a, b) != (c, w) for a, b in points) for c, w in points]
        if found == dear:
            return f"{said} Less cost is better."
        return f"{said} Ask of each point whether any other one, wherever it stands in the list, beats it."

    return compare(yours, reference, cases, hints, "What is not on the front is never the line to choose.")


def told_apart(yours: Any) -> bool:
    """Write `told_apart(points, p)`: for each of three seeds, how many points of words a method has more than
    DyCoke, and McNemar's p. Return "ahead" if it has more in all seeds and p is below .05 in at least two;
    "behind" for the reverse; else "not told apart"."""
    cases = [
        ([2.0, 1.5, 3.0], [0.01, 0.03, 0.2]), ([-2.0, -1.5, -3.0], [0.01, 0.03, 0.2]),
        ([2.0, 1.5, 3.0], [0.01, 0.3, 0.2]), ([9.0, 8.0, -0.1], [0.001, 0.001, 0.9]),
        ([2.0, 1.0, 1.0], [0.05, 0.01, 0.4]), ([0.0, 2.0, 2.0], [1.0, 0.01, 0.01]),
        ([-5.0, -4.0, -1.0], [0.001, 0.001, 0.001]), ([-5.0, 4.0, -1.0], [0.001, 0.001, 0.001]),
    ]  # fmt: skip

    def reference(points: list[float], p: list[float]) -> str:
        sure = sum(value < 0.05 for value in p) >= 2
        if sure and min(points) > 0:
            return "ahead"
        return "behind" if sure and max(points) < 0 else "not told apart"

    def hints(found: Any, expected: Any, case: Any) -> str:
        points, p = case
        said = f"points {points}, p {p}: you found {found!r}, expected {expected!r}."
        if found not in ("ahead", "behind", "not told apart"):
            return f'{said} Return "ahead", "behind" or "not told apart".'
        signs = {value > 0 for value in points} | ({None} if 0 in points else set())
        if expected == "not told apart" and len(signs) > 1:
            return f"{said} All seeds must agree in sign; their mean is not asked, and 0 is not more."
        if expected == "not told apart":
            return f"{said} Count the seeds whose p is below .05 (.05 is not below): two are needed."
        if found == "not told apart":
            return f"{said} Two seeds with p below .05 are enough."
        return f"{said} Points are the method's minus DyCoke's."

    return compare(yours, reference, cases, hints, "A lead that one seed lacks is not called a lead.")
