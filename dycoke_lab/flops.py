"""What reading a prompt and writing a word cost in arithmetic: the paper's count, and an honest one.

The paper's column (its Table 1) counts multiply-accumulates, of visual tokens only, as if every query head had keys of its own,
every token saw all others, and an MLP had two matrices. `prefill` counts floating point operations (two for each
multiply-accumulate), of all tokens, with grouped keys, causal attention, the three matrices of a SwiGLU MLP and the output layer;
what compressing costs itself is counted, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dycoke_lab.shapes import Shape, Tower

LLAVA_OV_7B = (28, 3584, 18944)  # layers, hidden size, MLP width of the decoder; 32 frames are 6,272 visual tokens


def prefill_flops(tokens: float, layers: int, hidden: int, mlp: int) -> float:
    """layers * (4 n d^2 + 2 n^2 d + 2 n d m) for n visual tokens, d hidden, m MLP width: the paper's column."""
    return layers * (4 * tokens * hidden**2 + 2 * tokens**2 * hidden + 2 * tokens * hidden * mlp)


def decoder_shape(model: Any) -> tuple[int, int, int]:
    """Layers, hidden size and MLP width of a model's decoder."""
    text = model.config.get_text_config()
    return text.num_hidden_layers, text.hidden_size, text.intermediate_size


def saved(retained: float, tokens: int, shape: tuple[int, int, int]) -> float:
    """The share of the prefill's FLOPs that is saved where `retained` of `tokens` visual tokens remain, by the paper's count."""
    return 1 - prefill_flops(retained * tokens, *shape) / prefill_flops(tokens, *shape)


def layer(shape: Shape) -> int:
    """Of one token in one layer, attention over keys left out: 2 (d h (2 q + 2 k) + 3 d m), q query and k key heads of size h."""
    return 2 * shape.hidden * (shape.head_dim * (2 * shape.heads + 2 * shape.kv_heads) + 3 * shape.mlp)


def attention(shape: Shape, pairs: float) -> float:
    """Of one layer, for so many pairs of a query and a key: a product for the score, another for the value."""
    return 4 * shape.heads * shape.head_dim * pairs


def prefill(shape: Shape, lengths: Sequence[int], logits: int = 1) -> float:
    """Of one prompt of so many tokens in each layer (FastV's get fewer on the way), and logits at so many positions."""
    own = sum(n * layer(shape) + attention(shape, n * (n + 1) / 2) for n in lengths)
    return own + 2 * logits * shape.hidden * shape.vocab


def step(shape: Shape, lengths: Sequence[int]) -> float:
    """Of one new word that attends to so many columns in each layer."""
    return sum(layer(shape) + attention(shape, n) for n in lengths) + 2 * shape.hidden * shape.vocab


def merging(shape: Shape, compared: int) -> float:
    """Of temporal merging: for each token compared, three products of length d (with its reference, and each with itself)."""
    return 6 * shape.hidden * compared


def selection(shape: Shape, columns: int, visual: int) -> float:
    """Of one selection: scores of one query over all columns, their mean over heads, the comparison with the step before; without
    sorting, which is no arithmetic."""
    return 2 * shape.heads * shape.head_dim * columns + shape.heads * columns + 6 * visual


def vision(tower: Tower, frames: int) -> float:
    """Of encoding frames, the embedding of patches and the projector left out."""
    own = 2 * tower.hidden * (4 * tower.hidden + tower.matrices * tower.mlp) + 4 * tower.hidden * tower.sees
    return frames * tower.patches**2 * tower.layers * own
