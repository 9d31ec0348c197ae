"""Methods from a folder are ranked, and what fails is named."""

from __future__ import annotations

import pytest

from dycoke_lab.course.leaderboard import rank
from dycoke_lab.course.own_files import methods_in
from dycoke_lab.evaluation.fidelity import class_from
from dycoke_lab.methods import METHODS, LastQuery, Uniform

ONE = "from dycoke_lab.methods import LastQuery"
FILES = {
    "anna": """
from __future__ import annotations
from dataclasses import dataclass
from typing import ClassVar
from dycoke_lab.methods import METHODS, LastQuery, Selector
from dycoke_lab.methods.scores import top

@dataclass(frozen=True)
class Anna(Selector):
    power: float = 1.0
    window: ClassVar[int] = 4

    def select(self, step):
        return top(step.scores**self.power, step.candidates, step.budget)

METHODS["uniform"] = Anna
""",
    "bert": "from dycoke_lab.methods import Selector\nraise ZeroDivisionError('by\\nzero')",
    "carl": "import sys; sys.exit(3)",
    "dora": ONE,
    "emil": f"{ONE}\n\n\nclass Emil(LastQuery): ...\n\n\nclass Other(LastQuery): ...\n",
    "fred": f"{ONE}\n\n\nclass Fred(LastQuery):\n    def select(self, step):\n        return 1 / 0\n",
    "gina": "class Gina(:",
    "hans": "from dycoke_lab.methods import TTM\n\n\nclass Hans(TTM): ...\n",
    "iris": f"{ONE}\n\n\nclass Iris(LastQuery):\n    fixed_budget = False\n\n"
    "    def select(self, step):\n        return step.candidates\n",
    "_notes": "raise ValueError",
}


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def test_methods_are_read_from_a_folder_whatever_else_is_in_it(folder, tmp_path):
    known = dict(METHODS)
    found, wrong = methods_in(folder)
    assert list(found) == ["anna", "fred", "hans", "iris"] and dict(METHODS) == known
    assert wrong["bert"] == "raises ZeroDivisionError: by zero" and wrong["carl"] == "raises SystemExit: 3"
    assert "not none" in wrong["dora"] and "not Emil, Other" in wrong["emil"]
    assert wrong["gina"].startswith("raises SyntaxError")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no"):
        methods_in(tmp_path / "empty")


def test_a_method_file_may_be_a_dataclass_with_written_types(folder):
    """As `dycoke-lab fidelity --method my.py:Class` reads it: dataclasses look their module up."""
    assert class_from(f"{folder / 'anna.py'}:Anna")[0] == "Anna"
    METHODS["uniform"] = Uniform  # what the file has put in its place


@pytest.mark.slow
def test_a_folder_is_ranked_and_what_fails_is_named(folder):
    table = rank(folder, videos=4, worlds=("constructed",)).set_index("method")
    assert set(table.index) >= {"anna", "one-shot, FastV", "random", "uniform", "no video from L on"}
    placed = table[table["place"] != ""]
    assert placed["points lost"].is_monotonic_increasing and list(placed["place"]) == [
        str(n) for n in range(1, 7)
    ]
    assert placed["kept, %"].drop("no video from L on").nunique() == 1
    out = table[table["place"] == ""]
    assert set(out.index) == {"bert", "carl", "dora", "emil", "fred", "gina", "hans", "iris"}
    assert out.loc["fred", "note"].startswith("raises ZeroDivisionError")
    assert "is a Merger" in out.loc["hans", "note"] and "256 tokens" in out.loc["iris", "note"]
    assert (
        table.loc["anna", "chooses"] == "once"
        and "no video from L on" in table.loc["anna", "loses less than"]
    )


@pytest.mark.slow
def test_what_is_ranked_is_what_generate_writes():
    """Words lost equal those of the grid's rows, which are of stock `generate`."""
    from dycoke_lab.evaluation.grids import answer_task
    from dycoke_lab.methods import Dynamic, FastV
    from dycoke_lab.models.loading import load_model
    from dycoke_lab.specimen.tasks import make_task

    kinds = {"last": LastQuery, "again": Dynamic, "fastv again": FastV}
    table = rank(kinds, videos=4, worlds=("constructed",)).set_index("method")
    task, (model, _) = make_task("describe", 4, 4), load_model("constructed", 0)
    columns = [column for part in task.parts for column in part]

    def right(compression):
        return float((answer_task(model, task, compression) == task.answer)[:, columns].float().mean())

    for name, kind in kinds.items():
        lost = 100 * (right(None) - right(kind(prune_ratio=0.9, from_layer=3) + METHODS["ttm"](0.0)))
        assert table.loc[name, "points lost"] == pytest.approx(lost, abs=1e-4)
    assert table.loc["again", "chooses"] == "again" and table.loc["last", "chooses"] == "once"
    assert table.loc["fastv again", "points lost"] == table.loc["one-shot, FastV", "points lost"]
