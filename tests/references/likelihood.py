"""Negative log likelihoods."""

import numpy as np
import scipy.stats


def poisson_nll(predictions, targets, log_input, full, eps):
    """By the true likelihood, which has the logarithm of a factorial that torch leaves out or approximates."""
    if not log_input:
        values = predictions - targets * np.log(predictions + eps)
    else:
        factorials = np.array([np.log(np.arange(1, k + 1)).sum() for k in targets.ravel()]).reshape(targets.shape)
        values = -scipy.stats.poisson(np.exp(predictions)).logpmf(targets) - factorials
    stirling = [np.log(np.sqrt(2 * np.pi * k) * (k / np.e) ** k) if k > 1 else 0.0 for k in targets.ravel()]
    return values + np.reshape(stirling, targets.shape) if full else values


def gaussian_nll(predictions, variances, targets, full, eps, var_form):
    variances = {"variance": variances, "std": variances**2, "log_variance": np.exp(variances)}[var_form]
    scale = np.sqrt(np.maximum(variances, eps))
    values = -scipy.stats.norm(predictions, scale).logpdf(targets)
    return values if full else values - np.log(np.sqrt(2 * np.pi))
