"""The tests that transformers publishes, on the families supported here (`make test-transformers`).

transformers' source package on PyPI has the files tests/test*.py, and nothing of the folders below: its
`ModelTesterMixin` is there, its `GenerationTesterMixin` and the models of its tests are not. So the
models are those of tests/helpers, each with videos and with pictures; `generate` is in generating.py.
"""

from __future__ import annotations

import copy
import sys
import types
import unittest
from pathlib import Path
from typing import Any

import torch
from helpers.families import FAMILIES, Family, frames
from transformers_inside.inside import every_call_inside

FETCHED = Path(__file__).parents[2] / "build" / "transformers-tests"
LEFT_OUT = {
    "exporters.test_export": "ExportTesterMixin",
    "generation.test_utils": "GenerationTesterMixin",
}
PROMPTS: dict[str, Any] = {
    "Video": lambda seed: ("video", frames(8, seed)),
    "Picture": lambda seed: ("image", frames(1, seed)[0]),
}
# those that call a whole model: the others load, save, look at a configuration, or need a GPU
CALLING = (
    "test_all_tensors_are_parameter_or_buffer",
    "test_attention_outputs",
    "test_batching_equivalence",
    "test_can_capture_specific_layers_hidden_states",
    "test_capture_outputs_decorator",
    "test_causal_lm_loss_honors_shift_labels",
    "test_determinism",
    "test_eager_matches_sdpa_inference",
    "test_enable_input_require_grads_with_gradient_checkpointing",
    "test_feed_forward_chunking",
    "test_hidden_states_output",
    "test_inputs_embeds",
    "test_model_outputs_equivalence",
    "test_resize_embeddings_untied",
    "test_resize_tokens_embeddings",
    "test_retain_grad_hidden_states_attentions",
    "test_save_load",
    "test_training",
)
NOT_CALLING = (  # whose names begin as one of those
    "test_inputs_embeds_matches_input_ids",
    "test_resize_embeddings_untied_no_reinit_on_post_init",
    "test_resize_embeddings_untied_with_deepspeed",
    "test_resize_tokens_embeddings_with_deepspeed",
    "test_save_load_keys_to_ignore_on_save",
)


def _published() -> type:
    """Return transformers' ModelTesterMixin, with empty mixins in place of the two that it lacks."""
    sys.path.append(str(FETCHED))
    for name, mixin in LEFT_OUT.items():
        for module in (name.split(".")[0], name):
            sys.modules[f"transformers_tests.{module}"] = types.ModuleType(module)
        setattr(sys.modules[f"transformers_tests.{name}"], mixin, type(mixin, (), {}))
    from transformers_tests.test_modeling_common import ModelTesterMixin

    return ModelTesterMixin


class Tester:
    """What transformers' tests ask for: a configuration, and inputs in a batch of two."""

    batch_size, is_training, image_size = 2, True, 32

    def __init__(self, family: Family, prompt: Any) -> None:
        model = family.build()
        self.kind, config = type(model), model.config
        self.config = type(config).from_dict(config.to_dict())  # without that model's attention kernel
        text = config.get_text_config()
        self.num_hidden_layers, self.hidden_size = text.num_hidden_layers, text.hidden_size
        self.num_attention_heads = text.num_attention_heads
        inputs = family.inputs(*[["user\n", prompt(seed), "what is it?"] for seed in range(2)])
        self.inputs = {
            name: value.float() if value.is_floating_point() else value for name, value in inputs.items()
        }
        self.seq_length = inputs["input_ids"].shape[1]

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, Any]]:
        return copy.deepcopy(self.config), copy.deepcopy(self.inputs)


class _Inside(_published()):  # type: ignore[misc]
    """Each test inside. One that fails is tried without this library, and skipped if it fails there."""

    family: Family
    prompt: Any
    _is_composite = True
    test_all_params_have_gradient = False  # of a layer whose output is not used

    def setUp(self) -> None:
        self.model_tester = Tester(self.family, self.prompt)
        self.all_model_classes = (self.model_tester.kind,)

    def _callTestMethod(self, method: Any) -> None:
        state = torch.get_rng_state()
        try:
            with every_call_inside() as inside:
                method()
            assert inside, "this test calls no model: take it out of CALLING"
        except unittest.SkipTest:
            raise
        except Exception:
            self.setUp()
            torch.set_rng_state(state)
            try:
                method()
            except Exception as stock:
                self.skipTest(f"stock transformers fails here, too: {stock!r:.200}")
            raise


for family in FAMILIES.values():
    for kind, prompt in PROMPTS.items():
        name = family.name.title().replace("_", "") + kind
        parts = {"family": family, "prompt": staticmethod(prompt), "__module__": __name__}
        case = type(name, (_Inside, unittest.TestCase), parts)
        for test in dir(case):
            called = test.startswith(CALLING) and not test.startswith(NOT_CALLING)
            if test.startswith("test_") and callable(getattr(case, test)) and not called:
                setattr(case, test, None)
        globals()[name] = case
del case
