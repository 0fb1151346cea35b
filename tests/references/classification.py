"""Losses for one class out of several."""

import numpy as np
import scipy.optimize
import scipy.stats
from scipy.special import expit, softmax


def softmax_cross_entropy(
    logits,
    targets,
    class_weights,
    ignore_index,
    label_smoothing,
    robust_lambda,
    confidence_penalty,
    class_similarities,
    class_similarities_temperature,
):
    """Item by item, as one would on paper."""
    num_classes = logits.shape[1]
    weights = np.ones(num_classes) if class_weights is None else np.array(class_weights)
    are_ids = targets.shape != logits.shape
    values, counts = [], []
    for z, y in _items(logits, targets):
        p = softmax(z)
        if are_ids and y == ignore_index:
            values.append(0.0)
            counts.append(0.0)
            continue
        if not are_ids:
            label = y
        elif class_similarities is not None and class_similarities_temperature > 0:
            label = softmax(np.array(class_similarities)[int(y)] / class_similarities_temperature)
        else:
            label = np.eye(num_classes)[int(y)]
        if label_smoothing:
            label = (1 - label_smoothing) * label + label_smoothing / num_classes
        own_weight = weights[int(y)] if are_ids else 1.0
        value = -np.sum(weights * label * np.log(p))
        penalty = (np.log(num_classes) - scipy.stats.entropy(p)) / np.log(num_classes)
        value = (1 - robust_lambda) * value + own_weight * (robust_lambda / num_classes + confidence_penalty * penalty)
        values.append(value)
        counts.append(own_weight)
    return np.array(values), sum(counts)


def tempered_softmax_cross_entropy(logits, targets, t1, t2, label_smoothing, num_iters, ignore_index):
    """Equation by equation from the paper, with a root finder for the normalisation."""
    num_classes = logits.shape[1]
    are_ids = targets.shape != logits.shape
    values, count = [], 0
    for z, y in _items(logits, targets):
        if are_ids and y == ignore_index:
            values.append(0.0)
            continue
        count += 1
        label = np.eye(num_classes)[int(y)] if are_ids else y
        share = label_smoothing / (num_classes - 1)
        label = (1 - num_classes * share) * label + share
        p = _tempered_softmax(z, t2) if num_iters >= 5 else _unconverged_softmax(z, t2, num_iters)
        terms = label * (_log_t(label, t1) - _log_t(p, t1)) - (label ** (2 - t1) - p ** (2 - t1)) / (2 - t1)
        values.append(terms.sum())
    return np.array(values), count


def focal(logits, targets, alpha, gamma, ignore_index, label_smoothing, activation, average_classes, normalize_by):
    if targets.shape == logits.shape and activation != "softmax":
        return _yes_or_no_focal(logits, targets, alpha, gamma, ignore_index, label_smoothing, normalize_by)
    values, count = [], 0
    for z, y in _items(logits, targets):
        if targets.shape != logits.shape and y == ignore_index:
            values.append(0.0)
            continue
        count += 1
        if activation == "sigmoid":
            label = np.eye(len(z))[int(y)]
            terms = [_binary_focal(*pair, gamma, label_smoothing) for pair in _weighed(z, label, alpha)]
            values.append(np.mean(terms))
            continue
        p = softmax(z)
        label = np.eye(len(z))[int(y)] if targets.shape != logits.shape else y
        label = (1 - label_smoothing) * label + label_smoothing / len(z)
        weights = np.array(alpha) if isinstance(alpha, list) else np.ones(len(z))
        value = np.sum(-label * weights * (1 - p) ** gamma * np.log(p))
        values.append(value / len(z) if average_classes else value)
    return np.array(values), count


def _yes_or_no_focal(logits, targets, alpha, gamma, ignore_index, label_smoothing, normalize_by):
    valid = targets != ignore_index
    values = np.zeros(logits.shape)
    for index in zip(*np.nonzero(valid)):
        weight = alpha[index[-1]] if isinstance(alpha, list) else alpha
        values[index] = _binary_focal(logits[index], targets[index], weight, gamma, label_smoothing)
    return values, valid.sum() if normalize_by == "items" else max((targets * valid).sum(), 1)


def _binary_focal(logit, target, alpha, gamma, label_smoothing):
    p, y = expit(logit), target * (1 - label_smoothing) + label_smoothing / 2
    weight = 1 if alpha is None else y * alpha + (1 - y) * (1 - alpha)
    p_wrong = y * (1 - p) + (1 - y) * p
    return -weight * p_wrong**gamma * (y * np.log(p) + (1 - y) * np.log(1 - p))


def _weighed(z, label, alpha):
    weights = alpha if isinstance(alpha, list) else [alpha] * len(z)
    return list(zip(z, label, weights))


def _items(logits, targets):
    """Each item's logits, and its id or its probabilities, in the order of ids that are flattened."""
    rows = np.moveaxis(logits, 1, -1).reshape(-1, logits.shape[1])
    if targets.shape == logits.shape:
        return list(zip(rows, np.moveaxis(targets, 1, -1).reshape(rows.shape)))
    return list(zip(rows, targets.reshape(-1)))


def _log_t(x, t):
    with np.errstate(divide="ignore"):
        return np.where(x > 0, np.log(np.maximum(x, 1e-300)), 0.0) if t == 1 else (x ** (1 - t) - 1) / (1 - t)


def _exp_t(x, t):
    return np.exp(x) if t == 1 else np.maximum(1 + (1 - t) * x, 0) ** (1 / (1 - t))


def _tempered_softmax(z, t):
    low, high = z.max(), z.max() + len(z) + 10.0
    return _exp_t(z - scipy.optimize.brentq(lambda x: _exp_t(z - x, t).sum() - 1, low, high, xtol=1e-14), t)


def _unconverged_softmax(z, t, num_iters):
    """Newton's method on the sum to the power 1 - t, by its derivative in finite form."""
    x = z.max()
    if t < 1:
        # From where the k largest, each as large as their mean, would be probabilities alone.
        sizes = np.arange(1, len(z) + 1)
        x = np.max(np.sort(z)[::-1].cumsum() / sizes - _log_t(1 / sizes, t))
    for _ in range(num_iters):
        total, powers = _exp_t(z - x, t).sum(), (_exp_t(z - x, t) ** t).sum()
        value, slope = total ** (1 - t) - 1, (1 - t) * total ** (-t) * -powers
        x -= value / slope
    return _exp_t(z - x, t)
