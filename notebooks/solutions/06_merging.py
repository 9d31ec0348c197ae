"""Solutions of notebook 06."""

import math

import torch


def token_cosine(one, other):
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return product / (math.hypot(*one) * math.hypot(*other))


def tokens_left(frames, tokens, merge_ratio):
    first = math.ceil(frames / 4)  # frames that begin a window
    return first * tokens + (frames - first) * round((1 - merge_ratio) * tokens)


def merged_by_threshold(features, threshold):
    reference = [0, 0, 0, 2]
    similarity = torch.cosine_similarity(features, features[reference], dim=2)
    merged = similarity >= threshold
    merged[0] = False  # the first frame is retained whole
    return merged
