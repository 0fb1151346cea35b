"""Losses of squared distances to a centre."""

import numpy as np


def deep_svdd(scores, nu):
    if nu == 0:
        return scores
    radius = np.quantile(scores, 1 - nu)
    return np.array([radius + max(0.0, d - radius) / nu for d in scores])


def deep_sad(scores, targets, eta, eps):
    return np.array([eta / (d + eps) if y == 1 else d for d, y in zip(scores, targets)])


def drocc(scores, perturbation_strength, num_perturbation_steps):
    """Step by step towards the centre, and not beyond it."""
    values = []
    for d in scores:
        distance = np.sqrt(d)
        for _ in range(num_perturbation_steps):
            distance = max(0.0, distance - perturbation_strength)
        values.append(d + perturbation_strength * np.log(1 + np.exp(-(distance**2))))
    return np.array(values)
