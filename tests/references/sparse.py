"""Losses whose probabilities can be exactly 0, by their definition as the worst of all probabilities."""

import numpy as np
import scipy.optimize


def sparsemax(logits, targets, ignore_index):
    return _fenchel_young(logits, targets, ignore_index, alpha=2.0)


def entmax15(logits, targets, ignore_index):
    return _fenchel_young(logits, targets, ignore_index, alpha=1.5)


def _fenchel_young(logits, targets, ignore_index, alpha):
    def entropy(p):
        return (1 - np.sum(p**alpha)) / (alpha * (alpha - 1))

    def probabilities(logits, tau):
        return np.maximum((alpha - 1) * logits - tau, 0) ** (1 / (alpha - 1))

    num_classes = logits.shape[1]
    are_ids = targets.shape != logits.shape
    rows = np.moveaxis(logits, 1, -1).reshape(-1, num_classes)
    labels = targets.reshape(-1) if are_ids else np.moveaxis(targets, 1, -1).reshape(rows.shape)
    values = []
    for row, y in zip(rows, labels):
        if are_ids and y == ignore_index:
            continue
        label = np.eye(num_classes)[y] if are_ids else y
        # Labels that were rounded to float32 do not quite sum to 1, so that the level of the logits would count.
        z = row - row.max()
        tau = scipy.optimize.brentq(lambda t, z=z: probabilities(z, t).sum() - 1, -1, 0, xtol=1e-15)
        p = probabilities(z, tau)
        values.append(z @ (p - label) + entropy(p) - entropy(label))
    return np.array(values)
