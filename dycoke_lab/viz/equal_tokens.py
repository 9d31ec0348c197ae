"""Have any method leave a share of a clip's visual tokens: its knob is solved on that clip."""

from __future__ import annotations

from statistics import fmean

from dycoke_lab.attention.capture import capture_attention
from dycoke_lab.evaluation.matrix import Part, made, solve
from dycoke_lab.methods import METHODS, PUBLISHED, TTM, Compression, Merger, Selector, compose
from dycoke_lab.viz.clip_runs import ClipRunner

Setting = tuple[str, str, float, float, int]  # clip, method, K, P, L


def why_not(method: str) -> str:
    """Return why one picture cannot show what a method keeps; "" if it can."""
    kind = METHODS[method]
    if method == "hindsight":
        return "hindsight needs to know the answer first"
    if issubclass(kind, Selector) and kind.scope != "shared":
        return f"{kind.label} chooses in each {kind.scope} by itself, so there is no one set of kept tokens"
    return ""


def solved(method: str) -> bool:
    """Whether a method's knob must be solved for a share. For the others P says it."""
    return method in PUBLISHED or issubclass(METHODS[method], Merger)


def at_share(
    runner: ClipRunner, clip: str, method: str, merge_ratio: float = 0.0, prune_ratio: float = 0.75,
    from_layer: int = 3,
) -> Compression:  # fmt: skip
    """Return temporal merging by K, then a method that leaves 1 - P of what merging retains; a method before
    the LLM takes the place of temporal merging. A solved knob is remembered."""
    setting = (clip, method, merge_ratio, prune_ratio, from_layer)
    if not solved(method):
        return compose(method, merge_ratio, prune_ratio, from_layer)
    if setting not in runner.fits:
        runner.fits[setting] = _solve(runner, *setting)
    return runner.fits[setting]


def is_known(runner: ClipRunner, setting: Setting) -> bool:
    """Whether `at_share` knows the answer at once."""
    return not solved(setting[1]) or setting in runner.fits


def _solve(
    runner: ClipRunner, clip: str, method: str, merge_ratio: float, prune_ratio: float, from_layer: int
) -> Compression:
    merging = Compression()
    if merge_ratio and not issubclass(METHODS[method], Merger):
        merging = Compression.of(TTM(merge_ratio))
    whole = survivors(runner, clip, merging, from_layer) if merging.parts else 1.0
    part = Part(method, 1 - prune_ratio)
    fields = solve(
        part,
        from_layer,
        lambda found: survivors(runner, clip, merging + found, from_layer) / whole,
        near=0.01,
    )
    return merging + made(Part(method, None, tuple(fields.items())), from_layer)


def survivors(runner: ClipRunner, clip: str, compression: Compression, from_layer: int) -> float:
    """Return the share of a clip's visual tokens that the layers from L on attend to at a decoding step."""
    model, inputs = runner.model(clip), runner.clip(clip).inputs
    with runner.lock, compression(model), capture_attention(model) as trace:
        model.generate(**inputs, max_new_tokens=2)
    return fmean(
        float(trace.kept(layer)[-1].float().mean()) for layer in range(from_layer, runner.depth(clip))
    )
