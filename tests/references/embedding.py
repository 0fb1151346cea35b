"""Losses between embeddings."""

import numpy as np


def triplet_margin(anchors, positives, negatives, margin, p, eps, swap):
    def distance(x, y):
        return np.array([np.linalg.norm(row, ord=p) for row in x - y + eps])

    apart = distance(anchors, negatives)
    if swap:
        apart = np.minimum(apart, distance(positives, negatives))
    return np.maximum(0, distance(anchors, positives) - apart + margin)


def triplet_margin_with_distance(anchors, positives, negatives, distance, margin, swap):
    between = {
        "l2": lambda x, y: np.linalg.norm(x - y + 1e-6),
        "squared_l2": lambda x, y: np.sum((x - y) ** 2),
        "l1": lambda x, y: np.sum(np.abs(x - y)),
        "cosine": lambda x, y: 1 - _cosine(x, y),
    }[distance]
    values = []
    for a, p, n in zip(anchors, positives, negatives):
        apart = min(between(a, n), between(p, n)) if swap else between(a, n)
        values.append(max(0, between(a, p) - apart + margin))
    return np.array(values)


def cosine_embedding(embedding_1, embedding_2, targets, margin):
    values = []
    for x, y, label in zip(embedding_1, embedding_2, targets):
        values.append(1 - _cosine(x, y) if label == 1 else max(0, _cosine(x, y) - margin))
    return np.array(values)


def cos_emb(predictions, targets):
    return np.array([1 - _cosine(x, y) for x, y in zip(predictions, targets)])


def _cosine(x, y):
    return x @ y / (np.linalg.norm(x) * np.linalg.norm(y))
