"""Losses as they are usually written with torch's functions: what a loss is measured beside when no package has it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def sigmoid_focal(logits: Tensor, labels: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss of yes-or-no labels, as published on many pages."""
    p = torch.sigmoid(logits)
    values = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    p_t = p * labels + (1 - p) * (1 - labels)
    weights = alpha * labels + (1 - alpha) * (1 - labels)
    return (weights * (1 - p_t) ** gamma * values).mean()


def softmax_focal(logits: Tensor, ids: Tensor, gamma: float = 2.0) -> Tensor:
    """Focal loss of class ids, from the cross-entropy."""
    values = F.cross_entropy(logits, ids, reduction="none")
    return ((1 - torch.exp(-values)) ** gamma * values).mean()


def dice(logits: Tensor, ids: Tensor, smooth: float = 1e-5) -> Tensor:
    """Dice loss of each sample and class, with a one-hot encoding."""
    p = logits.softmax(1).flatten(2)
    masks = F.one_hot(ids, logits.shape[1]).movedim(-1, 1).float().flatten(2)
    return 1 - ((2 * (p * masks).sum(2) + smooth) / (p.sum(2) + masks.sum(2) + smooth)).mean()


def nt_xent(embeddings: Tensor, temperature: float) -> Tensor:
    """NT-Xent of neighbouring rows, from the matrix of all cosines."""
    directions = F.normalize(embeddings, dim=1)
    logits = (directions @ directions.T / temperature).fill_diagonal_(-math.inf)
    return F.cross_entropy(logits, torch.arange(len(embeddings), device=embeddings.device) ^ 1)


def info_nce(one: Tensor, other: Tensor, temperature: float, symmetric: bool) -> Tensor:
    """InfoNCE of two views, or with `symmetric` the loss of CLIP, from the matrix of all cosines."""
    logits = F.normalize(one, dim=1) @ F.normalize(other, dim=1).T / temperature
    ids = torch.arange(len(one), device=one.device)
    if not symmetric:
        return F.cross_entropy(logits, ids)
    return (F.cross_entropy(logits, ids) + F.cross_entropy(logits.T, ids)) / 2


def poly(logits: Tensor, ids: Tensor, epsilon: float) -> Tensor:
    """Poly-1, from the cross-entropy."""
    values = F.cross_entropy(logits, ids, reduction="none")
    return (values + epsilon * (1 - torch.exp(-values))).mean()


def bi_tempered(
    logits: Tensor, ids: Tensor, t1: float = 0.8, t2: float = 1.4, label_smoothing: float = 0.0, num_iters: int = 20
) -> Tensor:
    """The bi-tempered logistic loss by the paper's fixed-point iteration, with as many steps as come close."""

    def exp_t(x: Tensor, t: float) -> Tensor:
        return (1 + (1 - t) * x).clamp_min(0) ** (1 / (1 - t))

    def log_t(x: Tensor, t: float) -> Tensor:
        return (x ** (1 - t) - 1) / (1 - t)

    num_classes = logits.shape[1]
    largest = logits.amax(-1, keepdim=True)
    shifted = scaled = logits - largest
    for _ in range(num_iters):
        scaled = shifted * exp_t(scaled, t2).sum(-1, keepdim=True) ** (1 - t2)
    total = exp_t(scaled, t2).sum(-1, keepdim=True)
    p = exp_t(logits - (-log_t(1 / total, t2) + largest), t2)
    labels = F.one_hot(ids, num_classes).to(logits.dtype)
    labels = (1 - label_smoothing * num_classes / (num_classes - 1)) * labels + label_smoothing / (num_classes - 1)
    terms = labels * (log_t(labels + 1e-10, t1) - log_t(p, t1)) - (labels ** (2 - t1) - p ** (2 - t1)) / (2 - t1)
    return terms.sum(-1).mean()
