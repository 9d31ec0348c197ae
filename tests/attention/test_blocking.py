"""Blocking equals a mask on the unmodified model, layer by layer and head by head, and leaves nothing."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from helpers.families import decoder_of, frames
from helpers.matrix import generate, longer
from helpers.tiny import inputs_of

from dycoke_lab import Block, DyCoke, capture_attention
from dycoke_lab.models import adapter_for

BLOCKS = {
    "a frame": Block(frames=[1]),
    "tokens, above": Block(tokens=[3, 17, 40], from_layer=2),
    "a head": Block(heads=[1], from_layer=1),
    "a frame from a head": Block(frames=[0, 2], heads=[0, 3], from_layer=1),
    "one layer": Block(frames=[1], from_layer=1, layers=1),
}


def masked(block, columns, frame, module, args, inputs):
    """Before a decoder layer: write the lowest number where it must not look."""
    mask = inputs["attention_mask"].clone()  # (batch, 1, queries, keys)
    mask = mask.expand(-1, module.self_attn.config.num_attention_heads, -1, -1).clone()
    heads = range(mask.shape[1]) if block.heads is None else block.heads
    for b in range(len(mask)):
        for token, column in enumerate(columns[b].tolist()):
            everything = not block.frames and not block.tokens
            if everything or frame[b, token].item() in block.frames or token in block.tokens:
                for head in heads:
                    own = mask[b, head, column, column].item()
                    mask[b, head, :, column] = torch.finfo(mask.dtype).min
                    mask[b, head, column, column] = own
    return args, {**inputs, "attention_mask": mask}


def by_masks(model, inputs, sequences, block):
    """Logits of each step from one call of the unmodified model on prompt and answer."""
    layout = adapter_for(model).find_videos(model.config, inputs)
    layers = decoder_of(model).layers
    end = len(layers) if block.layers is None else block.from_layer + block.layers
    hooks = [
        layer.register_forward_pre_hook(
            partial(masked, block, layout.columns, layout.place().frame), with_kwargs=True
        )
        for layer in layers[block.from_layer : end]
    ]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        logits = model(**longer(inputs, sequences), use_cache=False).logits
    for hook in hooks:
        hook.remove()
    return logits.double()[:, inputs["input_ids"].shape[1] - 1 : -1]


@pytest.mark.parametrize("name", BLOCKS)
def test_blocking_equals_a_mask(family, model, name):
    block = BLOCKS[name]
    inputs = family.inputs(["user\n", ("video", frames(4 * family.paired)), "what happens first?"])
    plain = generate(model, inputs, 4)[0]
    for kernel in ("sdpa", "eager"):
        model.set_attn_implementation(kernel)
        with block(model):
            sequences, logits, _ = generate(model, inputs, 4)
        torch.testing.assert_close(
            logits.double(), by_masks(model, inputs, sequences, block), atol=1e-5, rtol=0
        )
    model.set_attn_implementation("sdpa")
    assert not torch.allclose(generate(model, inputs, 4)[1], logits, atol=1e-4)
    assert torch.equal(generate(model, inputs, 4)[0], plain)


def test_each_prompt_of_a_batch_and_a_later_turn_lack_the_frame(family, model, inputs):
    block = Block(frames=[2], from_layer=1)
    with block(model):
        sequences, logits, cache = generate(model, inputs, 3)
        more = torch.cat([sequences, torch.full_like(sequences[:, :2], 30)], 1)
        mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 5), value=1)
        turn = dict(input_ids=more, attention_mask=mask, past_key_values=cache)
        second, later, _ = generate(model, turn, 2)
    expected = by_masks(model, inputs, second, block)
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(logits.double(), expected[:, :3], atol=1e-5, rtol=0)
    torch.testing.assert_close(later.double(), expected[:, 5:], atol=1e-5, rtol=0)


def test_what_is_hidden_gets_no_attention(tiny):
    inputs = inputs_of()
    with Block(frames=[1], from_layer=2)(tiny), capture_attention(tiny) as trace:
        generate(tiny, inputs, 3)
    share = torch.stack([trace.per_frame(layer)[:, 1] for layer in range(len(decoder_of(tiny).layers))])
    assert (share[:2] > 0).all() and (share[2:] == 0).all()


def test_blocks_that_are_equal_are_one_key():
    assert Block([1], heads=[2]) == Block((1,), heads=(2,)) and hash(Block([1])) == hash(Block((1,)))


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        (dict(frames=3), TypeError, r"frames=3 must be a list"),
        (dict(tokens=[-1]), ValueError, r"tokens=\[-1\] must hold whole numbers from 0"),
        (dict(heads=[1.5]), ValueError, r"heads=\[1.5\] must hold"),
        (dict(from_layer=-1), ValueError, r"from_layer=-1 must be a whole number from 0"),
        (dict(layers=0), ValueError, r"layers=0 must be a whole number from 1, or None"),
        (dict(heads=[99]), ValueError, r"heads=\[99\] must be below the number of query heads, 4"),
        (dict(from_layer=99), ValueError, r"from_layer=99 must be below the number of layers"),
        (dict(frames=[8]), ValueError, r"frames: 8 is not in this prompt, whose last is 7"),
        (dict(tokens=[128]), ValueError, r"tokens: 128 is not in this prompt, whose last is 127"),
    ],
)
def test_what_cannot_be_blocked_is_refused(tiny, fields, error, words):
    with pytest.raises(error, match=words), Block(**fields)(tiny):
        generate(tiny, inputs_of(), 1)


def test_no_block_inside_a_compression(tiny):
    with DyCoke(0.5, 0)(tiny), pytest.raises(RuntimeError, match=r"inside a compression's context"):
        Block([1])(tiny).__enter__()
