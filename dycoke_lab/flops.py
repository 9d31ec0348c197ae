"""What reading a prompt costs, by the paper's own formula (its Table 1)."""

from __future__ import annotations

from typing import Any

LLAVA_OV_7B = (28, 3584, 18944)  # layers, hidden size, MLP width of the decoder; 32 frames are 6,272 visual tokens


def prefill_flops(tokens: float, layers: int, hidden: int, mlp: int) -> float:
    """layers * (4 n d^2 + 2 n^2 d + 2 n d m) for n visual tokens, d hidden, m MLP width.

    The paper's column: multiply-accumulates, visual tokens only, full multi-head attention and two MLP matrices.
    """
    return layers * (4 * tokens * hidden**2 + 2 * tokens**2 * hidden + 2 * tokens * hidden * mlp)


def decoder_shape(model: Any) -> tuple[int, int, int]:
    """Layers, hidden size and MLP width of a model's decoder."""
    text = model.config.get_text_config()
    return text.num_hidden_layers, text.hidden_size, text.intermediate_size


def saved(retained: float, tokens: int, shape: tuple[int, int, int]) -> float:
    """The share of the prefill's FLOPs that is saved where `retained` of `tokens` visual tokens remain."""
    return 1 - prefill_flops(retained * tokens, *shape) / prefill_flops(tokens, *shape)
