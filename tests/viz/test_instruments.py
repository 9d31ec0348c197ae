"""HeadMap, CompareKept, clicks on words, prices, counts, saved views: the Python side."""

from __future__ import annotations

import base64
import html
import re
from itertools import pairwise

import numpy as np
import pytest
import torch

from dycoke_lab.attention.capture import capture_attention
from dycoke_lab.evaluation.grids import read_grid
from dycoke_lab.methods import TTM, Compression, DyCoke, Dynamic, LastQuery, compose
from dycoke_lab.results import SWEEP
from dycoke_lab.viz.clip_runs import ClipRunner, aim
from dycoke_lab.viz.frames import attention_view, compare_view, head_view, kept_view, places, png
from dycoke_lab.viz.frames.head_view import aim_map
from dycoke_lab.viz.frames.mosaic import layout
from dycoke_lab.viz.frames.page import WIDTH, Hit, font
from dycoke_lab.viz.frames.words import grid_places
from dycoke_lab.viz.widgets import AttentionExplorer, CompareKept, HeadMap, MergeExplorer, OneShotVsDynamic
from dycoke_lab.viz.widgets.compare_kept import pruning_label
from dycoke_lab.viz.widgets.merge_explorer import THRESHOLDS, at_or_below
from dycoke_lab.viz.widgets.page_side import clicked_at
from dycoke_lab.viz.widgets.price import price, price_text

CLIP, LONG, FOOTAGE = "constructed-2-scenes.mp4", "constructed-5-scenes.mp4", "footage-still.mp4"
SIDE_BAR = (
    848  # pixels of a picture at 1280 x 800 with JupyterLab's side bar open; the browser test measures it
)


@pytest.fixture(scope="module")
def runner():
    return ClipRunner()


def click(panel, what, number):
    left, top, right, bottom = next(p.box for p in panel.places if (p.what, p.number) == (what, number))
    x, y = (left + right) / 2 / panel.size[0], (top + bottom) / 2 / panel.size[1]
    panel.click.value = f"{x} {y} {panel.click.value.count(' ')}{number}"
    panel.wait()


def test_aim_is_the_named_tokens_share_by_hand(runner):
    clip, run = runner.clip(CLIP), runner.run(CLIP, Compression())
    found = aim(clip, run)
    for step, layer, head in ((0, 0, 0), (3, 2, 1), (8, 5, 3)):
        values = run.trace.attention[step][layer, head, 0].tolist()
        named = clip.named(step).flatten().tolist()
        there = sum(value for value, here in zip(values, named, strict=True) if here)
        assert float(found[step, layer, head]) == pytest.approx(there / sum(values), rel=1e-4)
    assert torch.isnan(found[4]).all()  # a comma names nothing
    words = [step for step, word in enumerate(clip.answer) if word not in (",", "<|end|>")]
    assert torch.allclose(aim_map(clip, run, 0, mean=True), found[words].mean(0))
    mean = aim(clip, run, mean=True)[3, 2, 0]
    values = run.trace.attention[3][2, :, 0].mean(0)
    assert float(mean) == pytest.approx(float(values[clip.named(3).flatten()].sum() / values.sum()), rel=1e-4)


def test_a_click_on_the_map_shows_that_head(runner):
    panel = HeadMap(runner, CLIP, step=2)
    panel.wait()
    mean = aim_map(runner.clip(CLIP), panel.run, 0, mean=True)
    assert mean[panel["layer"], panel["head"]] == mean.max()
    click(panel, "cell", 1 * 4 + 3)
    assert (panel["layer"], panel["head"]) == (1, 3)
    run = panel.run
    assert png(head_view(runner.clip(CLIP), run, 2, 1, 3)) == panel.picture.value
    assert png(head_view(runner.clip(CLIP), run, 2, 1, 2)) != panel.picture.value
    click(panel, "step", 6)
    assert panel["step"] == 6
    panel.controls["mean"].value = True
    panel.wait()
    assert png(head_view(runner.clip(CLIP), run, 6, 1, 3, mean=True)) == panel.picture.value
    again = eval(panel.code(), {"HeadMap": HeadMap, "runner": runner})
    assert again.picture.value == panel.picture.value


def test_a_head_map_of_another_depth(runner):
    panel = HeadMap(runner, FOOTAGE, layer=11, head=3)
    panel.controls["clip"].value = CLIP
    panel.wait()
    assert panel["layer"] == 5 and panel.shown == CLIP
    click(panel, "step", 4)  # a comma
    assert png(head_view(runner.clip(CLIP), panel.run, 4, 5, 3)) == panel.picture.value


@pytest.mark.parametrize("count", [2, 3, 4, 6])
def test_kept_tokens_of_several_methods(runner, count):
    names = ["last_query", "fastv", "random", "dynamic", "uniform", "keep_first"][:count]
    panel = CompareKept(runner, CLIP, names, merge_ratio=0.5, prune_ratio=0.7, step=5)
    panel.wait()
    runs = [runner.run(CLIP, compose(name, 0.5, 0.7)) for name in names]
    labelled = [(pruning_label(run.compression), run) for run in runs]
    assert png(kept_view(runner.clip(CLIP), labelled, 5)) == panel.picture.value
    frames = [number for _, what, number in panel.places if what == "frame"]
    assert frames[0] == 3 and len(frames) == count * len(set(frames))  # scene 2 begins with frame 3
    assert (
        eval(panel.code(), {"CompareKept": CompareKept, "runner": runner}).picture.value
        == panel.picture.value
    )


def test_two_to_six_methods_can_be_compared(runner):
    for names in (["random"], ["random"] * 7):
        with pytest.raises(ValueError, match="from 2 to 6"):
            CompareKept(runner, CLIP, names)
    with pytest.raises(ValueError, match="nosuch"):
        CompareKept(runner, CLIP, ["random", "nosuch"])
    panel = CompareKept(runner, CLIP, ["random", "dynamic"])
    panel.controls["methods"].value = ("random",)
    panel.wait()
    assert panel["methods"] == ("random", "dynamic") and len(panel.runs) == 2
    with pytest.raises(ValueError, match="7 methods"):
        kept_view(runner.clip(CLIP), panel.runs * 3 + panel.runs[:1], 0)


def test_the_frames_follow_the_word_until_they_are_moved(runner):
    panel = CompareKept(runner, CLIP)
    click(panel, "step", 7)
    assert panel["step"] == 7 and panel["frame"] == 3
    panel.controls["frame"].value = 1
    panel.wait()
    assert [number for _, what, number in panel.places if what == "frame"][:2] == [1, 2]


def test_a_click_on_a_word_sets_the_step(runner):
    for panel in (AttentionExplorer(runner, CLIP), OneShotVsDynamic(runner, CLIP)):
        panel.wait()
        click(panel, "step", 8)
        assert panel["step"] == 8
    merging = MergeExplorer(runner, CLIP)
    click(merging, "frame", 5)
    assert merging["frame"] == 5
    merging.clicked(Hit("step", 3, 0.5, 0.5))  # it has no step
    merging.wait()


def test_a_message_that_is_no_click_does_nothing(runner):
    assert clicked_at("0.5 0.25 17") == (0.5, 0.25)
    assert clicked_at("") is clicked_at("0.5") is clicked_at("a b c") is None


def test_frames_are_large_enough_with_the_side_bar_open(runner):
    merged = MergeExplorer(runner, CLIP)
    for name in runner.names:
        clip, run = runner.clip(name), runner.run(name, compose("dynamic", 0.0, 0.9))
        merged.controls["clip"].value = name
        merged.wait()
        pictures = [places(attention_view(clip, run, 0, 0, None)), places(head_view(clip, run, 0, 0, 0))]
        pictures += [places(compare_view(clip, [("a", run), ("b", run)], 0)), merged.places]
        pictures += [places(kept_view(clip, [("a", run)] * count, 0)) for count in (2, 3, 4, 6)]
        for found in pictures:
            sizes = [box[2] - box[0] for box, what, _ in found if what == "frame"]
            assert sizes and min(sizes) * SIDE_BAR / WIDTH >= 90, name
            assert max(box[2] for box, _, _ in found) <= WIDTH


def test_a_layout_keeps_frames_and_words_apart(runner):
    for name in runner.names:
        clip = runner.clip(name)
        place = layout(clip)
        run = runner.run(name, Compression())
        found = places(attention_view(clip, run, 0, 0, None))
        frames = [box for box, what, _ in found if what == "frame"]
        for left, top, right, bottom in (box for box, what, _ in found if what == "step"):
            assert right <= WIDTH and bottom <= place.height
            assert not any(left < b[2] and b[0] < right and top < b[3] and b[1] < bottom for b in frames)


def test_wrong_words_stay_in_their_boxes(runner):
    """All ink of a row of words lies left of the next word's box, for the longest words."""
    clip, run = runner.clip(LONG), runner.run(LONG, Compression())
    wrong = ["magenta"] * len(run.words)
    picture = head_view(clip, type(run)(wrong, run.trace, run.compression), 0, 2, 0)
    pixels = np.asarray(picture).astype(int)
    boxes = [box for box, what, number in places(picture) if what == "step" and number % 5 < 4]
    for left, top, right, bottom in boxes[1:]:  # the first one is the step's
        edge = pixels[round(top) + 2 : round(bottom) - 2, round(right) - 1 : round(right) + 1]
        assert (edge.min(-1) > 200).all(), (left, top)
    assert font(19, True).getlength("✗ magenta") > boxes[0][2] - boxes[0][0] - 10  # it had to be made smaller


def test_words_have_rows_of_scenes():
    assert grid_places(["a", "b", ",", "c", "<|end|>"], 2) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert grid_places(["a", "b", "c", "d"], 3) == [(0, 0), (0, 1), (0, 2), (1, 0)]


def test_selections_are_counted(runner):
    every = runner.run(CLIP, Compression.of(Dynamic(0.9, from_layer=3, reselect_below=1.05)))
    never = runner.run(CLIP, Compression.of(Dynamic(0.9, from_layer=3, reselect_below=-1.0)))
    steps = len(every.words) - 1
    kept = [frozenset(row.nonzero()[:, 0].tolist()) for row in every.trace.kept(3)[1:]]
    changes = sum(now != before for before, now in pairwise(kept))
    assert every.selections() == (1 + changes, steps) and changes > 0
    assert never.selections() == (1, steps)
    assert runner.run(CLIP, Compression()).selections() is None
    panel = AttentionExplorer(runner, CLIP, reselect_below=0.5)
    panel.wait()
    made = panel.run.selections()
    assert f"{made[0]} of {made[1]} selections made" in panel.selected.value
    panel.controls["reselect_below"].value = 1.05
    panel.wait()
    again = panel.run.selections()
    assert again[0] > made[0] and f"{again[0]} of {again[1]}" in panel.selected.value


def test_the_price_is_what_the_sweep_measured():
    rows = read_grid(SWEEP)
    for by, value in (("merge_threshold", 0.999), ("merge_ratio", 0.7)):
        here = rows[(rows[by] == value) & (rows["prune_ratio"] == 0)]
        if by == "merge_ratio":
            here = here[here["merge_threshold"].isna()]
        right = sum(int(digit) for digits in here["right"] for digit in digits)
        found = price(rows, by)
        assert found.loc[value, "words"] == pytest.approx(right / here["words"].sum())
        assert found.loc[value, "left"] == pytest.approx(here["left"].mean())
        text = price_text(found, value + 1e-5)
        assert text.startswith(f"measured at {value:g}: {100 * here['left'].mean():.0f} % of tokens left")
    assert price_text(None, 0.5) == ""


def test_the_threshold_slider_is_fine_near_one_and_the_title_follows_what_leads(runner):
    values = [value for _, value in THRESHOLDS]
    assert values == sorted(set(values)) and sum(value >= 0.99 for value in values) > len(values) / 2
    assert at_or_below(0.99345) == 0.9934 and at_or_below(-0.2) == 0.0 and at_or_below(1.0) == 1.0
    panel = MergeExplorer(runner, CLIP)
    panel.wait()
    ratio = panel.picture.value
    assert "K measured at 0.7" in panel.price.value
    panel.controls["threshold"].value = panel.controls["threshold"].value
    panel.follow("threshold")
    panel.refresh()
    panel.wait()
    assert panel.leads == "threshold" and panel.picture.value != ratio
    assert "threshold measured at" in panel.price.value


def test_a_view_is_saved_as_one_page_that_needs_nothing_else(runner, tmp_path):
    panel = OneShotVsDynamic(runner, CLIP)
    panel.wait()
    first, second = panel.save(tmp_path), panel.save(tmp_path)
    assert first != second and {first.parent, second.parent} == {tmp_path}
    assert str(second) in html.unescape(panel.saved.value)
    page = first.read_text()
    assert not re.search(r"(src|href)=[\"'](?!data:)|url\(|@import|<script", page)
    picture = re.search(r"data:image/png;base64,([^\"]+)", page).group(1)
    assert base64.b64decode(picture) == panel.picture.value
    code, view = map(html.unescape, re.findall(r"<code>(.*?)</code>", page, re.S))
    assert eval(code, {"TTM": TTM, "LastQuery": LastQuery}) == panel.compressions()[0]
    assert view == panel.view()
    assert panel.save(tmp_path / "no" / "such" / "folder") is None and "not saved" in panel.saved.value


def test_attention_as_colours_shows_the_strongest_token(runner):
    clip, run = runner.clip(CLIP), runner.run(CLIP, DyCoke(0.0, 0.0))
    picture = np.asarray(attention_view(clip, run, 0, 2, 0)).astype(int)
    values = run.trace.attention[0][2, 0, 0]
    most = int(values.argmax())
    frame, token = divmod(most, 16)
    left, top, right, _ = next(
        p.box for p in places(attention_view(clip, run, 0, 2, 0)) if p[1:] == ("frame", frame)
    )
    cell = (right - left) / 4
    row, col = divmod(token, 4)
    middle = picture[round(top + (row + 0.5) * cell), round(left + (col + 0.5) * cell)]
    assert middle[0] > middle[2] + 40  # yellow, where grey has as much blue as red


def test_capturing_inside_a_run_changes_no_word(runner):
    clip, model = runner.clip(CLIP), runner.model(CLIP)
    with capture_attention(model, heads="all"):
        ids = model.generate(**clip.inputs)
    assert torch.equal(ids, model.generate(**clip.inputs))
