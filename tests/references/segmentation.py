"""Losses between regions."""

import numpy as np
from scipy.special import expit, softmax


def dice(
    logits,
    targets,
    smooth,
    smooth_denominator,
    average,
    classes,
    include_background,
    squared,
    log,
    class_weights,
    ignore_index,
    activation,
):
    n, num_classes = logits.shape[:2]
    if activation == "none":
        p = logits
    else:
        p = expit(logits) if activation == "sigmoid" else softmax(logits, axis=1)
    masks = np.stack([targets == c for c in range(num_classes)], axis=1).astype(float)
    valid = (targets != ignore_index)[:, None]
    p, masks = p * valid, masks * valid
    kept = range(0 if include_background else 1, num_classes)
    if isinstance(classes, list):
        kept = [c for c in kept if c in classes]
    groups = {
        "sample_class": [([i], [c]) for i in range(n) for c in kept],
        "class": [(range(n), [c]) for c in kept],
        "micro": [([i], kept) for i in range(n)],
        "batch": [(range(n), kept)],
    }[average]
    values, counts = [], []
    for samples, members in groups:
        inside, true = p[np.ix_(samples, members)], masks[np.ix_(samples, members)]
        power = 2 if squared else 1
        below = (inside**power).sum() + true.sum() + (smooth if smooth_denominator is None else smooth_denominator)
        overlap = (2 * (inside * true).sum() + smooth) / below if below else 1.0
        count = class_weights[members[0]] if class_weights is not None else 1.0
        if classes == "present" and true.sum() == 0:
            count = 0.0
        values.append(count * (-np.log(overlap) if log else 1 - overlap))
        counts.append(count)
    return np.array(values), sum(counts)
