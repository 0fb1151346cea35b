"""Losses whose value is the overlap of regions itself."""

import numpy as np
from scipy.special import softmax


def lovasz_softmax(logits, targets, classes, per_image, ignore_index):
    num_classes = logits.shape[1]
    p = softmax(logits, axis=1)
    groups = [slice(i, i + 1) for i in range(len(p))] if per_image else [slice(None)]
    means, counts = [], []
    for group in groups:
        valid = targets[group] != ignore_index
        labels = targets[group][valid]
        values = []
        for c in range(num_classes):
            inside = labels == c
            if inside.any() or (classes == "all" and valid.any()):
                values.append(_extension(np.abs(inside - np.moveaxis(p[group], 1, -1)[valid][:, c]), inside))
        means.append(np.mean(values) if values else 0.0)
        counts.append(len(values))
    if per_image:
        return np.array(means), np.count_nonzero(counts)
    return np.array(means) * counts, counts[0]


def lovasz_hinge(logits, targets, per_image, ignore_index):
    groups = [slice(i, i + 1) for i in range(len(logits))] if per_image else [slice(None)]
    values = []
    for group in groups:
        valid = targets[group] != ignore_index
        if valid.any():
            labels = targets[group][valid]
            margins = 1 - logits[group][valid] * (2 * labels - 1)
            values.append(_extension(np.maximum(margins, 0), labels == 1))
    return np.array(values)


def _extension(errors, inside):
    """By the set function itself: the Jaccard loss of a mask in which one pixel after the other goes wrong."""
    order = np.argsort(-errors, kind="stable")
    wrong = np.zeros(len(errors), dtype=bool)
    value = before = 0.0
    for i in order:
        wrong[i] = True
        predicted = inside ^ wrong
        union = (predicted | inside).sum()
        after = 1 - (predicted & inside).sum() / union if union else 0.0
        value += errors[i] * (after - before)
        before = after
    return value
