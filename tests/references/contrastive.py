"""Losses that compare each sample with all others of the batch."""

import numpy as np
from scipy.special import logsumexp


def nt_xent(embeddings, temperature, pairing):
    """Pair by pair; pairs by labels have a test of their own, since the labels are optional."""
    z = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    n = len(z)
    values = []
    for i in range(n):
        partner = (i + n // 2) % n if pairing == "halves" else i + 1 if i % 2 == 0 else i - 1
        others = [z[i] @ z[k] / temperature for k in range(n) if k != i]
        values.append(logsumexp(others) - z[i] @ z[partner] / temperature)
    return np.array(values)


def contrastive(embedding_1, embedding_2, temperature, normalize, symmetric):
    x, y = embedding_1, embedding_2
    if normalize:
        x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))
    logits = x @ y.T / temperature
    values = []
    for i in range(len(x)):
        forth, back = logsumexp(logits[i]) - logits[i, i], logsumexp(logits[:, i]) - logits[i, i]
        values.append((forth + back) / 2 if symmetric else forth)
    return np.array(values)


def in_batch_hinge(embedding_1, embedding_2, margin, hard):
    """The costs of one pair: its first part with the others' second parts, and the other way round."""
    values = []
    for i in range(len(embedding_1)):
        own = embedding_1[i] @ embedding_2[i]
        others = [j for j in range(len(embedding_1)) if j != i]
        forth = [max(0, margin + embedding_1[i] @ embedding_2[j] - own) for j in others]
        back = [max(0, margin + embedding_1[j] @ embedding_2[i] - own) for j in others]
        values.append(max(forth) + max(back) if hard else sum(forth) + sum(back))
    return np.array(values)
