"""Losses that ask for scores to be apart by a margin, pair by pair."""

import numpy as np
from scipy.special import expit


def soft_margin(logits, targets):
    return np.log(1 + np.exp(np.where(targets == 1, -logits, logits)))


def hinge_embedding(distances, targets, margin):
    values = [d if y == 1 else max(0.0, margin - d) for d, y in zip(distances.ravel(), targets.ravel())]
    return np.array(values)


def margin_ranking(input1, input2, targets, margin):
    higher, lower = np.where(targets == 1, [input1, input2], [input2, input1])
    return np.maximum(0, lower + margin - higher)


def multi_margin(logits, targets, p, margin, class_weights):
    values = []
    for z, y in zip(logits, targets):
        terms = [max(0.0, margin - z[y] + z[c]) ** p for c in range(len(z)) if c != y]
        values.append(sum(terms) / len(z) * (1 if class_weights is None else class_weights[y]))
    return np.array(values)


def multi_label_margin(logits, targets, target_form):
    are_ids = target_form == "ids" or (target_form == "auto" and ((targets < 0) | (targets > 1)).any())
    values = []
    for z, row in zip(logits, targets):
        labels = np.flatnonzero(row) if not are_ids else row[: np.argmax([*(row < 0), True])]
        others = set(range(len(z))) - set(labels)
        values.append(sum(max(0.0, 1 - (z[j] - z[i])) for j in labels for i in others) / len(z))
    return np.array(values)


def multi_label_soft_margin(logits, targets, class_weights):
    p = np.where(targets == 1, expit(logits), 1 - expit(logits))
    weights = np.ones(logits.shape[1]) if class_weights is None else np.array(class_weights)
    return (-np.log(p) @ weights) / logits.shape[1]
