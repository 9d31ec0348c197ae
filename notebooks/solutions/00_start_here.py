"""Solutions of notebook 00."""


def tokens_read(per_frame, merge_ratio, prune_ratio):
    retained = per_frame + 3 * (1 - merge_ratio) * per_frame
    return round((1 - prune_ratio) * retained)


def wrong_count(words, answer):
    wrong = sum(word != right for word, right in zip(words, answer, strict=False))
    return wrong + abs(len(words) - len(answer))
