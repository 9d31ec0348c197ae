"""Train a specimen from random weights: `dycoke-lab specimen train --seed N`.

No visual token is ever merged, dropped or masked: DyCoke is training-free, and the evidence for it must be so
too.
"""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm.auto import tqdm
from transformers import LlavaOnevisionForConditionalGeneration

from dycoke_lab.results.provenance import provenance
from dycoke_lab.specimen.build import (
    build_model,
    keep_tokens_local,
    score_without_reading,
    share_queries_and_keys,
)
from dycoke_lab.specimen.export import export
from dycoke_lab.specimen.packing import pack
from dycoke_lab.specimen.training_attention import register
from dycoke_lab.specimen.world import ACTORS, make_videos


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run; the same settings always draw the same videos."""

    seed: int = 0
    steps: int = 1300
    batch: int = 16  # videos a step; twice as many in the first stage
    threads: int = 0  # 0: torch's choice
    device: str = "auto"
    muon_lr: float = 4e-3
    adam_lr: float = 1.5e-3
    warmup: int = 100
    pass_mark: float = 0.9  # running word accuracy at which the curriculum moves on
    patience: int = 1200  # steps after which it moves on all the same


# Numbers of scenes drawn from, stage by stage; the last one favours long videos, which are learned last.
STAGES: tuple[tuple[int, ...], ...] = ((1,), (2,), (3,), (2, 3, 4, 4, 5, 5))


def optimizers(model: torch.nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices inside the two stacks of layers, and AdamW for the rest."""
    inner: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        matrix = parameter.ndim == 2 and ".layers." in name
        (inner if matrix else rest).append(parameter)
    adam = torch.optim.AdamW(rest, lr=config.adam_lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    return [
        adam,
        torch.optim.Muon(inner, lr=config.muon_lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
    ]


def has_bfloat16() -> bool:
    """Return whether this CPU multiplies bfloat16; if it is emulated, a step takes five times as long as in
    float32."""
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


class Trainer:
    """A resumable run: `folder` holds a checkpoint that is replaced atomically, and a log."""

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.device = "cuda" if config.device == "auto" and torch.cuda.is_available() else config.device
        self.device = "cpu" if self.device == "auto" else self.device
        self.precision = "bfloat16" if self.device != "cpu" or has_bfloat16() else "float32"
        torch.manual_seed(config.seed)
        self.model = build_model()
        share_queries_and_keys(self.model)
        keep_tokens_local(self.model)
        score_without_reading(self.model)
        self.model.to(device=self.device)  # type: ignore[call-overload,arg-type,call-arg]
        self.model.set_attn_implementation(register())
        self.optimizers = optimizers(self.model, config)
        self.rates = [o.param_groups[0]["lr"] for o in self.optimizers]
        self.step, self.stage, self.since, self.words, self.seconds = 0, 0, 0, 0.0, 0.0
        self.began = provenance()  # the code may be another by the time the run ends
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "checkpoint.pt").exists():
            self._load()

    def run(self, progress: bool = True) -> LlavaOnevisionForConditionalGeneration:
        """Train to the end. After Ctrl-C or a kill, the next run continues from the last checkpoint."""
        bar = tqdm(
            total=self.config.steps, initial=self.step, desc=f"seed {self.config.seed}", disable=not progress
        )
        try:
            while self.step < self.config.steps:
                start = time.monotonic()
                record = self._train_step()
                self.seconds += time.monotonic() - start
                bar.update()
                bar.set_postfix(
                    scenes=record["scenes"], loss=f"{record['loss']:.3f}", words=f"{self.words:.3f}"
                )
                if self.step % 20 == 0:
                    with (self.folder / "log.jsonl").open("a") as log:
                        log.write(json.dumps({**record, "minutes": round(self.seconds / 60, 2)}) + "\n")
                if self.step % 200 == 0:
                    self._save()
        finally:
            bar.close()
            self._save()
        return self.model

    def _train_step(self) -> dict[str, float]:
        config = self.config
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + self.step)
        choices = STAGES[self.stage]
        scenes = choices[int(torch.randint(len(choices), (1,), generator=generator))]
        videos = make_videos(config.batch * (2 if self.stage == 0 else 1), scenes, generator)
        packed = pack(videos, generator)
        targets = packed.targets.to(self.device)
        decay = 0.5 + 0.5 * math.cos(math.pi * self.step / config.steps)
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * (min(1, (self.step + 1) / config.warmup) * decay + 0.01)
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.precision == "bfloat16"):
            logits = self.model(
                input_ids=packed.ids.to(self.device),
                pixel_values_videos=videos.pixels.to(self.device) * 2 - 1,
                attention_mask=packed.mask.to(self.device),
                position_ids=packed.positions.to(self.device),
                logits_to_keep=targets.shape[1],
                use_cache=False,
            ).logits.float()
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        right = (logits.argmax(-1) == targets)[:, packed.describe].view(len(videos), scenes, ACTORS + 1)[
            ..., :ACTORS
        ]
        words = right.float().mean().item()
        self.words = words if self.since == 0 else 0.95 * self.words + 0.05 * words
        self.since += 1
        self.step += 1
        record = {
            "step": self.step,
            "scenes": scenes,
            "loss": loss.item(),
            "words": words,
            "running": self.words,
        }
        moved_on = (self.words > config.pass_mark and self.since > 60) or self.since > config.patience
        if moved_on and self.stage < len(STAGES) - 1:
            self.stage, self.since = self.stage + 1, 0
        return record

    def _save(self) -> None:
        state = {
            "config": asdict(self.config),
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "began": self.began,
            "progress": (self.step, self.stage, self.since, self.words, self.seconds),
        }
        torch.save(state, self.folder / "checkpoint.tmp")
        os.replace(self.folder / "checkpoint.tmp", self.folder / "checkpoint.pt")

    def _load(self) -> None:
        state = torch.load(self.folder / "checkpoint.pt", map_location=self.device)
        saved, wanted = state["config"], asdict(self.config)
        changed = {
            k: (saved[k], wanted[k])
            for k in wanted
            if k not in ("threads", "device") and saved[k] != wanted[k]
        }
        if changed:
            raise ValueError(
                f"{self.folder} holds a run with other settings {changed} (saved, wanted): "
                "choose another folder with --out, or delete this one"
            )
        self.model.load_state_dict(state["model"])
        for optimizer, saved_state in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved_state)
        self.step, self.stage, self.since, self.words, self.seconds = state["progress"]
        self.began = state["began"]
        log = self.folder / "log.jsonl"
        if log.exists():  # a kill can leave lines of steps that will be repeated
            lines = [line for line in log.read_text().splitlines() if json.loads(line)["step"] <= self.step]
            log.write_text("".join(line + "\n" for line in lines))


def train_and_export(config: TrainConfig, folder: Path, checkpoint: Path) -> float:
    """Train in `folder`, write the model and how it was made into `checkpoint`, and return the minutes it
    took."""
    trainer = Trainer(config, folder)
    model = trainer.run()
    minutes = round(trainer.seconds / 60, 1)
    checkpoint.mkdir(parents=True, exist_ok=True)
    (checkpoint / "log.jsonl").write_text((folder / "log.jsonl").read_text())
    about = {"began": trainer.began, "config": asdict(config), "precision": trainer.precision}
    export(model, checkpoint, about | {"minutes": minutes})
    return minutes
