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


def bce_with_logits(logits, targets, pos_weight, class_weights, label_smoothing):
    p = expit(logits)
    present = _along_classes(pos_weight, logits.ndim)
    labels = (1 - label_smoothing) * targets + label_smoothing * np.full(targets.shape, 0.5)
    values = -present * labels * np.log(p) - (1 - labels) * np.log(1 - p)
    return _along_classes(class_weights, logits.ndim) * values


def bce(probabilities, targets, class_weights):
    values = -targets * np.log(probabilities) - (1 - targets) * np.log(1 - probabilities)
    return _along_classes(class_weights, probabilities.ndim) * values


def _along_classes(numbers, ndim):
    """Classes lie at axis 1, in sets and images alike."""
    if numbers is None or np.ndim(numbers) == 0:
        return 1.0 if numbers is None else numbers
    return np.array(numbers).reshape([1, -1] + [1] * (ndim - 2))


def logit_bce(logits, targets, pos_weight, class_weights, label_smoothing):
    return bce_with_logits(logits, targets, pos_weight, class_weights, label_smoothing)


def triple_logit_bce(logits, targets):
    branches = [_of_logits(logits[:, branch], targets) for branch in range(logits.shape[1])]
    return np.sum(branches, axis=0)


def m4c_decoding_bce_with_mask(logits, targets):
    classes_last = np.moveaxis(logits, 1, -1)
    return _of_logits(classes_last, targets).sum(-1)


def attention_supervision(attentions, targets):
    return targets * bce(attentions, targets, None)


def _of_logits(logits, targets):
    return bce_with_logits(logits, targets, None, None, 0.0)
