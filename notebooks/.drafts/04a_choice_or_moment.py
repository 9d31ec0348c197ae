# %% md
# 04a Is it the choice or the moment?

**Does one-shot pruning fail because it chooses badly, or because it chooses once?**

All methods below keep as many visual tokens in the layers from *L* on. They differ in who chooses them, and when:

| | chooses by | when |
|---|---|---|
| dynamic (DyCoke) | attention in layer L - 1 | at every step; the others can return |
| first step only | the same | once, at the first decoding step |
| one-shot, last query (FastV's choice) | the same | once, when the prompt has been read |
| hindsight | the attention of the whole answer, which only a second run can know | once |
| random | nothing | once |
| no video from L on | keeps nothing: what is still right was read below L | once |

Two kinds of specimen answer. The *constructed* ones were built so that the effect can be seen. The *footage* ones are stock models of 12 layers on real handwriting
under a moving camera: nobody shaped them for any method (04c says how they were made, and what was written down beforehand).
# %% code parameters
results = None  # folder for figures and tables; None: a folder of its own for this run
videos = 32  # held-out videos for each setting in the live run
# %% code
import pandas as pd

from dycoke_lab.evaluation.evidence import at_layer, chosen_layers, load_evidence
from dycoke_lab.evaluation.grids import run_grid
from dycoke_lab.evaluation.metrics import headline
from dycoke_lab.evaluation.settings import combinations
from dycoke_lab.evaluation.tables import means
from dycoke_lab.methods import label_of
from dycoke_lab.results import keep, open_folder
from dycoke_lab.viz import evidence_figures, plots

folder = open_folder(results)
plots.style()
evidence = load_evidence()
layers = chosen_layers()
print("L by diagnose, on validation videos:", layers)
# %% md
## One choice, made in hindsight

Words right in descriptions of all scenes, by the share of tokens kept, without merging. A dot is a specimen, the line their mean. L is the layer that `diagnose` chose on other videos.
# %% code
shown = ["dynamic", "hindsight", "first_step", "last_query", "random", "keep_none"]
table = at_layer(evidence, "footage", layers["footage"], shown)
keep(folder, "04a-choice-footage", table)
mean = 100 * table.groupby(["method", "kept"])["mean"].mean()
title = f"Keeping 10 %: {mean['hindsight', 10]:.0f} % of words by one choice in hindsight, {mean['last_query', 10]:.0f} % by the first look"
labels = dict(xlabel="visual tokens kept from L on, %", ticks=(50, 30, 10, 5))
figure = evidence_figures.method_lines(table, "kept", title, methods=shown, **labels)
keep(folder, "04a-choice-footage", figure);
# %% code
built = at_layer(evidence, "constructed", 3, shown)
keep(folder, "04a-choice-constructed", built)
mean = 100 * built.groupby(["method", "kept"])["mean"].mean()
title = f"Constructed specimens, 10 %: hindsight {mean['hindsight', 10]:.0f} %, dynamic {mean['dynamic', 10]:.0f} %, first look {mean['last_query', 10]:.0f} %"
figure = evidence_figures.method_lines(built, "kept", title, methods=shown, **{**labels, "ticks": (30, 10, 5)})
keep(folder, "04a-choice-constructed", figure);
# %% md
So a choice made once can be good enough, if it knows the answer. What the first look lacks is knowledge of what will be asked of it later: it is the moment. The fewer tokens may stay, the
less any single choice can hold what all words need.

## Short answers: where choosing once is fine

One word about one place is written by the very attention that chose the tokens. A benchmark of such questions can't show the difference.
# %% code
short = means(evidence[(evidence["question"] == "actor") & (evidence["merge_ratio"] == 0)], ["specimen", "seed", "from_layer", "prune_ratio", "method"]).reset_index()
lost = short.merge(short[short["method"] == "full"].drop(columns=["from_layer", "prune_ratio", "method"]), on=["specimen", "seed"], suffixes=("", "_full"))
lost["lost"] = 100 * (lost["mean_full"] - lost["mean"])
at = lost["from_layer"] == lost["specimen"].map({**layers, "constructed": 3})
lost = lost[at & (lost["prune_ratio"] == 0.9) & lost["method"].isin(["dynamic", "last_query", "random"])]
lost = lost.pivot_table(index=["specimen", "seed"], columns="method", values="lost").rename(columns=label_of)
keep(folder, "04a-short", lost.reset_index())
lost.style.format("{:.1f}").set_caption("points of one-word answers lost, P = 0.9")
# %% md
## One video, two answers

A clip of footage, and as many active tokens twice: on the left they are chosen once. In JupyterLab (`make lab`), move it: every control has a tooltip, and arrow keys work too.
# %% code
from IPython.display import Image

from dycoke_lab import load_model
from dycoke_lab.methods import compose
from dycoke_lab.viz.clip_runs import ClipRunner
from dycoke_lab.viz.frames import compare_view, png
from dycoke_lab.viz.widgets import OneShotVsDynamic

runner, clip = ClipRunner(*load_model("footage"), "footage"), "footage-slow-pan.mp4"
names, setting = ("last_query", "dynamic"), dict(merge_ratio=0.0, prune_ratio=0.9, from_layer=layers["footage"])
runs = [(label_of(name), runner.run(clip, compose(name, **setting))) for name in names]
figure = compare_view(runner.clip(clip), runs, step=5)
keep(folder, "04a-explorer", figure)
Image(png(figure))
# %% code
OneShotVsDynamic(runner, clip, merge_ratio=0.0, prune_ratio=0.9, from_layer=layers["footage"], step=5)
# %% md
## How often must one choose again?

`reselect_below` sets it: a step selects anew only if its attention has a cosine below this with the step before. Each point is a threshold.
# %% code
from dycoke_lab.evaluation.evidence import reselection

again = reselection(layers["footage"])
keep(folder, "04a-reselection", again)
often, never = (again[(again["prune_ratio"] == 0.9) & (again["reselect_below"] == x)]["mean"].iloc[0] for x in (2.0, -1.0))
title = f"P = 0.9: {100 * often:.0f} % of words with a selection at every step, {100 * never:.0f} % with one for the answer"
figure = evidence_figures.reselections(again, title)
keep(folder, "04a-reselection", figure);
# %% md
Selecting costs time: scores must be ranked, and keys and values that return must be moved. What it costs, and what pruning buys, stands in [docs/speed-and-memory.md](../docs/speed-and-memory.md) and notebook 08. Where most of the
selected tokens change from step to step, as here, the saving of pruning and the cost of selecting nearly cancel at one prompt on a CPU; on a GPU with a large batch the same was measured.

## A live run

Real greedy decoding on one footage specimen, now (about a minute).
# %% code
live = run_grid(combinations([0], merge=(0.0,), prune=(0.9,), layers=(layers["footage"],), specimen="footage"), videos, folder / "04a-live")
table = headline(live)
keep(folder, "04a-headline", table)
shown = table.rename(columns={"merge_ratio": "K", "prune_ratio": "P"})
shown["method"] = shown["method"].map(label_of)
shown.drop(columns="from_layer").style.hide(axis="index").format({"retained": "{:.1%}", "K": "{:g}", "P": "{:g}"}, na_rep="")
# %% md
**In three sentences.** One perfect choice would do for most of these answers, at 10 % of the tokens; no first look can make it. Choosing at every step comes near it, without knowing the future. Next: everything here depends on L. Which layer aims? 04b.
