"""Ways to call a model, stock and inside a context that compresses nothing (`make test-transformers`).

They are our own, since transformers' tests of `generate` are not on PyPI (published.py).
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from helpers.families import decoder_of, frames
from torch import Tensor
from transformers import CompileConfig, DynamicCache, GenerationConfig, StaticCache, WatermarkingConfig
from transformers_inside.inside import assert_equal, outcome

from dycoke_lab import DyCoke

Inputs = dict[str, Any]
FEW: dict[str, Any] = dict(max_new_tokens=4, do_sample=False, eos_token_id=-1, pad_token_id=0)
ALL: dict[str, Any] = FEW | dict(
    return_dict_in_generate=True, output_scores=True, output_logits=True, output_hidden_states=True
)
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sample": dict(do_sample=True, num_return_sequences=2, top_k=20),
    "beams": dict(num_beams=3, num_return_sequences=2),
    "beam_sample": dict(num_beams=3, do_sample=True),
    "no_cache": dict(use_cache=False),
    "static_cache": dict(cache_implementation="static"),
    "prompt_lookup": dict(prompt_lookup_num_tokens=2),
    "guidance": dict(guidance_scale=1.5),
    "penalties": dict(repetition_penalty=1.2, no_repeat_ngram_size=2, bad_words_ids=[[9], [4, 5]]),
    "watermark": dict(watermarking_config=WatermarkingConfig()),
    "allowed_words": dict(prefix_allowed_tokens_fn=lambda batch, ids: [5, 6, 7, 8]),
    "prompt_in_parts": dict(prefill_chunk_size=7),
}
WAYS: dict[str, Callable[[Any, Inputs], Any]] = {}


def way(call: Callable[[Any, Inputs], Any]) -> Callable[[Any, Inputs], Any]:
    WAYS[call.__name__] = call
    return call


def longer(inputs: Inputs, ids: Tensor) -> Inputs:
    """Return the inputs of a later turn, whose sequence begins with the prompt: without pixels."""
    more = ids.shape[1] - inputs["input_ids"].shape[1]
    ends = {"attention_mask": 1, "mm_token_type_ids": 0, "token_type_ids": 0}
    return {"input_ids": ids} | {
        name: torch.cat([inputs[name], torch.full((len(ids), more), end)], 1)
        for name, end in ends.items()
        if name in inputs
    }


def by_embeddings(model: Any, inputs: Inputs) -> Inputs:
    embeds = model.get_input_embeddings()(inputs["input_ids"]).detach()
    rest = {name: value for name, value in inputs.items() if name != "input_ids"}
    return rest | {"inputs_embeds": embeds}


def settings_by_ids(settings: dict[str, Any]) -> Callable[[Any, Inputs], Any]:
    return lambda model, inputs: model.generate(**inputs, **ALL | settings)


def settings_by_embeddings(settings: dict[str, Any]) -> Callable[[Any, Inputs], Any]:
    return lambda model, inputs: model.generate(**by_embeddings(model, inputs), **ALL | settings)


for _name, _settings in SETTINGS.items():
    WAYS[_name] = settings_by_ids(_settings)
for _name in ("greedy", "beams", "no_cache", "static_cache", "prompt_lookup"):
    WAYS[f"embeddings_{_name}"] = settings_by_embeddings(SETTINGS[_name])


@way
def attention_that_is_returned(model: Any, inputs: Inputs) -> Any:
    model.set_attn_implementation("eager")
    return model.generate(**inputs, **ALL, output_attentions=True)


@way
def bfloat16(model: Any, inputs: Inputs) -> Any:
    with _dtype(model, torch.bfloat16):
        return model.generate(**_as(torch.bfloat16, inputs), **ALL)


@way
def the_model_as_its_assistant(model: Any, inputs: Inputs) -> Any:
    return model.generate(**inputs, **ALL, assistant_model=model)


@way
def another_assistant(model: Any, inputs: Inputs) -> Any:
    torch.manual_seed(3)
    assistant = type(model)(copy.deepcopy(model.config)).double().eval()
    return model.generate(**inputs, **ALL, assistant_model=assistant)


@way
def compiled_with_a_static_cache(model: Any, inputs: Inputs) -> Any:
    compiling = CompileConfig(backend="eager", fullgraph=False)
    compiling._compile_all_devices = True
    return model.generate(**inputs, **ALL, cache_implementation="static", compile_config=compiling)


@way
def a_configuration_and_a_custom_loop(model: Any, inputs: Inputs) -> Any:
    def loop(model: Any, input_ids: Tensor, generation_config: Any, **given: Any) -> Tensor:
        for name in ("logits_processor", "stopping_criteria"):
            given.pop(name)
        first = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **given)
        return model(**first).logits

    return model.generate(**inputs, generation_config=GenerationConfig(**FEW), custom_generate=loop)


@way
def what_a_streamer_gets(model: Any, inputs: Inputs) -> Any:
    class Streamer:
        got: list[Tensor] = []  # noqa: RUF012

        def put(self, value: Tensor) -> None:
            self.got = [*self.got, value.clone()]

        def end(self) -> None: ...

    streamer = Streamer()
    model.generate(**inputs, **FEW, streamer=streamer)
    return streamer.got


@way
def a_later_turn(model: Any, inputs: Inputs) -> Any:
    first = model.generate(**inputs, **ALL)
    turn = longer(inputs, first.sequences)
    return first, model.generate(**turn, **ALL, past_key_values=first.past_key_values)


@way
def a_later_turn_with_beams(model: Any, inputs: Inputs) -> Any:
    first = model.generate(**inputs, **ALL, num_beams=2)
    turn = longer(inputs, first.sequences)
    return first, model.generate(**turn, **ALL, num_beams=2, past_key_values=first.past_key_values)


@way
def a_later_turn_on_a_static_cache(model: Any, inputs: Inputs) -> Any:
    length = inputs["input_ids"].shape[1] + 20
    cache = StaticCache(config=model.config.get_text_config(), max_cache_len=length)
    first = model.generate(**inputs, **ALL, past_key_values=cache)
    return first, model.generate(**longer(inputs, first.sequences), **ALL, past_key_values=cache)


@way
def two_questions_on_copies_of_one_cache(model: Any, inputs: Inputs) -> Any:
    cache, ids = model(**inputs, use_cache=True).past_key_values, inputs["input_ids"]
    for word in (5, 7):
        question = longer(inputs, torch.cat([ids, ids.new_full((len(ids), 2), word)], 1))
        yield model.generate(**question, **ALL, past_key_values=copy.deepcopy(cache))


@way
def a_cache_that_is_cropped(model: Any, inputs: Inputs) -> Any:
    cache = model(**inputs, use_cache=True).past_key_values
    cache.crop(-2)
    mask, last = inputs["attention_mask"], inputs["input_ids"][:, -2:]
    yield model(input_ids=last, attention_mask=mask, past_key_values=cache)


@way
def words_first_and_pixels_later(model: Any, inputs: Inputs) -> Any:
    cache = DynamicCache(config=model.config.get_text_config())
    by_column = ("input_ids", "mm_token_type_ids", "token_type_ids")
    start = {"input_ids": inputs["input_ids"][:, :1], "attention_mask": inputs["attention_mask"][:, :1]}
    yield model(**start, past_key_values=cache, use_cache=True)
    rest = {name: value[:, 1:] if name in by_column else value for name, value in inputs.items()}
    yield model(**rest, past_key_values=cache, use_cache=True)


@way
def steps_without_generate(model: Any, inputs: Inputs) -> Any:
    output, ids = model(**inputs, use_cache=True), inputs["input_ids"]
    for _ in range(3):
        yield output.logits
        ids = torch.cat([ids, output.logits[:, -1:].argmax(-1)], 1)
        mask = longer(inputs, ids)["attention_mask"]
        cache = output.past_key_values
        output = model(input_ids=ids[:, -1:], attention_mask=mask, past_key_values=cache, use_cache=True)


@way
def gradients_in_training(model: Any, inputs: Inputs) -> Any:
    for checkpoints in (False, True):
        model.train()
        if checkpoints:
            model.gradient_checkpointing_enable()
        try:
            with torch.enable_grad():
                yield model(**inputs, labels=inputs["input_ids"]).loss.backward()
            yield [part.grad for part in model.parameters() if part.grad is not None]
        finally:
            model.zero_grad()
            model.gradient_checkpointing_disable()
            model.eval()


@way
def parts_of_the_model(model: Any, inputs: Inputs) -> Any:
    yield model.forward(**inputs)
    yield model.model(**inputs)
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    mask = inputs["attention_mask"]
    yield decoder_of(model)(inputs_embeds=embeds, attention_mask=mask, use_cache=True)


@way
def other_arguments(model: Any, inputs: Inputs) -> Any:
    rest = {name: value for name, value in inputs.items() if name != "input_ids"}
    yield model(inputs["input_ids"], **rest)
    yield model(**inputs, return_dict=False)
    yield model(**inputs, logits_to_keep=2)
    yield model(**inputs, position_ids=(inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0))
    yield torch.func.functional_call(model, dict(model.named_parameters()), (), inputs)
    rest.pop("attention_mask")
    yield model.generate(inputs["input_ids"], **rest, **FEW)


@way
def a_vocabulary_of_another_size(model: Any, inputs: Inputs) -> Any:
    words = model.get_input_embeddings().num_embeddings
    model.resize_token_embeddings(words + 8)
    try:
        yield model.generate(**inputs, **FEW)
    finally:
        model.resize_token_embeddings(words)


@way
def a_model_saved_inside(model: Any, inputs: Inputs) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return type(model).from_pretrained(folder, dtype=torch.double).generate(**inputs, **ALL)


@contextmanager
def _dtype(model: Any, dtype: torch.dtype) -> Iterator[None]:
    state = copy.deepcopy(model.state_dict())
    model.to(dtype)
    try:
        yield
    finally:
        model.double().load_state_dict(state)


def _as(dtype: torch.dtype, inputs: Inputs) -> Inputs:
    floats = {name: value.to(dtype) for name, value in inputs.items() if value.is_floating_point()}
    return {**inputs, **floats}


@pytest.fixture(params=["videos", "video", "picture"])
def prompt(request, family):
    count = 8 * family.paired
    what = ("image", frames(1)[0]) if request.param == "picture" else ("video", frames(count))
    first = ["user\n", what, "what happens?"]
    if request.param != "videos":
        return family.inputs(first)
    return family.inputs(first, ["user\n", ("video", frames(count, 1)), "what is there to be seen?"])


@pytest.mark.parametrize("name", WAYS)
def test_a_call_is_as_stock(model, prompt, name):
    def called() -> Any:
        torch.manual_seed(5)
        given = {key: value.clone() for key, value in prompt.items()}
        try:
            with torch.no_grad():
                output = WAYS[name](model, given)
                return list(output) if isinstance(output, Iterator) else output
        finally:
            model.set_attn_implementation("sdpa")

    stock = outcome(called)
    with DyCoke(merge_ratio=0, prune_ratio=0)(model):
        ours = outcome(called)
    assert_equal(ours, stock)
    if isinstance(stock, Exception):
        pytest.skip(f"stock transformers raises, and so do we: {stock!r:.150}")
