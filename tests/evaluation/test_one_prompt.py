"""One question about one video: the answer, what it took, and the two answers beside each other."""

from __future__ import annotations

import pytest

from dycoke_lab import load_model
from dycoke_lab.evaluation.one_prompt import answer_prompt, comparison
from dycoke_lab.methods import Compression, DyCoke, compose
from dycoke_lab.specimen.clips import CLIPS, truth
from dycoke_lab.video import prompt, read_video

CLIP = "constructed-4-scenes.mp4"


@pytest.fixture(scope="module")
def asked():
    model, processor = load_model("constructed")
    question, right, *_ = truth(CLIP)
    return model, processor, prompt(processor, read_video(CLIPS / CLIP), question), right


@pytest.mark.parametrize(("method", "evicts"), [("dynamic", False), ("last_query", True), ("fastv", True)])
def test_tokens_and_bytes_are_those_predicted(asked, method, evicts):
    model, processor, inputs, _ = asked
    got = answer_prompt(model, processor, inputs, compose(method, 0.5, 0.7))
    retained = sum(16 if frame % 4 == 0 else 8 for frame in range(16))
    active = round(0.3 * retained)
    assert (got.visual, got.retained, got.active) == (256, retained, active)
    steps = len(got.text.split())  # the last token, here the end token, is never put into the cache
    text = inputs["input_ids"].shape[1] - 256 + steps
    config = model.config.text_config
    token = 2 * config.num_key_value_heads * (config.hidden_size // config.num_attention_heads) * 4
    below, above = 3 * (retained + text), 3 * (active + text)
    assert got.read == token * (below + above)
    assert got.held == token * (below + above + (0 if evicts else 3 * (retained - active)))


def test_the_full_cache_reads_all_it_holds(asked):
    model, processor, inputs, right = asked
    got = answer_prompt(model, processor, inputs, Compression())
    assert got.text == right and got.visual == got.retained == got.active == 256 and got.held == got.read


def test_answer_prompt_names_what_it_cannot_use(asked):
    model, processor, inputs, _ = asked
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        answer_prompt(model, processor, inputs, DyCoke(), max_new_tokens=0)
    text = {name: value for name, value in inputs.items() if name != "pixel_values_videos"}
    with pytest.raises(ValueError, match="holds no video"):
        answer_prompt(model, processor, type(inputs)(text), DyCoke())


def test_the_comparison_of_two_answers_fits_a_terminal(asked):
    model, processor, inputs, right = asked
    compression = compose("keep_first", 0.7, 0.9)
    full, compressed = (answer_prompt(model, processor, inputs, c) for c in (Compression(), compression))
    text = comparison(full, compressed, compression)
    head, table = text.split("\n\n")
    assert f"full cache: {right}\n" in head and "K=0.7, P=0.9, L=3)" in head
    assert "compressed: " in head and "[" in head
    assert [line.split()[-2:] for line in table.splitlines()[1:3]] == [["256", "124"], ["256", "12"]]
    assert max(map(len, table.splitlines())) <= 80
