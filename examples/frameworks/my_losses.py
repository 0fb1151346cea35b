"""Losses of our own, for the example of Ray: each process that names this module in LOSSKIT_PLUGINS knows them."""

import torch.nn.functional as F
from torch import Tensor

from losskit import register_loss


@register_loss("log_cosh_of_our_own", ["number"])
def log_cosh_loss(predictions: Tensor, targets: Tensor, *, sharpness: float = 1.0) -> Tensor:
    """The logarithm of the hyperbolic cosine of the error: squared for small errors, absolute for large ones."""
    errors = (sharpness * (predictions - targets)).abs()
    return (errors + F.softplus(-2 * errors) - 0.6931471805599453).mean() / sharpness
