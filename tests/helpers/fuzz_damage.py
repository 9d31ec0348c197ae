"""What can be wrong with a model's inputs, or unusual: each a function that changes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, StaticCache

from helpers.families import Family
from helpers.vocabulary import ID

Inputs = dict[str, Any]
Change = Callable[[Inputs, Family, Any], None]
DAMAGE: dict[str, Change] = {}


def pixels_of(inputs: Inputs) -> str:
    """Return the name of the pixels, of videos if there are some."""
    names = [name for name in ("pixel_values_videos", "pixel_values") if name in inputs]
    return names[0] if names else "pixel_values_videos"


def of_pixels(name: str, change: Callable[[Tensor], Any]) -> None:
    def damage(inputs: Inputs, family: Family, model: Any) -> None:
        where = pixels_of(inputs)
        if where in inputs:
            inputs[where] = change(inputs[where])

    DAMAGE[f"pixels {name}"] = damage


def of(name: str, key: str, change: Callable[[Any], Any]) -> None:
    """Change one of the inputs, where it is there; None takes it away."""

    def damage(inputs: Inputs, family: Family, model: Any) -> None:
        if key in inputs:
            inputs[key] = change(inputs[key])
            if inputs[key] is None:
                del inputs[key]

    DAMAGE[name] = damage


def written(at: Any, value: Any) -> Callable[[Tensor], Tensor]:
    """Return a change that writes a value."""

    def change(states: Tensor) -> Tensor:
        states = states.clone()
        states[at] = value
        return states

    return change


def holes(where: str) -> Change:
    """Hide some columns: of text, of a video, or those after the video."""

    def damage(inputs: Inputs, family: Family, model: Any) -> None:
        if "attention_mask" not in inputs or inputs["input_ids"].ndim != 2:
            return
        mask = inputs["attention_mask"] = inputs["attention_mask"].clone()
        visual = inputs["input_ids"][:, : mask.shape[1]] == ID[family.placeholder]
        for row, columns in zip(mask, visual, strict=True):
            at = columns.nonzero()[:, 0] if where == "video" else (~columns).nonzero()[:, 0]
            row[at[len(at) // 2 : len(at) // 2 + 3]] = 0

    return damage


def ids(where: str, token: int) -> Change:
    """Write a token in the place of one of a video's, or of text's, or of all of them."""

    def damage(inputs: Inputs, family: Family, model: Any) -> None:
        row = inputs["input_ids"] = inputs["input_ids"].clone()
        visual = row == ID[family.placeholder]
        at = (visual if "video" in where else ~visual).nonzero()
        if where.startswith("all"):
            row[visual if "video" in where else ~visual] = token
        elif len(at):
            row[tuple(at[len(at) // 2])] = token

    return damage


def placeholder(where: str) -> Change:
    return lambda inputs, family, model: ids(where, ID[family.placeholder])(inputs, family, model)


def encoded(value: float | None) -> Change:
    """Give what the vision tower makes of a video, instead of pixels; maybe with a value that is none."""

    def damage(inputs: Inputs, family: Family, model: Any) -> None:
        if "pixel_values_videos" not in inputs or not hasattr(model.model, "get_video_features"):
            return
        about = ("pixel_values_videos", "video_grid_thw", "video_merge_sizes", "video_compression_mask")
        given = {name: inputs.pop(name) for name in about if name in inputs}
        with torch.no_grad():
            video = model.model.get_video_features(**given, return_dict=True)
        if value is not None:
            part: Any = video.pooler_output
            (part[0] if isinstance(part, tuple | list) else part)[0, 0] = value
        inputs["mm_encoder_outputs"] = {"video": video}
        inputs |= {name: grid for name, grid in given.items() if name != "pixel_values_videos"}

    return damage


def embeds(beside: bool) -> Change:
    def damage(inputs: Inputs, family: Family, model: Any) -> None:
        inputs["inputs_embeds"] = model.get_input_embeddings()(inputs["input_ids"]).detach()
        if not beside:
            inputs.pop("input_ids")

    return damage


def cached(kind: str) -> Change:
    def damage(inputs: Inputs, family: Family, model: Any) -> None:
        config = model.config.get_text_config()
        if kind == "static":
            inputs["past_key_values"] = StaticCache(config, max_cache_len=512)
            return
        cache = inputs["past_key_values"] = DynamicCache(config=config, offloading=False)
        if kind == "used":
            with torch.no_grad():
                model(input_ids=torch.tensor([[30, 31]]), past_key_values=cache)
        if kind == "wrong":
            inputs["past_key_values"] = ((torch.zeros(1), torch.zeros(1)),)

    return damage


def given(name: str, make: Callable[[Inputs], Any]) -> Change:
    def damage(inputs: Inputs, family: Family, model: Any) -> None:
        inputs[name] = make(inputs)

    return damage


def right_padded(mask: Tensor) -> Tensor:
    return written((slice(None), slice(-2, None)), 0)(mask)


def masked_4d(mask: Tensor) -> Tensor:
    return torch.ones(len(mask), 1, mask.shape[1], mask.shape[1], dtype=torch.bool).tril()


for dtype in ("float16", "float32", "bfloat16", "uint8", "int64", "bool", "complex64"):
    of_pixels(f"as {dtype}", lambda pixels, dtype=dtype: pixels.to(getattr(torch, dtype)))
of_pixels("with a NaN", written(0, float("nan")))
of_pixels("all infinite", lambda pixels: torch.full_like(pixels, torch.inf))
of_pixels("all NaN", lambda pixels: torch.full_like(pixels, torch.nan))
of_pixels("huge", lambda pixels: pixels * 1e300)
of_pixels("one too few", lambda pixels: pixels[:-1])
of_pixels(
    "a frame too few", lambda pixels: pixels[:, :-1] if pixels.ndim == 5 else pixels[: len(pixels) // 2]
)
of_pixels("twice", lambda pixels: torch.cat([pixels, pixels]))
of_pixels("none", lambda pixels: pixels[:0])
of_pixels("flat", lambda pixels: pixels.flatten())
of_pixels("as a list", lambda pixels: pixels.tolist()[:1])
of_pixels("as an array", lambda pixels: pixels.numpy())
for name, many in {"one": "", "all": "all "}.items():
    DAMAGE[f"{name} of a video's ids is text"] = ids(f"{many}video", 60)
    DAMAGE[f"{name} of the text's ids is a video's"] = placeholder(f"{many}text")
DAMAGE["an id too large"] = ids("text", len(ID) + 3)
DAMAGE["an id below 0"] = ids("text", -1)
of("ids as floats", "input_ids", lambda row: row.double())
of("ids in 32 bits", "input_ids", lambda row: row.int())
of("ids without a batch", "input_ids", lambda row: row[0])
of("no ids", "input_ids", lambda row: row[:, :0])
of("ids cut", "input_ids", lambda row: row[:, :-1])
of("ids of other rows", "input_ids", lambda row: row.flip(0))
for kinds in ("mm_token_type_ids", "token_type_ids"):
    of(f"{kinds} gone", kinds, lambda _: None)
    of(f"{kinds} all 0", kinds, torch.zeros_like)
DAMAGE["a hole in the text"], DAMAGE["a hole in the video"] = holes("text"), holes("video")
of("mask gone", "attention_mask", lambda _: None)
of("padding on the right", "attention_mask", right_padded)
of("a row is all padding", "attention_mask", written(0, 0))
of("mask as bools", "attention_mask", lambda mask: mask.bool())
of("mask as floats", "attention_mask", lambda mask: mask.double())
of("mask of twos", "attention_mask", lambda mask: 2 * mask)
of("mask too short", "attention_mask", lambda mask: mask[:, 1:])
of("mask too long", "attention_mask", lambda mask: torch.nn.functional.pad(mask, (0, 3), value=1))
of("mask of one's own", "attention_mask", masked_4d)
of("grid gone", "video_grid_thw", lambda _: None)
of("grid one more", "video_grid_thw", lambda grid: torch.cat([grid, grid[:1]]))
of("grid one less", "video_grid_thw", lambda grid: grid[1:])
of("grid turned", "video_grid_thw", lambda grid: grid.flip(1))
of("grid of zeros", "video_grid_thw", torch.zeros_like)
of("grid as floats", "video_grid_thw", lambda grid: grid.double())
DAMAGE["features"], DAMAGE["features with a NaN"] = encoded(None), encoded(float("nan"))
DAMAGE["features, infinite"] = encoded(float("inf"))
DAMAGE["embeddings for ids"], DAMAGE["embeddings and ids"] = embeds(False), embeds(True)
for kind in ("empty", "static", "used", "wrong"):
    DAMAGE[f"a cache, {kind}"] = cached(kind)
DAMAGE["labels"] = given("labels", lambda inputs: inputs.get("input_ids"))
DAMAGE["an unknown argument"] = given("foo", lambda _: 1)
DAMAGE["position ids"] = given(
    "position_ids", lambda inputs: torch.arange(inputs["input_ids"].shape[-1])[None]
)
