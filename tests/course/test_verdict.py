"""Checks say right or give a hint, whatever a learner gives them."""

from __future__ import annotations

import pytest
import torch

from dycoke_lab.course import Guess
from dycoke_lab.course.check.verdict import compare, same

CASES = [(torch.tensor([1.0, 3.0]),), (torch.tensor([2.0, 2.0, 5.0]),)]


def total(values):
    return values.sum()


@pytest.mark.parametrize(
    ("yours", "words"),
    [
        (lambda v: float(sum(v.tolist())), "Right. Done."),
        (lambda v: v.cumsum(0)[-1], "Right."),
        (lambda v: ..., "Not yet. Write your own"),
        (lambda v: None, "Not yet. Write your own"),
        (lambda v: v.sum() + 1, "Not yet. Add them."),
        (lambda v: v, "Not yet. Add them."),
        (lambda v: "four", "Not yet. Add them."),
        (lambda v: v[9], "Not yet. Your function raises IndexError"),
        (7, "Not yet. Give the function itself, not int."),
    ],
)
def test_a_verdict(yours, words, capsys):
    found = compare(yours, total, CASES, "Add them.", "Done.")
    printed = capsys.readouterr().out
    assert printed.startswith(words) and found == words.startswith("Right")


def test_a_learner_cannot_change_what_is_compared(capsys):
    def destructive(values):
        values.zero_()
        return 0.0

    assert not compare(destructive, total, CASES, "Add them.")
    assert CASES[0][0].tolist() == [1, 3]


def test_answers_are_alike_by_value():
    assert same((1, 2), torch.tensor([1.0, 2.0])) and same({1}, {1}) and same("a", "a")
    assert not same([1, 2], [2, 1]) and not same("a", 1.0) and not same([1, 2, 3], [1, 2])


def test_a_guess_is_kept_and_shown(capsys):
    guess = Guess("How many?", most=10, unit="tokens")
    guess.answer(4)
    _, slider, row = guess._panel.children
    slider.value = 7
    row.children[0].click()
    guess.answer(4.0)
    assert capsys.readouterr().out.splitlines() == [
        "No guess was kept. It is 4 tokens.",
        "Your guess: 7 tokens. It is 4 tokens.",
    ]
    choice = Guess("Which?", ["a", "b"])
    _, radio, row = choice._panel.children
    row.children[0].click()  # nothing is chosen yet
    assert choice.kept is None
    radio.value = "b"
    row.children[0].click()
    choice.answer("a")
    assert capsys.readouterr().out == "Your guess: b. It is a.\n"
    assert choice._repr_mimebundle_()["text/plain"] == "Guess: Which? (a / b)"
