"""Losses that hold the model's output layer; their parameters come by name."""

import numpy as np
from scipy.special import log_softmax


def linear_cross_entropy(
    hidden, targets, in_features, num_classes, bias, class_weights, ignore_index, label_smoothing, **parameters
):
    weights = np.ones(num_classes) if class_weights is None else np.array(class_weights)
    values, counts = [], []
    for h, y in _items(hidden, targets):
        if y == ignore_index:
            continue
        scores = parameters["linear.weight"] @ h + (parameters["linear.bias"] if bias else 0)
        label = (1 - label_smoothing) * np.eye(num_classes)[y] + label_smoothing / num_classes
        values.append(-np.sum(weights * label * log_softmax(scores)))
        counts.append(weights[y])
    return np.array(values), sum(counts)


def adaptive_log_softmax(
    hidden, targets, in_features, num_classes, cutoffs, div_value, head_bias, ignore_index, **parameters
):
    """By the probabilities of all classes, each cluster's spread over its own."""
    values = []
    for h, y in _items(hidden, targets):
        head = log_softmax(parameters["head.weight"] @ h + (parameters["head.bias"] if head_bias else 0))
        log_p = list(head[: cutoffs[0]])
        for k in range(len(cutoffs)):
            inner = log_softmax(parameters[f"tail.{k}.1.weight"] @ (parameters[f"tail.{k}.0.weight"] @ h))
            log_p += list(head[cutoffs[0] + k] + inner)
        assert len(log_p) == num_classes
        if y != ignore_index:
            values.append(-log_p[y])
    return np.array(values)


def _items(hidden, targets):
    rows = np.moveaxis(hidden, 1, -1).reshape(-1, hidden.shape[1])
    return list(zip(rows, targets.reshape(-1)))
