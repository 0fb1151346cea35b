"""Losses between two real-valued arrays."""

import numpy as np
import scipy.special


def mean_squared_error(predictions, targets):
    return (predictions - targets) ** 2


def mean_absolute_error(predictions, targets):
    return np.abs(predictions - targets)


def huber(predictions, targets, delta):
    return scipy.special.huber(delta, predictions - targets)


def smooth_l1(predictions, targets, beta):
    errors = np.abs(predictions - targets)
    return errors if beta == 0 else scipy.special.huber(beta, errors) / beta


def mean_absolute_percentage_error(predictions, targets, eps, as_percent):
    shares = np.abs((predictions - targets) / np.where(np.abs(targets) < eps, eps, targets))
    return 100 * shares if as_percent else shares


def root_mean_squared_error(predictions, targets, eps):
    return np.array([np.sqrt(np.mean((predictions - targets) ** 2) + eps)])


def root_mean_squared_percentage_error(predictions, targets, eps):
    shares = (predictions - targets) / np.where(np.abs(targets) < eps, eps, targets)
    return np.array([np.linalg.norm(shares) / np.sqrt(shares.size)])
