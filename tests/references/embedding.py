"""Losses between embeddings."""

import numpy as np


def triplet_margin(anchors, positives, negatives, margin, p, eps, swap):
    def distance(x, y):
        return np.array([np.linalg.norm(row, ord=p) for row in x - y + eps])

    apart = distance(anchors, negatives)
    if swap:
        apart = np.minimum(apart, distance(positives, negatives))
    return np.maximum(0, distance(anchors, positives) - apart + margin)
