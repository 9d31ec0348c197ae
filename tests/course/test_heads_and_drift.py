"""Solutions of notebooks 03 to 05 are accepted; stubs and usual mistakes get a hint that names them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.nn.functional import cosine_similarity

from dycoke_lab.course import check
from dycoke_lab.evaluation.blocking import aim_of
from dycoke_lab.methods import Compression
from dycoke_lab.viz.clip_runs import ClipRunner
from dycoke_lab.viz.course_block import (
    changed_words,
    heads_text,
    heads_title,
    scenes_title,
    used_ranks,
)
from dycoke_lab.viz.course_drift import (
    clearest_step,
    clip_aims,
    correlation_of_walk,
    even_aim,
    naming_steps,
    reading_table,
)

SOLUTIONS = Path(__file__).resolve().parents[2] / "notebooks" / "solutions"


def solutions(name):
    path = next(SOLUTIONS.glob(f"{name}_*.py"))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


EXERCISES = {
    "03": ["aim_of_a_head", "pick_the_layer"],
    "04": ["step_cosines", "held_by_the_first_look"],
    "05": ["renormalised"],
}


@pytest.mark.parametrize(
    ("page", "name"), [(page, name) for page, names in EXERCISES.items() for name in names]
)
def test_a_solution_is_right_and_a_stub_is_not(page, name, capsys):
    verdict = getattr(check, name)
    assert verdict(getattr(solutions(page), name))
    assert not verdict(lambda *given: ...)
    assert "Not yet. Write your own" in capsys.readouterr().out


def zeroed(attention, hidden):
    return [0 if n in hidden else value for n, value in enumerate(attention.tolist())]


def softmaxed(attention, hidden):
    attention[hidden] = -torch.inf
    return attention.softmax(0)


def own_top(attention, count):
    return 100 * attention.topk(count, 1).values.sum(1) / attention.sum(1)


def undivided(attention, count):
    return 100 * attention[:, attention[0].topk(count).indices].sum(1)


def from_nought(changed, most):
    fine = [layer for layer, value in enumerate(changed) if value <= most]
    return min(fine) if fine else changed.index(min(changed))


WRONG = [
    ("aim_of_a_head", lambda a, n: 100 * float(a[n].sum()), "Divide by what the video gets"),
    ("aim_of_a_head", lambda a, n: float(a[n].sum() / a.sum()), "wanted in %"),
    ("pick_the_layer", from_nought, "begins with L = 1"),
    ("pick_the_layer", lambda c, m: 1 + c.index(min(c)), "changes least"),
    ("step_cosines", lambda a: (a[1:] * a[:-1]).sum(1), "Divide by both lengths"),
    ("step_cosines", lambda a: cosine_similarity(a[1:], a[:1], dim=1), "compared with step 0"),
    ("held_by_the_first_look", own_top, "each step's own strongest"),
    ("held_by_the_first_look", lambda a, c: own_top(a, c) / 100, "Expected"),
    ("held_by_the_first_look", undivided, "Divide by what the step's tokens get in all"),
    ("renormalised", zeroed, "must sum to 1 again"),
    ("renormalised", softmaxed, "softmax"),
]


@pytest.mark.parametrize(("name", "mistake", "words"), WRONG)
def test_a_mistake_is_named(name, mistake, words, capsys):
    assert not getattr(check, name)(mistake)
    printed = capsys.readouterr().out
    assert printed.startswith("Not yet.") and words in printed


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (..., "Write your own"),
        (7, "Give a list of whole numbers, not int"),
        (["a"], "Give a list of whole numbers"),
        ([], "Steps 4, 9, 14 and 19 are commas or the end"),
        ([True, False], "Give the numbers of the tokens"),
        (torch.zeros(16, 4, 4, dtype=torch.bool), "Give the numbers of the tokens"),
        (torch.zeros(2, 2), "Give a list of whole numbers"),
        ([0, 10**4], r"[10000] are no tokens of this clip, which has 0 to 255"),
        ([0], "No word changes"),
        (range(256), "words change"),
    ],
)
def test_hidden_tokens_that_are_refused(tokens, words, capsys):
    assert not check.one_word(tokens)
    assert words in capsys.readouterr().out


def test_hidden_tokens_that_change_one_word(capsys):
    assert check.one_word(solutions("05").my_tokens)
    assert "Right. Step 6" in capsys.readouterr().out


def test_words_that_changed_or_are_missing():
    assert changed_words(["a", "b"], ["a", "c", "d"]) == [False, True, True]


def test_what_figures_say():
    table = pd.DataFrame({"hidden": [1, 1, 2, 2], "words_of": [1, 2, 1, 2], "changed": [1.0, 0.2, 0.0, 0.8]})
    title = scenes_title([table, table.assign(changed=0.5)]).replace("\n", " ")
    assert "90 % and 50 % of its own" in title and "20 % and 50 % if scene 1 is hidden, else 0 % and" in title
    heads = pd.DataFrame(
        {"aim": [0.1, 0.5, 0.9], "hidden": [0.0, 0.0, 0.0], "alone": [0.9, 0.5, float("nan")]}
    )
    assert used_ranks(heads, "alone") == pytest.approx(-1) and pd.isna(used_ranks(heads, "hidden"))
    assert correlation_of_walk(torch.eye(4).numpy()) == pytest.approx(1)


def test_what_is_unread_by_layer():
    about = {
        "specimen": "s",
        "from_layer": [1.0, 1.0, 1.0],
        "prune_ratio": [0.7, 0.7, 0.9],
        "method": "dynamic",
    }
    diagnosed = pd.DataFrame({**about, "unread": [0.5, 0.7, 0.1], "changed": [0.1, 0.3, 0.9]})
    other = diagnosed.assign(method="uniform", changed=1.0)
    table = reading_table(pd.concat([diagnosed, other, diagnosed.assign(specimen="t")]), "s", 0.7)
    assert table.index.tolist() == [1] and table.iloc[0].tolist() == pytest.approx([60, 20])


def test_what_is_said_of_hidden_heads():
    heads = pd.DataFrame({
        "layer": [0, 1, 1], "head": [3, 0, 1], "aim": [0.1, 0.2, 0.9], "hidden": [0.3, 0.0, 0.0],
        "alone": [float("nan"), 0.8, 0.4],
    })  # fmt: skip
    text = heads_text({"one": heads}, {"one": 1})
    assert (
        "head 3 of layer 0 is missed most (30 % of the words" in text and "is -1.00 if one head alone" in text
    )
    assert heads_title(heads, "one", 1).endswith("leave only one, and at least 40 % do")


def test_steps_and_heads_of_a_clip():
    runner = ClipRunner(0)
    clip, run = runner.clip("constructed-2-scenes.mp4"), runner.run("constructed-2-scenes.mp4", Compression())
    assert naming_steps(clip) == [0, 1, 2, 3, 5, 6, 7, 8]
    by_head, by_mean = clip_aims(runner, "constructed")
    assert by_head.shape == (6, 4) and (by_mean <= by_head.amax(1) + 1e-6).all()
    assert even_aim(clip) < by_head.max()
    best = clearest_step(clip, run, 3, 0)
    aims = [
        float(aim_of(run.trace.attention[s][3, 0, 0], clip.named(s).flatten())) for s in naming_steps(clip)
    ]
    assert run.words[best] == clip.answer[best] and max(aims) == aims[naming_steps(clip).index(best)]
