"""Threads that generate at once, with one model or with two."""

from __future__ import annotations

import threading

import pytest
import torch
from helpers.families import FAMILIES, frames
from helpers.matrix import SETTINGS, generate
from helpers.tiny import MERGING, PRUNING, inputs_of, write

from dycoke_lab.methods import DyCoke


def test_two_threads_with_two_models(family):
    other = FAMILIES["gemma3" if family.name != "gemma3" else "internvl"]
    jobs = []
    for one in (family, other):
        model = one.model()
        model.set_attn_implementation("eager")  # each family's own function
        inputs = one.inputs(["user\n", ("video", frames(8 * one.paired)), "then?"])
        with SETTINGS[0](model):
            jobs.append((model, inputs, generate(model, inputs)[1]))
    results = {}
    start = threading.Barrier(2)

    def work(number, model, inputs, _):
        start.wait()
        with SETTINGS[0](model):
            results[number] = [generate(model, inputs)[1] for _ in range(2)]

    _run(work, jobs)
    for number, (_, _, expected) in enumerate(jobs):
        assert all(torch.equal(logits, expected) for logits in results[number])


@pytest.mark.parametrize("compression", [MERGING, MERGING + PRUNING], ids=str)
def test_threads_generate_at_once_with_one_model(tiny, compression):
    given = [inputs_of(8, seed) for seed in range(3)]
    with compression(tiny):
        expected = [write(tiny, one, 20)[0] for one in given]
        found, errors = {}, []

        def work(number, inputs):
            try:
                found[number] = [write(tiny, inputs, 20)[0] for _ in range(2)]
            except Exception as error:
                errors.append(error)

        _run(work, [(one,) for one in given])
    assert not errors
    for number, logits in found.items():
        assert all(torch.equal(one, expected[number]) for one in logits)


def test_two_models_that_share_a_config_compress_each_for_itself(tiny):
    other = type(tiny)(tiny.config).double().eval()
    other.load_state_dict(tiny.state_dict())
    assert other.model.language_model.config is tiny.model.language_model.config
    given = inputs_of()
    with PRUNING(tiny):
        expected = write(tiny, given)[0]
    outer = PRUNING(tiny)
    outer.__enter__()
    with DyCoke(0.5, 0.7, from_layer=2)(other):
        merged = write(other, given)[0]
        assert torch.equal(write(tiny, given)[0], expected) and not torch.equal(merged, expected)
        outer.__exit__(None, None, None)
        assert torch.equal(write(other, given)[0], merged)  # goes on, though the first to come has gone
    assert tiny.model.language_model.config._attn_implementation == "sdpa"


def _run(work, jobs):
    threads = [threading.Thread(target=work, args=(number, *job)) for number, job in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
