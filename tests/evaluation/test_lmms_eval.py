"""The lmms-eval plug-in, against lmms-eval itself where it is installed, else against a stub of its published base class (0.7)."""

from __future__ import annotations

import abc
import importlib.metadata
import sys
import types
from dataclasses import dataclass
from importlib.util import find_spec

import pytest

from dycoke_lab import DyCokeConfig, load_model
from dycoke_lab.run import answer
from dycoke_lab.specimen.clips import CLIPS, truth
from dycoke_lab.video import prompt, read_video

CLIP = "3-scenes.mp4"
REAL = find_spec("lmms_eval") is not None


def stub():
    class lmms(abc.ABC):
        is_simple = True

        def __init__(self):
            self._rank, self._world_size = 0, 1
            self.cache_hook = types.SimpleNamespace(add_partial=lambda attr, req, res: None)
            self.task_dict = {}

        @abc.abstractmethod
        def loglikelihood(self, requests): ...

        @abc.abstractmethod
        def generate_until(self, requests): ...

        @abc.abstractmethod
        def generate_until_multi_round(self, requests): ...

        @classmethod
        def create_from_arg_string(cls, arg_string, additional_config=None):
            pairs = (pair.split("=", 1) for pair in arg_string.split(","))
            numbers = {key: float(v) if "." in v else int(v) if v.isdigit() else v for key, v in pairs}
            return cls(**numbers, **{k: v for k, v in (additional_config or {}).items() if v is not None})

        rank = property(lambda self: self._rank)
        world_size = property(lambda self: self._world_size)

    @dataclass(frozen=True)
    class ModelManifest:
        model_id: str
        simple_class_path: str | None = None
        chat_class_path: str | None = None
        aliases: tuple[str, ...] = ()

    modules = {}
    for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.api.model", "lmms_eval.models", "lmms_eval.models.registry_v2"):
        modules[name] = types.ModuleType(name)
    modules["lmms_eval.api.model"].lmms = lmms
    modules["lmms_eval.models.registry_v2"].ModelManifest = ModelManifest
    return modules


@pytest.fixture
def plugin(monkeypatch):
    if not REAL:
        for name, module in stub().items():
            monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "dycoke_lab.lmms", raising=False)
    import dycoke_lab.lmms

    yield dycoke_lab.lmms
    sys.modules.pop("dycoke_lab.lmms")


@pytest.mark.parametrize("method", ["full", "dynamic", "last_query"])
def test_answers_are_those_of_run(plugin, method):
    model = plugin.DyCokeModel.create_from_arg_string(
        f"pretrained=specimen,merge_ratio=0.5,prune_ratio=0.7,score_layer=3,method={method},max_frames=16", {"batch_size": 1}
    )
    question, right, *_ = truth(CLIP)
    asked = [{"role": "user", "content": [{"type": "video", "url": str(CLIPS / CLIP)}, {"type": "text", "text": question}]}]
    model.task_dict = {"task": {"test": {7: asked}}}
    arguments = ("", lambda doc: doc, {"max_new_tokens": 64, "until": ["<never>"]}, 7, "task", "test")
    written = model.generate_until([types.SimpleNamespace(args=arguments)])

    specimen, processor = load_model()
    config = DyCokeConfig(0.5, prune_ratio=0.7, method=method) if method != "full" else DyCokeConfig(0.0, prune_ratio=0.0)
    expected = answer(specimen, processor, prompt(processor, read_video(CLIPS / CLIP), question), config).text
    assert written == [expected] and (method == "last_query" or expected == right)
    stopped = model.generate_until([types.SimpleNamespace(args=(*arguments[:2], {"until": expected.split()[2]}, *arguments[3:]))])
    assert stopped == [" ".join(expected.split()[:2])]


def test_what_cannot_be_run_is_said_at_the_start(plugin, monkeypatch):
    with pytest.raises(ValueError, match="batch_size=4 must be 1"):
        plugin.DyCokeModel(pretrained="specimen", batch_size=4)
    with pytest.raises(ValueError, match="score_layer=40 must be below"):
        plugin.DyCokeModel(pretrained="specimen", score_layer=40)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="WORLD_SIZE > 1"):
        plugin.DyCokeModel(pretrained="specimen")
    monkeypatch.delenv("WORLD_SIZE")
    model = plugin.DyCokeModel(pretrained="specimen")
    for method in (model.loglikelihood, model.generate_until_multi_round):
        with pytest.raises(NotImplementedError, match="not supported"):
            method([])
    with pytest.raises(ValueError, match="a message holds 'audio'"):
        model._loaded({"role": "user", "content": [{"type": "audio", "url": "a.wav"}]})


def test_it_is_found_by_its_entry_point(plugin):
    (found,) = {point for point in importlib.metadata.entry_points(group="lmms_eval.models") if point.name == "dycoke"}
    assert found.value == "dycoke_lab.lmms:manifest"
    module, name = plugin.manifest().chat_class_path.rsplit(".", 1)
    assert module == plugin.__name__ and getattr(plugin, name).is_simple is False
    if REAL:
        from lmms_eval.models import get_model

        assert get_model("dycoke").__name__ == name
