"""One question about one video, from the command line: the answer, what it took, and errors as people expect them."""

from __future__ import annotations

import re

import pytest

from dycoke_lab import DyCokeConfig, load_model
from dycoke_lab.cli import main
from dycoke_lab.run import answer, differing
from dycoke_lab.specimen.clips import CLIPS, truth
from dycoke_lab.video import prompt, read_video

CLIP = "4-scenes.mp4"


@pytest.fixture(scope="module")
def asked():
    model, processor = load_model("specimen")
    question, right, *_ = truth(CLIP)
    return model, processor, prompt(processor, read_video(CLIPS / CLIP), question), right


@pytest.mark.parametrize(("method", "evicts"), [("dynamic", False), ("last_query", True)])
def test_tokens_and_bytes_are_those_predicted(asked, method, evicts):
    model, processor, inputs, _ = asked
    config = DyCokeConfig(merge_ratio=0.5, prune_ratio=0.7, method=method)
    got = answer(model, processor, inputs, config)
    left = sum(16 if frame % 4 == 0 else 8 for frame in range(16))
    attended = round(0.3 * left)
    assert (got.visual, got.left, got.attended) == (256, left, attended)
    steps = len(got.text.split())  # the last word, here the end token, is never put into the cache
    text = inputs["input_ids"].shape[1] - 256 + steps
    text_config = model.config.text_config
    token = 2 * text_config.num_key_value_heads * (text_config.hidden_size // text_config.num_attention_heads) * 4
    below, above = 3 * (left + text), 3 * (attended + text)
    assert got.read == token * (below + above)
    assert got.held == token * (below + above + (0 if evicts else 3 * (left - attended)))


def test_the_full_cache_reads_all_it_holds(asked):
    model, processor, inputs, right = asked
    got = answer(model, processor, inputs, DyCokeConfig(merge_ratio=0.0, prune_ratio=0.0))
    assert got.text == right and got.visual == got.left == got.attended == 256 and got.held == got.read
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        answer(model, processor, inputs, DyCokeConfig(), max_new_tokens=0)
    text = {name: value for name, value in inputs.items() if name != "pixel_values_videos"}
    with pytest.raises(ValueError, match="holds no video"):
        answer(model, processor, type(inputs)(text), DyCokeConfig())


def test_words_that_differ():
    assert differing("a b c", "a b c") == (0, "a b c")
    assert differing("a b c", "a x c") == (1, "a [x] c")
    assert differing("a b c", "a c") == (1, "a [-] c")
    assert differing("a b", "a x y b") == (2, "a [x] [y] b")
    assert differing("a b", "") == (2, "[-]")


def test_the_command_answers_and_compares(capsys):
    question, right, *_ = truth(CLIP)
    main(["run", str(CLIPS / CLIP), question, "--merge-ratio", "0.5"])
    assert capsys.readouterr().out.strip() == right
    main(["run", str(CLIPS / CLIP), question, "--compare", "--prune-ratio", "0.9", "--method", "keep_first"])
    out = capsys.readouterr().out
    assert f"full cache: {right}\n" in out and re.search(r"visual tokens in the prompt +256 +124\n", out)
    assert int(re.search(r"(\d+) of 19 words differ \(K=0.7, L=3, P=0.9, keep_first\)", out)[1]) > 5
    main(["run", str(CLIPS / CLIP), question, "--frames", "4", "--max-new-tokens", "3"])
    assert len(capsys.readouterr().out.split()) == 3


@pytest.mark.parametrize(("arguments", "message"), [
    (["nowhere.mp4", "x"], r"nowhere\.mp4.*neither a file nor a folder"),
    ([str(CLIPS / CLIP), "x", "--prune-ratio", "2"], r"prune_ratio=2\.0 must be"),
    ([str(CLIPS / CLIP), "x", "--model", "nowhere"], r"nowhere holds no checkpoint"),
    ([str(CLIPS / CLIP), "x", "--score-layer", "9"], r"score_layer=9 must be below"),
])  # fmt: skip
def test_errors_are_one_line_and_exit_with_one(arguments, message):
    with pytest.raises(SystemExit) as stop:
        main(["run", *arguments])
    assert re.match(f"error: .*{message}", str(stop.value.code)) and "\n" not in stop.value.code


def test_wrong_usage_exits_with_two(capsys):
    for arguments in (["clip.mp4"], ["clip.mp4", "x", "--frames", "2", "--fps", "1"], ["clip.mp4", "x", "--method", "magic"]):
        with pytest.raises(SystemExit) as stop:
            main(["run", *arguments])
        assert stop.value.code == 2
    assert "usage: python -m dycoke_lab run" in capsys.readouterr().err
