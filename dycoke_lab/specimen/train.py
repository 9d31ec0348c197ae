"""Train a specimen from random weights: `dycoke-lab specimen train NAME --seed N`.

No visual token is ever merged, dropped or masked: DyCoke is training-free, and the evidence for it must be so
too.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from dycoke_lab.results.files import check_folder, damaged, held, replace_text, replacing
from dycoke_lab.results.provenance import provenance
from dycoke_lab.results.rows import parse_rows
from dycoke_lab.specimen.export import export
from dycoke_lab.specimen.packing import pack
from dycoke_lab.specimen.specimens import Recipe, specimen_named
from dycoke_lab.specimen.training_attention import register

LOG_EVERY, SAVE_EVERY = 20, 200  # steps
SAVED = {"config", "model", "optimizers", "began", "progress"}  # in a checkpoint


@dataclass(frozen=True)
class TrainConfig:
    """Which run; its recipe is the specimen's. The same settings always draw the same videos.

    steps, batch: other numbers than the recipe's, for tests. threads: 0: torch's choice.
    """

    specimen: str = "constructed"
    seed: int = 0
    steps: int | None = None
    batch: int | None = None
    threads: int = 0
    device: str = "auto"


def optimizers(model: torch.nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices inside the two stacks of layers, and AdamW for the rest."""
    inner: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        matrix = parameter.ndim == 2 and (".layers." in name or ".blocks." in name)
        (inner if matrix else rest).append(parameter)
    adam = torch.optim.AdamW(rest, lr=recipe.adam_lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    return [
        adam,
        torch.optim.Muon(inner, lr=recipe.muon_lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
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
        self.specimen = specimen_named(config.specimen)
        self.recipe = self.specimen.recipe
        self.steps = self.recipe.steps if config.steps is None else config.steps
        torch.manual_seed(config.seed)
        self.model = self.specimen.build()
        if self.specimen.restrict:
            self.specimen.restrict(self.model)
        self.model.to(device=self.device)
        self.model.set_attn_implementation(register())
        self.optimizers = optimizers(self.model, self.recipe)
        self.rates = [o.param_groups[0]["lr"] for o in self.optimizers]
        self.step, self.stage, self.since, self.words, self.seconds = 0, 0, 0, 0.0, 0.0
        self.whole = True  # False while a step changes the weights
        self.began = provenance()  # the code may be another by the time the run ends
        self.checkpoint, self.log = folder / "checkpoint.pt", folder / "log.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.exists():
            self._load()

    def run(self, progress: bool = True) -> Any:
        """Train to the end. After Ctrl-C or a kill, the next run continues from the last checkpoint."""
        self._forget_later_steps()
        bar = tqdm(
            total=self.steps, initial=self.step, desc=f"{self.specimen.name} {self.config.seed}",
            disable=not progress,
        )  # fmt: skip
        try:
            while self.step < self.steps:
                start = time.monotonic()
                record = self._train_step()
                self.seconds += time.monotonic() - start
                bar.update()
                bar.set_postfix(
                    scenes=record["scenes"], loss=f"{record['loss']:.3f}", words=f"{self.words:.3f}"
                )
                if self.step % LOG_EVERY == 0:
                    with self.log.open("a") as log:
                        log.write(json.dumps({**record, "minutes": round(self.seconds / 60, 2)}) + "\n")
                if self.step % SAVE_EVERY == 0:
                    self._save()
        finally:
            bar.close()
            if self.whole:
                self._save()
        return self.model

    def _train_step(self) -> dict[str, float]:
        recipe, stage = self.recipe, self.recipe.stages[self.stage]
        world, family = self.specimen.world, self.specimen.family
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.step)
        scenes = stage.scenes[int(torch.randint(len(stage.scenes), (1,), generator=generator))]
        cadence = {} if stage.cadence is None else {"cadence": stage.cadence}
        videos = world.draw(self.config.batch or stage.batch, scenes, generator, **cadence)
        before = family.positions(self.model, world, videos.scene.shape[1])
        packed = pack(videos, self.specimen, before, generator)
        targets = packed.targets.to(self.device)
        decay = 0.5 + 0.5 * math.cos(math.pi * self.step / self.steps)
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * (min(1, (self.step + 1) / recipe.warmup) * decay + 0.01)
        inputs = {name: part.to(self.device) for name, part in family.inputs(world, videos.pixels).items()}
        positions = packed.positions.to(self.device)
        if len(positions) > 1:  # axes, batch, length
            positions = positions[:, None].expand(-1, len(videos), -1)
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.precision == "bfloat16"):
            logits = self.model(
                input_ids=packed.ids.to(self.device),
                attention_mask=packed.mask.to(self.device),
                position_ids=positions,
                logits_to_keep=targets.shape[1],
                use_cache=False,
                **inputs,
            ).logits.float()
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.whole = False
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        words = (logits.argmax(-1) == targets)[:, packed.describe].float().mean().item()
        self.words = words if self.since == 0 else 0.95 * self.words + 0.05 * words
        self.since += 1
        self.step += 1
        record = {
            "step": self.step,
            "stage": self.stage,
            "scenes": scenes,
            "loss": round(loss.item(), 4),
            "words": round(words, 4),
            "running": round(self.words, 4),
        }
        moved_on = (self.words > stage.pass_mark and self.since > 60) or self.since > recipe.patience
        if moved_on and self.stage < len(recipe.stages) - 1:
            self.stage, self.since = self.stage + 1, 0
        self.whole = True
        return record

    def _save(self) -> None:
        state = {
            "config": asdict(self.config),
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "began": self.began,
            "progress": (self.step, self.stage, self.since, self.words, self.seconds),
        }
        with replacing(self.checkpoint) as new:
            torch.save(state, new)

    def _load(self) -> None:
        try:  # weights_only: no code that a pickle names is run
            state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        except OSError:
            raise
        except Exception as error:  # of many kinds, as the damage is
            raise damaged(self.checkpoint, "it is not tensors and plain values alone") from error
        if not isinstance(state, dict) or state.keys() != SAVED:
            raise damaged(self.checkpoint, "it is no training's")
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

    def _forget_later_steps(self) -> None:
        """Delete what a kill left in the log: lines of steps that will be repeated, and half a line."""
        if self.log.exists():
            rows = parse_rows(self.log, self.log.read_bytes())
            kept = [json.dumps(row) + "\n" for row in rows if row["step"] <= self.step]
            replace_text(self.log, "".join(kept))


def train_and_export(config: TrainConfig, folder: Path, checkpoint: Path) -> float:
    """Train in `folder`, write the model and how it was made into `checkpoint`, and return the minutes it
    took. Raises OSError for a folder that cannot be written, and while another training uses it."""
    specimen_named(config.specimen)
    for place in (folder, checkpoint):
        check_folder(place)
    with held(folder):
        trainer = Trainer(config, folder)
        model = trainer.run()
        minutes = round(trainer.seconds / 60, 1)
        about = {
            "began": trainer.began, "config": asdict(config), "recipe": asdict(trainer.recipe),
            "precision": trainer.precision, "minutes": minutes,
        }  # fmt: skip
        export(model, checkpoint, about, trainer.specimen, trainer.log.read_text())
    return minutes
