"""The specimen: its questions, its checkpoint in stock transformers, training that can be interrupted."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from dycoke_lab import capture_attention, load_model
from dycoke_lab.attention.drift import mass_on
from dycoke_lab.specimen import language as lang
from dycoke_lab.specimen.build import build_model, keep_tokens_local, share_queries_and_keys
from dycoke_lab.specimen.export import export
from dycoke_lab.specimen.language import ID
from dycoke_lab.specimen.packing import pack
from dycoke_lab.specimen.tasks import QUESTIONS, make_task
from dycoke_lab.specimen.train import TrainConfig, Trainer, train_and_export
from dycoke_lab.specimen.world import COLOUR_NAMES, make_videos

WORDS = list(ID)


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_truth_of_each_word_is_where_the_video_shows_it(question):
    task = make_task(question, 6, 3)
    named = task.scene >= 0
    for sample in range(6):
        in_scene, on_actor = task.tokens_of(sample)
        assert (on_actor & ~in_scene).sum() == 0
        for word in named[sample].nonzero()[:, 0].tolist():
            colour = task.videos.colour[sample, task.scene[sample, word], task.actor[sample, word]]
            assert WORDS[task.answer[sample, word]] == COLOUR_NAMES[colour]
            tokens = on_actor[word].nonzero()[:, 0]
            frames, cell = tokens // 16, int(tokens[0]) % 16
            assert set((tokens % 16).tolist()) == {cell}
            assert set(task.videos.scene[sample, frames].tolist()) == {int(task.scene[sample, word])}
            assert set(task.videos.actor[sample, frames, cell].tolist()) == {int(task.actor[sample, word])}


def test_stock_transformers_opens_the_exported_folder(tmp_path):
    model = build_model(width=32, layers=4).eval()
    share_queries_and_keys(model)  # as in training
    export(model, tmp_path, {"seed": 0})
    processor, opened = (
        AutoProcessor.from_pretrained(tmp_path),
        AutoModelForImageTextToText.from_pretrained(tmp_path),
    )
    task = make_task("actor", 1, 2)
    question = " ".join(WORDS[i] for i in task.ids[0, 130:-1])
    content = [{"type": "video"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    video = (task.videos.pixels[0].permute(0, 2, 3, 1) * 255).round().byte().numpy()
    inputs = processor(text=text, videos=[video], return_tensors="pt")
    assert torch.equal(inputs["input_ids"], task.ids)
    torch.testing.assert_close(inputs["pixel_values_videos"], task.videos.pixels * 2 - 1, atol=0.005, rtol=0)
    with torch.no_grad():
        assert torch.equal(opened(**inputs).logits, model(**inputs).logits)
    layers = opened.model.language_model.layers
    assert layers[2].self_attn.q_proj is not layers[3].self_attn.q_proj
    assert torch.equal(layers[2].self_attn.q_proj.weight, layers[3].self_attn.q_proj.weight)
    assert "model.safetensors" in json.loads((tmp_path / "training.json").read_text())["sha256"]


def test_a_local_visual_token_shows_its_own_place_only():
    model = build_model(width=32, layers=4).eval()
    pixels = make_task("describe", 1, 2).videos.pixels * 2 - 1
    changed = pixels.clone()
    changed[:, :, :, 8:16, 16:24] = 0  # row 1, column 2: token 6 of each frame
    for local in (False, True):
        if local:
            keep_tokens_local(model)
        with torch.no_grad():
            videos = [
                model.get_video_features(x, return_dict=True).pooler_output[0] for x in (pixels, changed)
            ]
        a, b = (features[:-1].view(8, 16, -1) for features in videos)  # without the line break
        moved = {token for token in range(16) if not torch.equal(a[:, token], b[:, token])}
        assert moved == ({6} if local else set(range(16)))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_scoring_layer_attends_to_the_named_actors_and_reads_nothing(seed):
    """At L=3 nothing that pruning leaves out can have been read in the layer just below."""
    model, _ = load_model("constructed", seed)
    task = make_task("describe", 1, 2)
    outputs = []
    attention = model.model.language_model.layers[2].self_attn
    hook = attention.register_forward_hook(lambda module, inputs, output: outputs.append(output[0]))
    with torch.no_grad(), hook, capture_attention(model) as trace:
        model.generate(task.ids, pixel_values_videos=task.videos.pixels * 2 - 1, max_new_tokens=2)
    assert len(outputs) == 2 and not any(output.any() for output in outputs)
    _, on_actor = task.tokens_of(0)
    named = (task.scene[0] >= 0).nonzero()[:2, 0]
    on_named = mass_on(trace.stack(2), on_actor[named]) / on_actor[named].float().mean(1).numpy()
    assert (on_named > 4).all()  # times what even attention would give


def test_the_questions_of_a_pack_are_right_and_do_not_attend_to_each_other():
    generator = torch.Generator().manual_seed(5)
    videos = make_videos(3, 4, generator)
    packed = pack(videos, generator)
    start = packed.ids.shape[1] - packed.targets.shape[1]
    positions, mask = packed.positions[0], packed.mask[0, 0]
    turns = (packed.ids[0] == ID["<|assistant|>"]).nonzero()[:, 0].tolist()
    assert len(turns) == 6 and start <= 4 * 4 * 16 + 2
    video = int((packed.ids[0] == ID["<video>"]).nonzero()[-1])
    for sample in range(3):
        asked = []
        for turn in turns:
            attended = (mask[turn] == 0).nonzero()[:, 0]  # by the query that predicts the answer's first word
            question = " ".join(WORDS[i] for i in packed.ids[sample, attended[attended > video]].tolist())
            assert positions[attended].tolist() == list(range(len(attended)))  # as if nothing else were asked
            target, answer = packed.targets[sample, turn - start :].tolist(), []
            while target[len(answer)] != ID["<|end|>"]:
                answer.append(WORDS[target[len(answer)]])
            assert packed.ids[sample, turn + 1 : turn + 1 + len(answer)].tolist() == [
                ID[word] for word in answer
            ]
            asked.append((question.removesuffix(" <|assistant|>"), " ".join(answer)))
        shown = [[COLOUR_NAMES[c] for c in scene] for scene in videos.colour[sample].tolist()]
        assert asked[0] == (lang.describe_question(4), lang.describe_answer(shown))
        for actor, pair in enumerate(asked[1:5]):
            assert pair in [(lang.actor_question(actor, s, 4), shown[s][actor]) for s in range(4)]
        scenes = [(a, b) for a in range(4) for b in range(4) if a != b]
        assert asked[5] in [
            (lang.compare_question(a, b, 4), lang.compare_answer(shown, a, b)) for a, b in scenes
        ]


def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(tmp_path, monkeypatch):
    config = TrainConfig(seed=3, steps=4, batch=2, device="cpu")
    whole = Trainer(config, tmp_path / "whole").run(progress=False).state_dict()
    stopped = Trainer(config, tmp_path / "stopped")
    step = stopped._train_step

    def interrupted():
        if stopped.step == 2:
            raise KeyboardInterrupt
        return step()

    monkeypatch.setattr(stopped, "_train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stopped.run(progress=False)
    again = Trainer(config, tmp_path / "stopped")
    assert again.step == 2 and again.began == stopped.began
    resumed = again.run(progress=False).state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    ends = ("layers.2.self_attn.o_proj.weight", "out_proj.weight", "out_proj.bias")
    frozen = [name for name in whole if name.endswith(ends)]
    assert len(frozen) == 5 and not any(whole[name].any() for name in frozen)  # no optimizer moves them
    with pytest.raises(ValueError, match="holds a run with other settings"):
        Trainer(TrainConfig(seed=4, steps=4, batch=2), tmp_path / "stopped")


def test_train_and_export_writes_a_checkpoint_with_its_log(tmp_path):
    config = TrainConfig(seed=3, steps=20, batch=1, device="cpu")  # the log gets a line every 20 steps
    train_and_export(config, tmp_path / "run", tmp_path / "made")
    about = json.loads((tmp_path / "made" / "training.json").read_text())
    assert about["config"]["steps"] == 20 and "commit" in about["began"]
    assert set(about["sha256"]) >= {"config.json", "log.jsonl", "model.safetensors"}
    AutoModelForImageTextToText.from_pretrained(tmp_path / "made")
