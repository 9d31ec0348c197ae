# %% md
# 04b Which layer aims?

**DyCoke takes the attention of layer L - 1 for what the layers above need. Which L is right for a model, and can one know beforehand?**

Two things decide: whether layer L - 1 looks where the layers above will look (it *aims*), and whether anything is left to read from L on (*unread*). Both can be measured without labels, from one run with the full cache and
one without video from L on. `dycoke-lab diagnose VIDEO... --question Q` does it for your model and videos.
# %% code parameters
results = None  # folder for figures and tables; None: a folder of its own for this run
specimen, seed = "footage", 0
prune_ratio = 0.9  # P
# %% code
import numpy as np
import pandas as pd
import torch

from dycoke_lab import capture_attention, load_model
from dycoke_lab.evaluation.diagnosis import diagnose, diagnosis_text
from dycoke_lab.evaluation.evidence import chosen_layers, predicted_losses
from dycoke_lab.evaluation.grids import answer_task
from dycoke_lab.evaluation.predictions import rank_correlations
from dycoke_lab.results import keep, open_folder
from dycoke_lab.specimen.tasks import make_task
from dycoke_lab.viz import evidence_figures, plots

folder = open_folder(results)
plots.style()
model, _ = load_model(specimen, seed)
task = make_task("describe", 16, 4, specimen=specimen, split="validation")
# %% md
## Who looks at the right place? (with the truth)

Of the attention within the video, the share on the tokens that show the very digit that is being written: each layer, each head. If attention were even, it would be as small as the title says.
# %% code
from dycoke_lab.attention.drift import mass_on

with capture_attention(model, heads="all") as trace:
    answer_task(model, task)
attention = torch.stack(trace.attention[: task.answer.shape[1]])  # steps, layers, heads, videos, tokens
named = (task.scene[0] >= 0).nonzero()[:, 0]
places = torch.stack([task.tokens_of(sample)[1] for sample in range(len(task.ids))], 1)[named]  # steps, videos, tokens
within = attention[named] / attention[named].sum(-1, keepdim=True)
share = (within * places[:, None, None]).sum(-1).mean((0, 3))
best = divmod(int(share.argmax()), share.shape[1])
title = f"Layer {best[0]}, head {best[1]} aims best: {share.max():.0%} on the digit named (even attention: {places.float().mean():.1%})"
figure = evidence_figures.head_map(share, title, "attention on the digit named, %")
keep(folder, "04b-heads", figure);
# %% md
## The same question without the truth: diagnose

For each L: how many of the answer's tokens change if the layers from L on read no video, and under dynamic and one-shot pruning; how much of what those layers attend to is *covered* by the tokens kept. Nothing here needs to know the right answer.
# %% code
inputs = {"input_ids": task.ids, **task.inputs}
diagnosis = diagnose(model, inputs, [prune_ratio])
keep(folder, "04b-diagnosis", diagnosis)
print(diagnosis_text(diagnosis, prune_ratio))
# %% md
## Does it predict?

Diagnosed on validation videos, then compared with the words that each method really lost on 512 test videos with other handwriting (`data/results`). A dot is a cell of method, L and P, without merging.
*Plain* is unread x (1 - coverage). *Expected* leaves out what every step attends to alike, a sink (04b's name for it: *aim*), and was named before these specimens were tested (PROTOCOL.md).
# %% code
cells = predicted_losses()
cells["specimen"] = cells["specimen"] + " " + cells["seed"].astype(str)
rows = []
for name, group in cells.groupby("specimen"):
    for measure in ("unread", "plain", "expected", "changed"):
        everywhere, within_layer = rank_correlations(group, measure)
        rows.append({"specimen": name, "measure": measure, "all cells": everywhere, "within an L": within_layer})
correlations = pd.DataFrame(rows)
keep(folder, "04b-rank-correlations", correlations)
correlations.pivot(index="specimen", columns="measure").style.format("{:.2f}").set_caption("Spearman's rank correlation with the measured loss")
# %% code
footage = cells[cells["specimen"].str.startswith("footage")]
low, high = correlations[(correlations["measure"] == "expected") & correlations["specimen"].str.startswith("footage")]["all cells"].agg(["min", "max"])
title = f"Expected and measured loss: rank correlation {low:.2f} to {high:.2f}"
figure = evidence_figures.predicted(footage, "expected", title, "expected loss, % of tokens")
keep(folder, "04b-predicted", figure);
# %% md
## The L that was chosen so

The lowest L at which dynamic pruning changes at most 2 % of the tokens at P = 0.7, on validation videos. The paper takes L = 3.
# %% code
layers = pd.Series(chosen_layers(), name="L").rename_axis("specimen").reset_index()
keep(folder, "04b-layers", layers)
layers.style.hide(axis="index")
# %% md
## Look yourself

Move the layer: which one goes from digit to digit with the answer? In JupyterLab (`make lab`) every control has a tooltip, and arrow keys work too.
# %% code
from IPython.display import Image

from dycoke_lab.methods import compose
from dycoke_lab.viz.clip_runs import ClipRunner
from dycoke_lab.viz.frames import attention_view, png
from dycoke_lab.viz.widgets import AttentionExplorer

runner, clip, layer = ClipRunner(*load_model("footage"), "footage"), "footage-hand-held.mp4", chosen_layers()["footage"]
run = runner.run(clip, compose("dynamic", 0.0, prune_ratio, layer))
figure = attention_view(runner.clip(clip), run, step=5, layer=layer - 1, head=None)
keep(folder, "04b-explorer", figure)
Image(png(figure))
# %% code
AttentionExplorer(runner, clip, 0.0, prune_ratio, layer)
# %% md
**In three sentences.** In a stock model, several layers aim, none of them from the start, and reading is spread over those above. Where to prune can be measured on a few videos without any label. Next: what does the method do at the right L, and at the paper's, on models that nobody shaped? 04c.
