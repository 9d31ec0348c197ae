"""A matrix that nobody ran: rows of every line, drawn at random, to try tables and figures on."""

from __future__ import annotations

import json
import random

from dycoke_lab.evaluation.matrix import FULL, LAYERS, plan

WORDS = {"describe": 3, "actor": 1, "compare": 1}  # of a part


def write_matrix(folder, specimens=("constructed", "footage"), seeds=3, videos=8, questions=tuple(WORDS)):
    """Write a folder as `dycoke-lab matrix` does, for each specimen and seed."""
    for specimen in specimens:
        layer, depth = LAYERS[specimen], {"constructed": 6, "footage": 12}[specimen]
        for seed in range(seeds):
            out = folder / specimen / f"seed-{seed}"
            out.mkdir(parents=True)
            (out / "provenance.json").write_text(json.dumps({"videos": videos, "from_layer": layer}))
            draw = random.Random(f"{specimen} {seed}")
            rows = [
                _row(line, question, scenes, layer, depth, videos // 2, draw)
                for line in (FULL, *plan()) for question in questions for scenes in (3, 5)
                if question == "describe" or line.group != "ablation of DyCoke"
            ]  # fmt: skip
            (out / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _row(line, question, scenes, layer, depth, videos, draw):
    parts = {"describe": scenes, "actor": 1, "compare": 3}[question]
    names = [part.method for part in line.parts]
    plain = line.group == "control" and bool(names) and names[0].endswith(("nth", "tokens", "frames"))
    before = line.group == "before the LLM" or plain
    hash_ = random.Random(line.key[: line.key.rindex("]")]).random()  # as good in each seed
    keep = 1 - (1 - line.share) ** 2 * (0.2 + 0.8 * hash_) * (0.9 if before else 0.6)
    right = [
        "".join(str(sum(draw.random() < keep for _ in range(WORDS[question]))) for _ in range(parts))
        for _ in range(videos)
    ]
    words = WORDS[question] * parts
    exact = "".join(str(int(sum(map(int, digits)) == words)) for digits in right)
    low = line.share if before else 1.0
    read = [low] * layer + [line.share] * (depth - layer)
    return {
        "line": line.key, "question": question, "scenes": scenes, "first": 0, "words": words, "right": right,
        "exact": exact, "changed": exact.translate(str.maketrans("01", "10")), "agree": keep, "read": read,
        "held": read, "prefill": [low] * depth if before or line.group == "on the KV cache" else read,
        "per frame": 16 * line.share,
    }  # fmt: skip
