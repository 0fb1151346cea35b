"""Losses of models that return the logarithms of probabilities."""

import numpy as np


def nll(log_probabilities, targets, class_weights, ignore_index):
    num_classes = log_probabilities.shape[1]
    weights = np.ones(num_classes) if class_weights is None else np.array(class_weights)
    rows = np.moveaxis(log_probabilities, 1, -1).reshape(-1, num_classes)
    counted = [0.0 if y == ignore_index else weights[y] for y in targets.reshape(-1)]
    return np.array([-w * row[y] for w, row, y in zip(counted, rows, targets.reshape(-1))]), sum(counted)


def nll_loss(log_probabilities, targets):
    num_classes = log_probabilities.shape[1]
    values = []
    for row, y in zip(log_probabilities, targets):
        if targets.ndim == 1:
            values.append(-row[y] * num_classes)
        elif any(y):
            values.append(-row[list(y).index(max(y))] * num_classes)
    return np.array(values)
