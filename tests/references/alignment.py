"""Losses between a sequence of predictions and a shorter one of labels."""

import itertools

import numpy as np
from scipy.special import log_softmax, logsumexp


def ctc(logits, targets, blank, zero_infinity, from_logits, layout, padding_index):
    """Path by path: all sequences of classes that give the labels, merged and without blanks."""
    # Three classes, whose axis comes second for sequences and text, and last for audio.
    scores = np.moveaxis(logits, logits.shape.index(3), -1)
    scores = scores if layout == "batch_first" else scores.swapaxes(0, 1)
    scores = log_softmax(scores, axis=-1) if from_logits else scores
    num_steps = scores.shape[1]
    paths = list(itertools.product(range(3), repeat=num_steps))
    collapsed = [tuple(k for k, _ in itertools.groupby(path) if k != blank) for path in paths]
    values, lengths = [], []
    for score, row in zip(scores, targets):
        labels = tuple(label for label in row if label != padding_index)
        costs = [
            sum(score[t, c] for t, c in enumerate(path)) for path, found in zip(paths, collapsed) if found == labels
        ]
        values.append(-logsumexp(costs) if costs else 0.0 if zero_infinity else np.inf)
        lengths.append(max(len(labels), 1))
    values = np.array(values)
    mean = np.mean(values / lengths)
    # The mean is no quotient of the sum: each loss is divided by its own length first.
    return values, values.sum() / mean if np.isfinite(mean) and mean else 1
