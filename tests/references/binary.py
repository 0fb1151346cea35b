"""Losses for labels that are yes or no."""

import numpy as np
import scipy.stats
from scipy.special import expit


def binary_weighted_cross_entropy(logits, targets, positive_class_weight, robust_lambda, confidence_penalty):
    p = expit(logits)
    weight = 1 if positive_class_weight is None else positive_class_weight
    values = -weight * targets * np.log(p) - (1 - targets) * np.log(1 - p)
    entropy = scipy.stats.bernoulli(p).entropy()
    penalty = confidence_penalty * (np.log(2) - entropy) / np.log(2)
    return (1 - robust_lambda) * values + robust_lambda / 2 + penalty


def sigmoid_cross_entropy(logits, targets, class_weights):
    p = expit(logits)
    weights = np.ones(logits.shape[-1]) if class_weights is None else np.array(class_weights)
    return -weights * targets * np.log(p) - (1 - targets) * np.log(1 - p)
