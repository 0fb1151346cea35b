"""Losses that pick, out of all pairs of a batch, those that are hard."""

import numpy as np


def multi_similarity(embeddings, targets, alpha, beta, base, miner_epsilon):
    return _multi_similarity(embeddings, lambda i, j: targets[i] == targets[j], alpha, beta, base, miner_epsilon)


def ms(embeddings, targets, alpha, beta, margin, hard_mining, is_multilabel):
    def belong_together(i, j):
        return (targets[i] * targets[j]).any() if is_multilabel else (targets[i] == targets[j]).all()

    return _multi_similarity(embeddings, belong_together, beta, alpha, margin, 0.1 if hard_mining else None)


def _multi_similarity(embeddings, belong_together, positive_scale, negative_scale, base, epsilon):
    z = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    values = []
    for i in range(len(z)):
        positives = [z[i] @ z[j] for j in range(len(z)) if belong_together(i, j) and j != i]
        negatives = [z[i] @ z[j] for j in range(len(z)) if not belong_together(i, j)]
        if positives and negatives and epsilon is not None:
            least, most = min(positives), max(negatives)
            positives = [s for s in positives if s - epsilon < most]
            negatives = [s for s in negatives if s + epsilon > least]
        value = 0.0
        if positives and negatives:
            value += np.log(1 + sum(np.exp(-positive_scale * (s - base)) for s in positives)) / positive_scale
            value += np.log(1 + sum(np.exp(negative_scale * (s - base)) for s in negatives)) / negative_scale
        values.append(value)
    return np.array(values)


def refiner_ms(scores, targets, alpha, beta, base, margin, epsilon):
    values = []
    for i in range(len(scores)):
        own = scores[i] @ targets[i]
        negatives = [scores[i] @ targets[j] for j in range(len(scores)) if j != i]
        negatives = [s for s in negatives if abs(s - own) > epsilon and s + margin > own]
        value = 0.0
        if negatives:
            value += np.log(1 + np.exp(-beta * (own - base))) / beta
            value += np.log(1 + sum(np.exp(alpha * (s - base)) for s in negatives)) / alpha
        values.append(value)
    return np.array(values)


def refiner_contrastive(scores, targets, sim_thresh, epsilon):
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (scores, targets))
    values = []
    for i in range(len(x)):
        own = x[i] @ y[i]
        negatives = [x[i] @ y[j] for j in range(len(x)) if j != i]
        costs = [sim_thresh + s - own for s in negatives if s > own - sim_thresh and abs(s - own) > epsilon]
        values.append(np.mean(costs) if costs else 0.0)
    return np.array(values)
