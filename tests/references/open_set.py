"""Classification that also learns from samples of no class."""

import numpy as np
from scipy.special import log_softmax


def entropic_open_set(logits, targets, background_class):
    return np.array([_entropic(z, y, background_class) for z, y in zip(logits, targets)])


def objectosphere(logits, targets, background_class, xi, zeta):
    values = []
    for z, y in zip(logits, targets):
        length = np.linalg.norm(z)
        extra = zeta * length**2 if y == background_class else max(0, xi - length) ** 2
        values.append(_entropic(z, y, background_class) + extra)
    return np.array(values)


def _entropic(z, y, background_class):
    # A yes-or-no logit is the lead of class 1 over class 0.
    log_p = log_softmax(z if np.ndim(z) else np.array([0.0, z]))
    label = np.full(len(log_p), 1 / len(log_p)) if y == background_class else np.eye(len(log_p))[int(y)]
    return -np.dot(label, log_p)
