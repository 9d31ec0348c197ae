"""Solutions of notebook 00."""


def tokens_read(frames, per_frame, merge_ratio, prune_ratio):
    retained = frames / 4 * per_frame * (1 + 3 * (1 - merge_ratio))
    return round(retained * (1 - prune_ratio))


def wrong_count(words, answer):
    wrong = sum(word != right for word, right in zip(words, answer, strict=False))
    return wrong + abs(len(words) - len(answer))
