"""Solutions of notebook 10's exercises."""

import math


def kv_bytes(layers, kv_heads, head_dim, tokens, element):
    """A key and a value, of each key head in each layer."""
    return 2 * layers * kv_heads * head_dim * tokens * element


def step_seconds(weights, kv, batch, operations, bandwidth, peak):
    """The weights are read once for the whole batch; the slower of reading and computing decides."""
    reading = (weights + batch * kv) / bandwidth
    computing = batch * operations / peak
    return max(reading, computing)


def steps_to_pay(cost, saved):
    """The least whole n with n * saved >= cost."""
    return math.inf if saved <= 0 else math.ceil(cost / saved)
