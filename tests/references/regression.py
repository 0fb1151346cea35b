"""Losses between two real-valued arrays."""

import numpy as np
import scipy.special


def mean_squared_error(predictions, targets):
    return (predictions - targets) ** 2


def mean_absolute_error(predictions, targets):
    return np.abs(predictions - targets)


def huber(predictions, targets, delta):
    return scipy.special.huber(delta, predictions - targets)
