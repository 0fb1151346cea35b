"""Cross-entropy of labels that name several classes, each with its share."""

import numpy as np
from scipy.special import log_softmax


def soft_label_cross_entropy(logits, targets, normalize_targets, ignore_index):
    values = []
    for z, y in zip(logits, targets):
        if targets.ndim == 1:
            label = np.zeros(len(z)) if y == ignore_index else np.eye(len(z))[y]
        else:
            label = np.array([0.0 if share == ignore_index < 0 else share for share in y])
        if label.any():
            values.append(-label @ log_softmax(z) / (label.sum() if normalize_targets else 1))
    return np.array(values)


def label_smoothing_cross_entropy(logits, targets, label_smoothing, spread, ignore_index):
    num_classes = logits.shape[1]
    values = []
    for z, y in zip(np.moveaxis(logits, 1, -1).reshape(-1, num_classes), targets.reshape(-1)):
        if y == ignore_index:
            continue
        label = np.full(num_classes, label_smoothing / (num_classes - 1 if spread == "others" else num_classes))
        label[y] += 1 - label.sum()
        values.append(-label @ log_softmax(z))
    return np.array(values)
