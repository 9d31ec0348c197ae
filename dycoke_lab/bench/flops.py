"""Arithmetic of a prefill and a decoding step: the paper's count, and an honest one.

The paper's column (its Table 1) counts multiply-accumulates, of visual tokens only, as if every query head
had keys of its own, every token attended to all others, and an MLP had two matrices. `prefill` counts
floating point operations (two for each multiply-accumulate), of all tokens, with keys shared by several query
heads, causal attention, the three matrices of a SwiGLU MLP and the output layer. The cost of compressing is
counted, too.
"""

from __future__ import annotations

from collections.abc import Sequence

from dycoke_lab.bench.model_shapes import Shape, Tower


def prefill_flops(tokens: float, layers: int, hidden: int, mlp: int) -> float:
    """Return the paper's count: layers * (4 n d^2 + 2 n^2 d + 2 n d m) for n visual tokens, d hidden, m MLP
    width.
    """
    return layers * (4 * tokens * hidden**2 + 2 * tokens**2 * hidden + 2 * tokens * hidden * mlp)


def layer(shape: Shape) -> int:
    """Count one token in one layer without attention: 2 (d h (2 q + 2 k) + 3 d m), q query and k key heads of
    size h.
    """
    return 2 * shape.hidden * (shape.head_dim * (2 * shape.heads + 2 * shape.kv_heads) + 3 * shape.mlp)


def attention(shape: Shape, pairs: float) -> float:
    """Count one layer's attention over so many pairs of query and key: a product for the score, one for the
    value.
    """
    return 4 * shape.heads * shape.head_dim * pairs


def prefill(shape: Shape, lengths: Sequence[int], logits: int = 1) -> float:
    """Count one prompt: tokens in each layer (FastV drops some on the way), and at how many of them logits
    are computed.
    """
    own = sum(n * layer(shape) + attention(shape, n * (n + 1) / 2) for n in lengths)
    return own + 2 * logits * shape.hidden * shape.vocab


def step(shape: Shape, lengths: Sequence[int]) -> float:
    """Count one decoding step that attends to so many tokens in each layer."""
    return sum(layer(shape) + attention(shape, n) for n in lengths) + 2 * shape.hidden * shape.vocab


def merging(shape: Shape, compared: int) -> float:
    """Count temporal merging: for each compared token three products of length d (with its reference, each
    with itself).
    """
    return 6 * shape.hidden * compared


def selection(shape: Shape, tokens: int, visual: int) -> float:
    """Count one selection: scores of one query over all tokens, their mean over heads, the comparison with
    the last step.

    Sorting is no arithmetic.
    """
    return 2 * shape.heads * shape.head_dim * tokens + shape.heads * tokens + 6 * visual


def vision(tower: Tower, frames: int) -> float:
    """Count the encoding of frames without the embedding of patches and the projector."""
    own = (
        2 * tower.hidden * (4 * tower.hidden + tower.matrices * tower.mlp) + 4 * tower.hidden * tower.attended
    )
    return frames * tower.patches**2 * tower.layers * own
