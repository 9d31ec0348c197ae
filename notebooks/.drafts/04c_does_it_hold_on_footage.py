# %% md
# 04c Does it hold on footage?

**The claim, on models that nobody shaped for it: stock architectures, real handwriting, real photographs, a moving camera.**

Questions, methods, layers and measures were written down before these models were trained: [PROTOCOL.md](../data/results/PROTOCOL.md). It also says what would count against the claim. What follows is what came out, on
512 test videos for each specimen, with scans that no model was trained on (of the same 13 writers).
# %% code parameters
results = None  # folder for figures and tables; None: a folder of its own for this run
videos = 32  # held-out videos for each setting in the live run
# %% code
import pandas as pd
import torch

from dycoke_lab.evaluation import evidence as committed
from dycoke_lab.evaluation.grids import run_grid
from dycoke_lab.evaluation.settings import combinations
from dycoke_lab.evaluation.tables import losses, means, paired, with_intervals
from dycoke_lab.methods import label_of
from dycoke_lab.results import keep, open_folder
from dycoke_lab.specimen.specimens import SPECIMENS
from dycoke_lab.viz import evidence_figures, plots

folder = open_folder(results)
plots.style()
evidence, layers = committed.load_evidence(), committed.chosen_layers()
layer = layers["footage"]
# %% md
## What the videos look like

One video for each motion of the camera. A digit may appear late, leave early, drift, or be cut off; a box marks the tokens with writing on them.
# %% code
world = SPECIMENS["footage"].world
for motion in world.motions:
    video = world.draw(1, 2, torch.Generator().manual_seed(5), "test", motion)
    scenes = [f"scene {scene + 1}" for scene in video.scene[0].tolist()]
    shown = world.shown(video)[0]
    title = f"{motion}: “{' , '.join(' '.join(scene) for scene in shown)}”"
    figure = plots.filmstrip(video.pixels[0], scenes, title, outline=(video.actor[0] >= 0).unflatten(1, (6, 6)))
    keep(folder, f"04c-{motion.replace(' ', '-')}", figure)
# %% md
## The full cache

Words right in %, with intervals over videos.
# %% code
full = evidence[(evidence["method"] == "full") & (evidence["merge_ratio"] == 0)]
table = with_intervals(full, ["specimen", "question", "seed"])
table["words right, %"] = [f"{100 * m:.1f} [{100 * a:.1f}, {100 * b:.1f}]" for m, a, b in table[["mean", "low", "high"]].to_numpy()]
keep(folder, "04c-full", table)
table.pivot(index=["specimen", "seed"], columns="question", values="words right, %")
# %% md
## Every L

Ten per cent of the tokens, no merging. A dot is a specimen, the line their mean: three specimens give a range, not an interval.
# %% code
shown = ["dynamic", "layer_vote", "last_query", "uniform", "keep_none"]
rows = evidence[(evidence["specimen"] == "footage") & (evidence["question"] == "describe") & (evidence["merge_ratio"] == 0)]
every = means(rows[(rows["prune_ratio"] == 0.9) & rows["method"].isin(shown)], ["method", "seed", "from_layer"]).reset_index()
keep(folder, "04c-every-layer", every)
mean = 100 * every.groupby(["method", "from_layer"])["mean"].mean()
lead = (mean["dynamic"] - mean.drop("dynamic").drop("layer_vote").groupby("from_layer").max())
title = f"P = 0.9: dynamic leads one choice and uniform by {lead.max():.0f} points at L = {lead.idxmax()}, by {lead[3]:.0f} at the paper's L = 3"
figure = evidence_figures.method_lines(every, "from_layer", title, "L, the first pruned layer", methods=shown)
keep(folder, "04c-every-layer", figure);
# %% md
## The protocol's questions, one by one

Points of words lost against the full cache (of what merging retains), without merging: each specimen, at the paper's L and at the L that `diagnose` chose on other videos.
# %% code
named = ["dynamic", "layer_vote", "hindsight", "first_step", "last_query", "fastv", "random", "uniform", "keep_first", "keep_none"]
lost = losses(rows)
lost = lost[lost["from_layer"].isin([3, layer]) & lost["prune_ratio"].isin([0.7, 0.9]) & lost["method"].isin(named)]
table = (100 * lost.pivot_table(index="method", columns=["from_layer", "prune_ratio", "seed"], values="loss")).reindex(named)
keep(folder, "04c-losses", lost)
table.rename(index=label_of).rename_axis(columns=["L", "P", "seed"]).style.format("{:.1f}", na_rep="").format_index("{:g}", axis="columns")
# %% md
Dynamic pruning minus the others on the same videos, words (with intervals over videos) and whole answers (McNemar's exact test).
# %% code
pick = rows[rows["from_layer"].eq(layer) & rows["prune_ratio"].isin([0.7, 0.9])]
tests = pd.concat([paired(pick, "dynamic", other) for other in ("last_query", "uniform", "hindsight", "layer_vote")])
tests[["difference", "low", "high"]] *= 100
keep(folder, "04c-paired", tests)
tests["points of words"] = [f"{d:+.1f} [{a:+.1f}, {b:+.1f}]" for d, a, b in tests[["difference", "low", "high"]].to_numpy()]
tests["other"] = tests["other"].map(label_of)
tests[["prune_ratio", "other", "seed", "points of words", "only_one", "only_other", "p"]].style.hide(axis="index").format({"prune_ratio": "{:g}", "p": "{:.1e}"})
# %% md
## Merging, when the camera moves

Temporal merging compares tokens at the same place of neighbouring frames. Nothing is pruned here.
# %% code
merged = committed.merging()
keep(folder, "04c-merging", merged)
at = 100 * merged[merged["merge_ratio"] == 0.7].groupby("motion")["mean"].mean()
title = f"K = 0.7: {at['still']:.0f} % of words with a still camera, {at['fast pan']:.0f} % in a fast pan"
figure = evidence_figures.motion_lines(merged, title)
keep(folder, "04c-merging", figure);
# %% md
What merging loses can be told from the tokens alone: how unlike those merged away are to what stands for them (mean of 1 - cosine over all tokens), on other videos.
# %% code
start = merged[merged["merge_ratio"] == 0].set_index(["motion", "seed"])["mean"]
merged["lost"] = [start[m, s] - value for m, s, value in merged[["motion", "seed", "mean"]].itertuples(index=False)]
ranks = merged.groupby("seed").apply(lambda t: t["unlike"].corr(t["lost"], "spearman"), include_groups=False)
print("Rank correlation of unlikeness and words lost, over K and motions, by seed:", ranks.round(2).to_dict())
table = merged.pivot_table(index="merge_ratio", columns="motion", values=["unlike", "lost"], sort=False)
(100 * table).round(1)
# %% md
## By position in the answer

Scene after scene, at the chosen L, P = 0.9.
# %% code
there = rows[(rows["from_layer"].isin([0, layer])) & rows["prune_ratio"].isin([0, 0.9]) & (rows["scenes"] == 5)]
parts = pd.concat([there.assign(scene=n + 1, count=there["right"].str[n].astype(int), words=3) for n in range(5)])
position = means(parts[parts["method"].isin(["full", *shown])], ["method", "seed", "scene"]).reset_index()
keep(folder, "04c-position", position)
means_of = 100 * position.groupby(["method", "scene"])["mean"].mean()
title = f"Last scene of five: dynamic {means_of['dynamic', 5]:.0f} %, one-shot {means_of['last_query', 5]:.0f} %, uniform {means_of['uniform', 5]:.0f} %"
figure = evidence_figures.method_lines(position, "scene", title, "scene being described", methods=["full", *shown])
keep(folder, "04c-position", figure);
# %% md
## Does fidelity stand for accuracy?

`dycoke-lab fidelity` compares a method with the full cache's own answers, without labels. Here both are known: tokens changed on validation videos (given the answer so far), and words lost on test videos.
# %% code
cells = committed.predicted_losses()
cells = cells[cells["specimen"] == "footage"]
cells["specimen"] = "seed " + cells["seed"].astype(str)
rank = cells.groupby("specimen").apply(lambda t: t["changed"].corr(t["loss"], "spearman"), include_groups=False)
figure = evidence_figures.predicted(cells, "changed", f"Tokens changed and words lost: rank correlation {rank.min():.2f} to {rank.max():.2f}", "tokens changed, %")
keep(folder, "04c-fidelity", figure);
# %% md
## A live run

Some videos on the first specimen, now (about a minute).
# %% code
live = run_grid(combinations([0], merge=(0.0,), prune=(0.9,), layers=(3, layer), methods=shown, specimen="footage"), videos, folder / "04c-live")
from dycoke_lab.evaluation.tables import counted

now = means(counted(live), ["from_layer", "method"]).unstack("from_layer")
(100 * now).rename(index=label_of).round(1)
