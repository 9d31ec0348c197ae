"""Compressed models for lmms-eval, to measure accuracy on public benchmarks: `lmms-eval --model dycoke`.

lmms-eval finds it by this package's entry point `lmms_eval.models`. It is an optional extra with pins of its
own: notebooks/appendix/every_setting_on_footage has the commands, and what was tested. Its published
interface is that of lmms-eval 0.7.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from lmms_eval.api.model import lmms
from tqdm import tqdm

from dycoke_lab.methods import Compression, DyCoke, compose
from dycoke_lab.models.loading import load_model
from dycoke_lab.video import Video, chat, on_model, read_video

GREEDY: dict[str, Any] = {"max_new_tokens": 1024, "temperature": 0, "top_p": None, "num_beams": 1}


def manifest() -> Any:
    """Return what the entry point gives to lmms-eval's registry."""
    from lmms_eval.models.registry_v2 import ModelManifest  # which reads entry points when it is imported

    return ModelManifest(model_id="dycoke", chat_class_path="dycoke_lab.evaluation.lmms_eval.DyCokeModel")


class _Unreadable(Exception):
    """A video of a benchmark cannot be read."""


class DyCokeModel(lmms):  # type: ignore[misc]
    """A compressed model that answers prompts one by one.

    pretrained, seed, dtype, device, attention: as of `load_model`. max_frames: of each video, at even
    distances.
    method: "full" (nothing is merged or pruned) or a name of METHODS, with merge_ratio, prune_ratio,
    from_layer, and the method's own fields: reselect_below, inactive, ...
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        seed: int = 0,
        dtype: str = "auto",
        device: str | None = None,
        attention: str | None = None,
        max_frames: int = 32,
        method: str = "dynamic",
        batch_size: int | str = 1,
        **settings: Any,
    ) -> None:
        super().__init__()
        settings.pop("max_batch_size", None)  # lmms-eval gives it to every model
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise ValueError(
                "WORLD_SIZE > 1: several processes would each do all of it. Run one with --limit, --offset"
            )
        if int(batch_size) != 1:
            raise ValueError(f"batch_size={batch_size} must be 1: prompts are run one by one")
        paper = DyCoke()
        given = {"merge_ratio": paper.merge_ratio, "prune_ratio": paper.prune_ratio} | settings
        self.compression = Compression() if method == "full" else compose(method, **given)
        self._model, self.processor = load_model(pretrained, seed, dtype, device, attention)
        self.device, self.batch_size, self.max_frames = self._model.device, 1, max_frames
        with self.compression(self._model):  # raises before a benchmark is downloaded
            pass

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        answers = []
        for request in tqdm(requests, disable=self.rank != 0, desc="answers"):
            context, messages_of, settings, number, task, split = request.args
            try:
                asked = messages_of(self.task_dict[task][split][number])
                messages = [self._loaded(message) for message in asked]
                answers.append(self._answer(messages, dict(settings)))
            except _Unreadable as error:  # a broken file is no reason to lose the others' answers
                warnings.warn(f"{task}, {split} {number} is answered by nothing: {error}", stacklevel=2)
                answers.append("")
                continue
            self.cache_hook.add_partial("generate_until", (context, settings), answers[-1])
        return answers

    def _loaded(self, message: dict[str, Any]) -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        for part in message["content"]:
            if part["type"] == "video":
                content.append({"type": "video", "video": self._read(part["url"])})
            elif part["type"] == "image":
                content.append({"type": "image", "image": part["url"]})
            elif part["type"] == "text":
                content.append({"type": "text", "text": part["text"]})
            else:
                raise ValueError(
                    f"a message holds {part['type']!r}: only text, images and videos are supported"
                )
        return {"role": message["role"], "content": content}

    def _read(self, url: str) -> Video:
        try:
            return read_video(url, self.max_frames)
        except (OSError, ValueError) as error:
            raise _Unreadable(str(error)) from error

    def _answer(self, messages: list[dict[str, Any]], settings: dict[str, Any]) -> str:
        until = settings.pop("until", None) or []
        wanted = {name: settings.get(name, default) for name, default in GREEDY.items()}
        sampled = bool(settings.get("do_sample", False)) or (wanted["temperature"] or 0) > 0
        if not sampled:
            wanted["temperature"] = wanted["top_p"] = None
        inputs = on_model(chat(self.processor, messages), self._model)
        with self.compression(self._model), torch.inference_mode():
            ids = self._model.generate(**inputs, **wanted, do_sample=sampled)[
                0, inputs["input_ids"].shape[1] :
            ]
        text = self.processor.tokenizer.decode(ids, skip_special_tokens=True)
        for end in [until] if isinstance(until, str) else until:
            text = text.split(end)[0] if end else text
        return text.strip()

    def loglikelihood(self, requests: Sequence[Any]) -> Any:
        raise NotImplementedError(
            "tasks that score given answers (loglikelihood) are not supported: choose the generating form"
        )

    def generate_until_multi_round(self, requests: Sequence[Any]) -> Any:
        raise NotImplementedError("tasks of several rounds are not supported")
