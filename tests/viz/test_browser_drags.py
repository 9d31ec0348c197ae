"""Sliders dragged by the mouse: how long the last picture takes. A view kept as code, made again."""

from __future__ import annotations

import pytest
from helpers.jupyterlab_page import Notebook, report

pytestmark = pytest.mark.browser
START = """
from dycoke_lab.evaluation.grids import read_grid
from dycoke_lab.results import SWEEP
from dycoke_lab.viz.clip_runs import ClipRunner
from dycoke_lab.viz.widgets import *
runner, sweep, clip = ClipRunner(), read_grid(SWEEP), "constructed-4-scenes.mp4"
"""
# per explorer: the sliders that need no run of the model, and those that do
SLIDERS = {
    "AttentionExplorer": (["step", "layer shown"], ["prune ratio P", "merge ratio K"]),
    "BlockExplorer": (["step", "frame"], ["from_layer L"]),
    "CompareKept": (["step", "frame"], ["prune ratio P"]),
    "HeadMap": (["step", "layer", "head"], []),
    "MergeExplorer": (["frame", "merge ratio K", "or: threshold", "window, frames"], []),
    "OneShotVsDynamic": (["step"], ["prune ratio P", "merge ratio K"]),
    "ThresholdFinder": (["merge ratio K", "prune ratio P", "or: threshold"], []),
}
PLACES = (0.9, 0.2, 0.6)  # of the track


def opened(lab, browser, name):
    given = {"ThresholdFinder": "sweep", "BlockExplorer": "runner, clip, hidden=range(48)"}
    cell = f"{name}({given.get(name, 'runner, clip')})"
    notebook = Notebook(browser, lab(f"{name}.ipynb", START, cell))
    panel = notebook.panel()
    panel.settled()
    return notebook, panel


@pytest.mark.parametrize("name", SLIDERS)
def test_a_drag_ends_with_the_last_picture_soon(lab, browser, name):
    """What follows the last place alone: places that the mouse passed are not waited for."""
    notebook, panel = opened(lab, browser, name)
    for kind, labels in zip(("drawn", "run"), SLIDERS[name], strict=True):
        took = []
        for label in labels:
            far = panel.share(label) < 0.5  # from the other half: of few layers, the nearest may be the same
            took += [panel.drag(label, place if far else 1 - place, picture=False) for place in PLACES]
        if took:
            report(f"drag, {name}, {kind}", took)
    notebook.assert_no_errors()
    notebook.close()


def test_a_view_kept_as_code_is_made_again_in_a_new_cell(lab, browser):
    notebook, panel = opened(lab, browser, "AttentionExplorer")
    panel.drag("prune ratio P", 0.4)
    panel.drag("step", 0.7)
    panel.choose("head", "2")
    code = panel.view()
    values = [panel.value(label) for label in ("prune ratio P", "step", "layer shown")]
    assert f"prune_ratio={float(values[0]):g}" in code and f"step={values[1]}" in code and "head=2" in code
    panel.panel.locator("code").last.click(click_count=3)
    assert notebook.page.evaluate("getSelection().toString()").strip() == code
    panel.panel.get_by_text("Copy code for this view").click()
    assert notebook.page.evaluate("navigator.clipboard.readText()") == code
    notebook.page.evaluate(
        """async code => {
            await jupyterapp.commands.execute('notebook:insert-cell-below');
            jupyterapp.shell.currentWidget.content.activeCell.model.sharedModel.setSource(code);
            await jupyterapp.commands.execute('notebook:run-cell') }""",
        code,
    )
    again = notebook.panel(1)
    again.settled()
    assert again.view() == code and (again.picture() == panel.picture()).all()
    assert [again.value(label) for label in ("prune ratio P", "step", "layer shown")] == values
    notebook.page.screenshot(path="build/browser/view-code.png")
    notebook.assert_no_errors()
    notebook.close()
