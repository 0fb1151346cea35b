"""With and without kernels."""

import math

import pytest
import torch

from losskit.modules import fused, fused_linear, fused_pairs


def take_every_size(patch):
    """Kernels take inputs of every size, in blocks so small that there are several."""
    patch.setattr(fused, "LEAST_SIZE", 0)
    patch.setattr(fused, "SMALLEST_BLOCK", 6)
    patch.setattr(fused, "LARGEST_BLOCK", 6)
    patch.setattr(fused_pairs, "LEAST_ROWS", 2)
    patch.setattr(fused_linear, "LEAST_ITEMS", 2)
    patch.setattr(fused_linear, "MOST_ITEMS", 2)


def run(loss, inputs, *targets, factor=1.0, **settings):
    """The value, and its gradient times the factor."""
    leaf = inputs.detach().requires_grad_()
    value = loss(leaf, *targets, **settings)
    (gradient,) = torch.autograd.grad(value, leaf, torch.full_like(value, factor))
    return value.detach(), gradient


def plainly(loss, *arguments, **settings):
    """As `run`, without kernels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "LEAST_SIZE", math.inf)
        return run(loss, *arguments, **settings)
