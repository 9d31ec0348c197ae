"""Clicks, keys, saved views and a lost kernel in a real JupyterLab, from notebooks that are written here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.jupyterlab_page import Notebook, report, shoot

from dycoke_lab.methods import Compression, DyCoke, compose
from dycoke_lab.viz.clip_runs import ClipRunner
from dycoke_lab.viz.frames import attention_view, block_view, head_view, kept_view, places
from dycoke_lab.viz.frames.page import WIDTH

pytestmark = pytest.mark.browser
SIDE_BAR = {"1280x800, side bar": True, "1280x800": False}
START = """
from dycoke_lab.viz.clip_runs import ClipRunner
from dycoke_lab.viz import widgets
runner = ClipRunner()
"""
CLIP = "constructed-4-scenes.mp4"


@pytest.fixture(scope="module")
def runner():
    return ClipRunner()


def box_of(picture, what, number):
    return next(place.box for place in places(picture) if (place.what, place.number) == (what, number))


def frames_are_large(panel, picture):
    """Frames have at least 90 pixels on the page."""
    scale = panel.image.bounding_box()["width"] / WIDTH
    sizes = [box[2] - box[0] for box, what, _ in places(picture) if what == "frame"]
    assert min(sizes) * scale >= 90


@pytest.mark.parametrize("size", SIDE_BAR)
def test_block_explorer(lab, browser, runner, size):
    cell = f"widgets.BlockExplorer(runner, {CLIP!r}, unit='scene')"
    notebook = Notebook(browser, lab("block.ipynb", START, cell), side_bar=SIDE_BAR[size])
    panel = notebook.panel()
    panel.settled()
    clip, base = runner.clip(CLIP), runner.run(CLIP, Compression())
    picture = block_view(clip, base, base, None, 0, 0)
    frames_are_large(panel, picture)
    before, took = panel.picture(), []
    took.append(panel.click(box_of(picture, "frame", 5), picture.size))  # the second scene
    panel.settled()
    assert "Block(frames=(3, 4, 5, 6), from_layer=0)" in panel.code()
    shoot(panel, "block", size.replace(", ", "-").replace(" ", "-"))
    hidden = panel.picture()
    panel.panel.get_by_text("Undo").click()
    panel.settled()
    assert panel.code() == "None"
    panel.press("frame", "ArrowRight")
    panel.panel.get_by_text("token", exact=True).click()
    panel.settled()
    panel.panel.get_by_text("Hide or show it").focus()
    notebook.page.keyboard.press("Space")  # the keys do what the mouse does
    panel.settled()
    frame, token = int(panel.value("frame")), int(panel.value("token of the frame"))
    assert f"Block(tokens=({16 * frame + token},), from_layer=0)" in panel.code()
    panel.drag("from_layer L", 1.0, picture=False)
    assert "from_layer=5" in panel.code()
    took += [panel.click(box_of(picture, "frame", number), picture.size) for number in (9, 10, 11)]
    report(f"block and decode again, {size}", took)
    panel.settled()
    panel.click(box_of(picture, "step", 7), picture.size)
    assert panel.value("step") == "7"
    panel.panel.get_by_text("Reset").click()
    panel.settled()
    assert panel.code() == "None"
    assert (panel.picture() == before).all() and (hidden != before).any(-1).mean() > 0.02
    notebook.assert_no_errors()
    notebook.close()


@pytest.mark.parametrize("size", SIDE_BAR)
def test_head_map(lab, browser, runner, size):
    cell = f"widgets.HeadMap(runner, {CLIP!r}, layer=2, head=0)"
    notebook = Notebook(browser, lab("heads.ipynb", START, cell), side_bar=SIDE_BAR[size])
    panel = notebook.panel()
    panel.settled()
    picture = head_view(runner.clip(CLIP), runner.run(CLIP, Compression()), 0, 2, 0)
    frames_are_large(panel, picture)
    shoot(panel, "heads", size.replace(", ", "-").replace(" ", "-"))
    took = [panel.click(box_of(picture, "cell", number), picture.size) for number in (4 * 3 + 2, 4 * 5 + 1)]
    assert (panel.value("layer"), panel.value("head")) == ("5", "1")
    took += [panel.click(box_of(picture, "step", number), picture.size) for number in (3, 8)]
    assert panel.value("step") == "8"
    report(f"head map, click, {size}", took)
    report(f"head map, step, {size}", [panel.press("step", "ArrowRight") for _ in range(4)])
    panel.press("layer", "ArrowLeft")
    panel.settled()
    assert panel.value("layer") == "4" and "layer=4, head=1" in panel.code()
    notebook.assert_no_errors()
    notebook.close()


@pytest.mark.parametrize("size", SIDE_BAR)
def test_compare_kept(lab, browser, runner, size):
    cell = f"widgets.CompareKept(runner, {CLIP!r}, ['last_query', 'dynamic', 'random'], step=0)"
    notebook = Notebook(browser, lab("kept.ipynb", START, cell), side_bar=SIDE_BAR[size])
    panel = notebook.panel()
    panel.settled()
    runs = [(name, runner.run(CLIP, compose(name, 0.0, 0.9))) for name in ("last_query", "dynamic", "random")]
    picture = kept_view(runner.clip(CLIP), runs, 0)
    frames_are_large(panel, picture)
    shoot(panel, "kept", size.replace(", ", "-").replace(" ", "-"))
    took = [panel.click(box_of(picture, "step", number), picture.size) for number in (6, 12)]
    assert (panel.value("step"), panel.value("frame")) == ("12", "7")
    report(f"kept tokens, word, {size}", took)
    panel.panel.locator("select[multiple]").select_option(label=["dynamic (DyCoke)", "random"])
    panel.settled()
    assert "methods=('random', 'dynamic')" in panel.code() or "('dynamic', 'random')" in panel.code()
    panel.drag("prune ratio P", 0.5)
    notebook.assert_no_errors()
    notebook.close()


def test_words_commas_counts_and_a_lost_kernel(lab, browser, runner):
    cell = f"widgets.AttentionExplorer(runner, {CLIP!r})"
    notebook = Notebook(browser, lab("attention.ipynb", START, cell), side_bar=True)
    panel = notebook.panel()
    panel.settled()
    run = runner.run(CLIP, DyCoke(0.5, 0.9))
    picture = attention_view(runner.clip(CLIP), run, 6, 2, None)
    frames_are_large(panel, picture)
    shoot(panel, "attention-words", "1280x800-side-bar")
    report(
        "attention, word clicked", [panel.click(box_of(picture, "step", n), picture.size) for n in (2, 11, 3)]
    )
    assert panel.value("step") == "3"
    made, steps = run.selections()
    assert panel.panel.locator(".dycoke-selected").inner_text() == f"{made} of {steps} selections made"
    panel.type("prune ratio P", "0,3")
    assert panel.value("prune ratio P") == "0.30" and "prune_ratio=0.3" in panel.code()
    notebook.assert_no_errors()
    assert "lost its kernel" not in before_content(panel)
    notebook.page.evaluate("jupyterapp.shell.currentWidget.context.sessionContext.session.kernel.restart()")
    notebook.page.wait_for_function(
        "panel => getComputedStyle(panel, '::before').content.includes('lost its kernel')",
        arg=panel.panel.element_handle(),
        timeout=30_000,
    )
    notebook.page.screenshot(path="build/browser/lost-kernel.png")
    notebook.close()


def before_content(panel):
    return panel.panel.evaluate("panel => getComputedStyle(panel, '::before').content")


def test_a_saved_view_and_the_price(lab, browser):
    notebook = Notebook(browser, lab("merge.ipynb", START, f"widgets.MergeExplorer(runner, {CLIP!r})"))
    panel = notebook.panel()
    panel.settled()
    price = panel.panel.locator(".dycoke-price")
    before = price.inner_text()
    assert before.startswith("K measured at 0.7")
    panel.drag("or: threshold", 0.6)
    assert price.inner_text().startswith("threshold measured at 0.99")
    assert 0.99 <= float(panel.value("or: threshold")) < 1
    report("merge, threshold", [panel.press("or: threshold", "ArrowRight") for _ in range(4)])
    shoot(panel, "merge-price", "1280x800")
    panel.panel.get_by_text("Save this view").click()
    panel.panel.get_by_text("saved as").wait_for()
    path = Path(re.search(r"saved as (\S+\.html)", panel.panel.inner_text()).group(1))
    page, asked = notebook.context.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    assert page.evaluate("document.images[0].naturalWidth") == WIDTH
    assert page.locator("code").all_inner_texts() == [panel.code(), panel.view()]
    assert {url.split(":")[0] for url in asked} <= {"file", "data"} and len(asked) <= 2
    notebook.assert_no_errors()
    notebook.close()
