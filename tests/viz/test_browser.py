"""The explorers as a user has them: a real JupyterLab, a real browser, mouse and keys (`make test-browser`).

Screenshots and latencies are left in build/browser.
"""

from __future__ import annotations

import pytest
from helpers.jupyterlab_page import Notebook, report, shoot

SIZES = {"1280x800": (1280, 800), "1920x1080": (1920, 1080)}

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("size", SIZES)
def test_merge_explorer(lab, browser, size):
    notebook = Notebook(browser, lab("06_merging.ipynb"), SIZES[size])
    panel = notebook.panel()
    panel.settled()
    before, threshold = panel.picture(), panel.value("or: threshold")
    place = panel.image.bounding_box()
    shoot(panel, "merge", size)
    panel.drag("merge ratio K", 0.2)
    assert 0.1 <= float(panel.value("merge ratio K")) <= 0.3
    assert panel.value("or: threshold") != threshold  # the other one follows
    assert (panel.picture() != before).any(-1).mean() > 0.02  # more of the frames is shown
    assert panel.image.bounding_box() == place  # nothing jumps
    panel.drag("or: threshold", 0.9)
    assert "TTM(threshold=0.9" in panel.code()
    assert float(panel.value("merge ratio K")) > 0
    panel.changing(lambda: panel.panel.get_by_text("average", exact=True).click(), picture=False)
    assert "combine='average'" in panel.code()
    panel.press("window, frames", "ArrowLeft")
    panel.settled()
    assert "window=3" in panel.code()
    for wrong, allowed in (("7", "1.00"), ("-1", "0.00")):  # what is out of bounds becomes the bound
        panel.type("merge ratio K", wrong)
        assert panel.value("merge ratio K") == allowed and f"merge_ratio={float(allowed)}" in panel.code()
    panel.type("merge ratio K", "0.70")
    clip = panel.value("clip")
    panel.changing(lambda: panel.press("clip", "ArrowRight"))
    assert panel.value("clip") != clip
    ends = [panel.press("merge ratio K", key) for key in ("Home", "End")]
    report(f"merge ratio from end to end, {size}", ends)
    report(f"merge, frame, {size}", [panel.press("frame", "ArrowRight") for _ in range(6)])
    panel.panel.get_by_text("Reset").click()
    panel.settled()
    assert panel.value("merge ratio K") == "0.70" and (panel.picture() == before).all()
    panel.panel.get_by_text("Copy this setting as code").click()
    assert notebook.page.evaluate("navigator.clipboard.readText()").startswith("TTM(merge_ratio=0.7")
    notebook.assert_no_errors()
    notebook.close()


@pytest.mark.parametrize("size", SIZES)
def test_attention_explorer(lab, browser, size):
    notebook = Notebook(browser, lab("07_dynamic_pruning.ipynb"), SIZES[size])
    panel = notebook.panel()
    panel.settled()
    before = panel.picture()
    shoot(panel, "attention", size)
    report(f"attention step, {size}", [panel.press("step", "ArrowRight") for _ in range(6)])
    assert panel.value("step") == "12"
    assert (panel.picture() != before).any(-1).mean() > 0.02
    source = panel.source()
    panel.panel.locator(".jupyter-button[title*=Play], .widget-play button").first.click()
    notebook.page.wait_for_timeout(2500)
    panel.panel.locator(".widget-play button").first.click()
    assert int(panel.value("step")) != 12 and panel.source() != source
    panel.drag("prune ratio P", 0.3)
    ratio = float(panel.value("prune ratio P"))
    assert 0.2 <= ratio <= 0.4
    assert f"prune_ratio={ratio:g}" in panel.code()
    for label in ("re-select below", "from_layer L", "merge ratio K"):
        name = {"re-select below": "reselect_below", "from_layer L": "from_layer"}.get(label, "merge_ratio")
        code = panel.code()
        panel.drag(label, 0.8, picture=False)
        assert panel.code() != code and f"{name}={float(panel.value(label)):g}" in panel.code()
    panel.choose("head", "2")
    panel.press("layer shown", "ArrowRight")
    panel.changing(lambda: panel.press("clip", "ArrowLeft"))
    panel.panel.get_by_text("Reset").click()
    panel.settled()
    panel.hurry("prune ratio P", ["ArrowLeft"] * 4)  # the model is overtaken again and again
    last = panel.picture()
    panel.hurry("prune ratio P", ["ArrowRight"] * 4)
    assert (panel.picture() != last).any()
    panel.hurry("prune ratio P", ["ArrowLeft"] * 4)
    assert (panel.picture() == last).all()  # no result of a setting that was passed by
    panel.panel.get_by_text("Reset").click()
    panel.settled()
    assert panel.value("step") == "6" and (panel.picture() == before).all()
    notebook.assert_no_errors()
    notebook.close()


@pytest.mark.parametrize("size", SIZES)
def test_one_shot_against_dynamic(lab, browser, size):
    notebook = Notebook(browser, lab("08_choice_or_moment.ipynb"), SIZES[size])
    panel = notebook.panel(0)
    panel.settled()
    before = panel.picture()
    shoot(panel, "one-shot", size)
    panel.drag("prune ratio P", 0.1)
    assert (panel.picture() != before).any(-1).mean() > 0.02
    panel.choose("against", "keep first")
    assert "KeepFirst(" in panel.code()
    for label, code in (("from_layer L", "from_layer="), ("merge ratio K", "TTM(")):
        panel.drag(label, 0.8, picture=False)
        assert f"{code}{float(panel.value(label)):g}" in panel.code()
    panel.changing(lambda: panel.press("clip", "ArrowLeft"))
    panel.panel.get_by_text("Reset").click()
    panel.settled()
    assert (panel.picture() == before).all()
    report(f"one-shot against dynamic, word, {size}", [panel.press("step", "ArrowLeft") for _ in range(6)])
    notebook.assert_no_errors()
    notebook.close()


@pytest.mark.parametrize("size", SIZES)
def test_threshold_finder(lab, browser, size):
    notebook = Notebook(browser, lab("06_merging.ipynb"), SIZES[size])
    finder = notebook.panel(1)
    finder.settled()
    before = finder.picture()
    shoot(finder, "finder", size)
    report(f"threshold finder, {size}", [finder.press("prune ratio P", "ArrowLeft") for _ in range(3)])
    finder.drag("merge ratio K", 0.0)
    assert float(finder.value("merge ratio K")) == 0
    assert (finder.picture() != before).any()
    finder.press("or: threshold", "ArrowLeft")
    finder.settled()
    assert "TTM(threshold=" in finder.code()
    finder.choose("accuracy of", "whole answers")
    finder.panel.get_by_text("Reset").click()
    finder.settled()
    assert (finder.picture() == before).all()
    notebook.assert_no_errors()
    notebook.close()


def test_attention_explorer_without_pruning(lab, browser):
    notebook = Notebook(browser, lab("02_attention_by_hand.ipynb"))
    panel = notebook.panel()
    panel.settled()
    before = panel.picture()
    panel.press("layer shown", "ArrowLeft")
    assert (panel.picture() != before).any(-1).mean() > 0.02
    shoot(panel, "attention-unpruned", "1280x800")
    notebook.assert_no_errors()
    notebook.close()
