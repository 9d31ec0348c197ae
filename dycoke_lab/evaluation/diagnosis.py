"""Where will pruning work? Measured without labels: one run with the full cache, and for each L one without
video from there on.

unread: the share of the answer's tokens that come out otherwise if the layers from L on read no video at all.
coverage: the share of those layers' attention within the video that falls on what a method keeps. aim: the
same of the attention by which a step differs from the others (`coverage.aimed`), over the best possible.
expected: mean over steps of unread x (1 - aim) ** 3, which ranks methods and layers by the loss that is to be
expected. changed: the share of the answer's tokens that do come out otherwise under the method.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from dycoke_lab.apply import prunable_layers
from dycoke_lab.attention.capture import capture_attention
from dycoke_lab.attention.coverage import aimed, best, chosen, coverage, looked
from dycoke_lab.attention.trace import Trace
from dycoke_lab.methods import METHODS, Compression, KeepNone, Selector, label_of
from dycoke_lab.runtime.shared_prefill import SharedPrefill

BEST = "best possible"
SHARPNESS = 3  # chosen on the pilot, as PROTOCOL.md says
DIAGNOSED = (
    "dynamic",
    "layer_vote",
    "last_query",
    "first_step",
    "random",
    "uniform",
    "keep_first",
    "hindsight",
)
RUN = ("dynamic", "last_query")
LOSS = 0.02  # of the answer's tokens: what may change where L is recommended


def diagnose(
    model: Any, inputs: Mapping[str, Any], prune: Iterable[float] = (0.7, 0.9),
    methods: Iterable[str] = DIAGNOSED, run: Iterable[str] = RUN, merging: Compression | None = None,
    max_new_tokens: int = 128,
) -> pd.DataFrame:  # fmt: skip
    """Return a row for each sample of a prompt, L, P and method: unread, coverage (of the mean over heads,
    and by head), aim, expected, changed.

    inputs: a prompt with a video, or several of one length. methods: names of selectors; the best possible
    choice of as many tokens is added. run: those of the methods that are run, for `changed`. merging: before
    all of it.
    """
    merging = merging or Compression()
    with torch.inference_mode(), merging(model), capture_attention(model, heads="all") as trace:
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
    answer = ids[:, inputs["input_ids"].shape[1] :]
    written = written_tokens(answer, model.generation_config.eos_token_id)
    trace.attention, trace.attended = trace.attention[: answer.shape[1]], trace.attended[: answer.shape[1]]
    shared = SharedPrefill(model, dict(inputs), merging)
    rows = []
    steps, shares = written[:, 1:].T, [looked(trace), looked(trace, by_head=True)]
    for from_layer, layers in prunable_layers(model).items():
        unread = _changed(shared, KeepNone(0.5, from_layer), answer)
        views = [share[:, layers].mean(1) for share in shares]
        views.append(aimed(views[0], steps))
        for ratio in prune:
            ideal = best(views[2], trace.attended[0][layers[0]], ratio)
            possible = coverage(ideal, views[2]).clamp(min=1e-12)
            for name in (*methods, BEST):
                selector = None if name == BEST else _selector(name, trace, from_layer, ratio)
                kept = chosen(selector, trace) if selector else ideal
                mean, by_head, aim = (coverage(kept, view) for view in views)
                aim = (aim / possible).clamp(max=1)
                found = {
                    "unread": unread, "coverage": mean, "coverage_by_head": by_head, "aim": aim,
                    "expected": unread * (1 - aim) ** SHARPNESS,
                }  # fmt: skip
                if name in run:
                    found["changed"] = _changed(shared, selector, answer)
                about = {"from_layer": from_layer, "prune_ratio": ratio, "method": name}
                values = {key: mean_over(part, steps).tolist() for key, part in found.items()}
                rows.append(pd.DataFrame({"sample": range(len(answer)), **about, **values}))
    return pd.concat(rows, ignore_index=True)


def _selector(name: str, trace: Trace, from_layer: int, ratio: float) -> Selector:
    fields = {"future": trace.future(from_layer)} if name == "hindsight" else {}
    return METHODS[name](prune_ratio=ratio, from_layer=from_layer, **fields)  # type: ignore[call-arg,return-value]


def _changed(shared: SharedPrefill, selector: Selector | None, answer: Tensor) -> Tensor:
    """Return which of the answer's tokens, after the first, come out otherwise when the answer so far is
    given: (steps, batch), 0 or 1."""
    return (shared.forced(selector, answer).argmax(-1) != answer)[:, 1:].T.float()


def written_tokens(answer: Tensor, end: int | list[int] | None) -> Tensor:
    """Return which tokens of answers (batch, tokens) were written: those up to the end token, and itself; all
    for a model without one."""
    if end is None:
        return torch.ones_like(answer, dtype=torch.bool)
    ends = torch.isin(answer, torch.tensor(end, device=answer.device))
    return ends.cumsum(1) - ends.long() == 0


def mean_over(values: Tensor, where: Tensor) -> Tensor:
    """Return the mean over steps, those that count, of (steps, batch)."""
    return (values * where).sum(0) / where.sum(0).clamp(min=1)


def recommended(table: pd.DataFrame, method: str = "dynamic", loss: float = LOSS) -> int:
    """Return the lowest L at which the method changes at most this share of the tokens, mean over videos;
    where there is none, the L at which it changes least."""
    by_layer = table[table["method"] == method].groupby("from_layer")["changed"].mean()
    fine = by_layer[by_layer <= loss]
    return int(fine.index.min() if len(fine) else by_layer.idxmin())


def diagnosis_text(table: pd.DataFrame, prune_ratio: float) -> str:
    """Return the table for a terminal, a recommendation, and what to expect of dynamic and of one-shot."""
    rows = table[table["prune_ratio"] == prune_ratio]
    by_layer = rows.groupby(["from_layer", "method"])[["unread", "coverage", "changed"]].mean().unstack()
    shown = {("", "no video"): by_layer["unread", BEST]}
    for name in ("dynamic", "last_query", "random", BEST):
        shown[label_of(name), "covered"] = by_layer["coverage", name]
        if name in RUN:
            shown[label_of(name), "changed"] = by_layer["changed", name]
    layer = recommended(rows)
    dynamic, once = (f"{100 * by_layer['changed', name][layer]:.1f} %" for name in RUN)
    return "\n\n".join([
        f"P = {prune_ratio:g}. changed: % of the answer's tokens that come out otherwise; covered: % of the "
        "attention\nwithin the video, in the layers from L on, that falls on the tokens kept.",
        (100 * pd.DataFrame(shown)).round(1).rename_axis("L").to_string(),
        f"Recommended: L = {layer}, the lowest where dynamic pruning changes at most {100 * LOSS:.0f} % of "
        f"the tokens,\nor the least. It changes {dynamic} there; one-shot, last query, changes {once}.",
    ])  # fmt: skip
