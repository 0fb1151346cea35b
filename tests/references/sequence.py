"""Cross-entropy of sequences, step by step."""

import numpy as np

from tests.references.classification import softmax_cross_entropy


def sequence_softmax_cross_entropy(logits, targets, unique, ignore_index, **settings):
    values, count = [], 0.0
    for steps, ids in zip(np.moveaxis(logits, 1, -1), targets):
        seen = set()
        for z, y in zip(steps, ids):
            if y != ignore_index and y not in seen:
                value, weight = softmax_cross_entropy(z[None], np.array([y]), ignore_index=None, **settings)
                values.extend(value)
                count += weight
            if unique:
                seen.add(y)
    return np.array(values), count


def next_token_softmax_cross_entropy(logits, targets, shift, **settings):
    if shift:
        logits, targets = logits[:, :, :-1], targets[:, 1:]
    return sequence_softmax_cross_entropy(logits, targets, **settings)


def caption_cross_entropy(logits, targets, ignore_index):
    plain = dict.fromkeys(("class_weights", "class_similarities"))
    zero = dict.fromkeys(
        ("label_smoothing", "robust_lambda", "confidence_penalty", "class_similarities_temperature"), 0.0
    )
    return softmax_cross_entropy(logits, targets, ignore_index=ignore_index, **plain, **zero)
