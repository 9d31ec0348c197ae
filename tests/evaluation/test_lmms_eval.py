"""The lmms-eval plug-in, with lmms-eval if it is installed, else with a stub of its base class (0.7)."""

from __future__ import annotations

import abc
import importlib
import importlib.metadata
import sys
import types
from dataclasses import dataclass
from importlib.util import find_spec

import pytest

from dycoke_lab import load_model
from dycoke_lab.evaluation.one_prompt import answer_prompt
from dycoke_lab.methods import Compression, DyCoke, compose
from dycoke_lab.specimen.clips import CLIPS, truth
from dycoke_lab.video import prompt, read_video

CLIP = "constructed-3-scenes.mp4"
NAME = "dycoke_lab.evaluation.lmms_eval"
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

    names = (
        "lmms_eval",
        "lmms_eval.api",
        "lmms_eval.api.model",
        "lmms_eval.models",
        "lmms_eval.models.registry_v2",
    )
    modules = {name: types.ModuleType(name) for name in names}
    modules["lmms_eval.api.model"].lmms = lmms
    modules["lmms_eval.models.registry_v2"].ModelManifest = ModelManifest
    return modules


@pytest.fixture
def plugin(monkeypatch):
    if not REAL:
        for name, module in stub().items():
            monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    yield importlib.import_module(NAME)
    sys.modules.pop(NAME)


@pytest.mark.parametrize("method", ["full", "dynamic", "last_query"])
def test_lmms_evals_answers_are_those_of_run(plugin, method):
    settings = f"merge_ratio=0.5,prune_ratio=0.7,from_layer=3,method={method},max_frames=16"
    model = plugin.DyCokeModel.create_from_arg_string(f"pretrained=constructed,{settings}", {"batch_size": 1})
    question, right, *_ = truth(CLIP)
    content = [{"type": "video", "url": str(CLIPS / CLIP)}, {"type": "text", "text": question}]
    model.task_dict = {"task": {"test": {7: [{"role": "user", "content": content}]}}}
    arguments = ("", lambda doc: doc, {"max_new_tokens": 64, "until": ["<never>"]}, 7, "task", "test")
    written = model.generate_until([types.SimpleNamespace(args=arguments)])

    specimen, processor = load_model()
    compression = compose(method, 0.5, 0.7) if method != "full" else Compression()
    inputs = prompt(processor, read_video(CLIPS / CLIP), question)
    expected = answer_prompt(specimen, processor, inputs, compression).text
    assert written == [expected] and (method == "last_query" or expected == right)
    until = (*arguments[:2], {"until": expected.split()[2]}, *arguments[3:])
    stopped = model.generate_until([types.SimpleNamespace(args=until)])
    assert stopped == [" ".join(expected.split()[:2])]


def test_one_broken_file_does_not_lose_the_other_answers(plugin, tmp_path):
    model = plugin.DyCokeModel(pretrained="constructed", method="full")
    question, right, *_ = truth(CLIP)
    (tmp_path / "broken.mp4").write_bytes((CLIPS / CLIP).read_bytes()[:2000])
    urls = [CLIPS / CLIP, tmp_path / "broken.mp4", tmp_path / "gone.mp4", CLIPS / CLIP]
    about = [[{"type": "video", "url": str(url)}, {"type": "text", "text": question}] for url in urls]
    documents = {n: [{"role": "user", "content": content}] for n, content in enumerate(about)}
    model.task_dict = {"task": {"test": documents}}
    settings = {"max_new_tokens": 64, "temperature": None}
    requests = [
        types.SimpleNamespace(args=("", lambda doc: doc, settings, number, "task", "test"))
        for number in range(4)
    ]
    with pytest.warns(
        UserWarning, match=r"task, test \d is answered by nothing: source=.*(broken|gone)\.mp4"
    ):
        assert model.generate_until(requests) == [right, "", "", right]


def test_the_paper_gives_lmms_evals_defaults(plugin):
    assert plugin.DyCokeModel(pretrained="constructed").compression == DyCoke()
    chosen = plugin.DyCokeModel(pretrained="constructed", prune_ratio=0.5, reselect_below=2).compression
    assert chosen == DyCoke(prune_ratio=0.5, reselect_below=2)


def test_lmms_eval_is_told_at_the_start_what_cannot_be_run(plugin, monkeypatch):
    with pytest.raises(ValueError, match="batch_size=4 must be 1"):
        plugin.DyCokeModel(pretrained="constructed", batch_size=4)
    with pytest.raises(ValueError, match="from_layer=40 must be below"):
        plugin.DyCokeModel(pretrained="constructed", from_layer=40)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="WORLD_SIZE > 1"):
        plugin.DyCokeModel(pretrained="constructed")
    monkeypatch.delenv("WORLD_SIZE")
    model = plugin.DyCokeModel(pretrained="constructed")
    for method in (model.loglikelihood, model.generate_until_multi_round):
        with pytest.raises(NotImplementedError, match="not supported"):
            method([])
    with pytest.raises(ValueError, match="a message holds 'audio'"):
        model._loaded({"role": "user", "content": [{"type": "audio", "url": "a.wav"}]})


def test_lmms_eval_finds_the_plugin_by_its_entry_point(plugin):
    (found,) = {
        point for point in importlib.metadata.entry_points(group="lmms_eval.models") if point.name == "dycoke"
    }
    assert found.value == f"{NAME}:manifest"
    module, name = plugin.manifest().chat_class_path.rsplit(".", 1)
    assert module == plugin.__name__ and getattr(plugin, name).is_simple is False
    if REAL:
        from lmms_eval.models import get_model

        assert get_model("dycoke").__name__ == name
