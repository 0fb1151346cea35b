"""Losses whose probabilities can be exactly 0."""

import math

import pytest
import torch

from losskit import create_loss
from losskit.modules import entmax15_loss, sparsemax_loss

NAMES = ["sparsemax", "entmax15"]
FUNCTIONS = {"sparsemax": sparsemax_loss, "entmax15": entmax15_loss}
# How far the right logit must stand above all others for a loss of 0.
MARGINS = {"sparsemax": 1.0, "entmax15": 2.0}


def projected(name, logits):
    """Probabilities by bisection on the threshold, in float64."""
    alpha = 2.0 if name == "sparsemax" else 1.5
    x = (alpha - 1) * logits.double()
    high = x.amax(-1, keepdim=True)
    low = high - 1
    for _ in range(100):
        middle = (low + high) / 2
        above = (x - middle).clamp_min(0).pow(1 / (alpha - 1)).sum(-1, keepdim=True) > 1
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return (x - low).clamp_min(0).pow(1 / (alpha - 1))


@pytest.mark.parametrize(
    ("name", "value"),
    # SparsemaxLoss and Entmax15Loss of the package entmax 1.3 for these logits and class 1, in float64.
    [("sparsemax", 0.42249999999999993), ("entmax15", 0.5634665171734582)],
)
def test_value_is_that_of_the_package_entmax(name, value):
    logits = torch.tensor([[1.2, 0.9, 0.1, -0.4, -3.0]], dtype=torch.float64)
    torch.testing.assert_close(create_loss(name)(logits, torch.tensor([1])).item(), value, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0, 1e4])
@pytest.mark.parametrize("num_classes", [1, 2, 7, 1000, 50_000])
def test_gradient_is_the_sparse_probabilities_less_the_labels(name, scale, num_classes):
    logits = (torch.randn(3, num_classes) * scale).requires_grad_()
    ids = torch.randint(num_classes, (3,))
    value = FUNCTIONS[name](logits, ids, reduction="none")
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    p = projected(name, logits.detach())
    labels = torch.nn.functional.one_hot(ids, num_classes)
    torch.testing.assert_close(gradient.double(), p - labels, rtol=1e-4, atol=2e-6)
    alpha = 2.0 if name == "sparsemax" else 1.5
    entropy = (1 - p.pow(alpha).sum(-1)) / (alpha * (alpha - 1))
    expected = (logits.detach().double() * (p - labels)).sum(-1) + entropy
    torch.testing.assert_close(value.detach().double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_clear_margin_costs_nothing(name):
    margin = MARGINS[name]
    logits = torch.tensor([[margin, 0.0, -5.0], [margin + 3, 0.0, 2.9], [1e4, -1e4, 0.0]], requires_grad=True)
    value = FUNCTIONS[name](logits, torch.zeros(3, dtype=torch.long), reduction="none")
    assert (value == 0).all()
    assert (torch.autograd.grad(value.sum(), logits)[0] == 0).all()
    assert create_loss(name)(torch.tensor([[margin - 0.01, 0.0]]), torch.tensor([0])) > 0


@pytest.mark.parametrize("name", NAMES)
def test_ties_share_their_probability(name):
    logits = torch.zeros(1, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(create_loss(name)(logits, torch.tensor([0])), logits)
    torch.testing.assert_close(gradient, torch.tensor([[-0.8, 0.2, 0.2, 0.2, 0.2]]))


@pytest.mark.parametrize("name", NAMES)
def test_probabilities_are_at_no_cost_where_the_model_gives_them(name):
    logits = torch.tensor([[0.6, 0.5, -2.0, -math.inf]], requires_grad=True)
    targets = projected(name, logits.detach()).float()
    assert targets[0, -1] == 0
    value = FUNCTIONS[name](logits, targets)
    (gradient,) = torch.autograd.grad(value, logits)
    torch.testing.assert_close(value.item(), 0.0, rtol=0.0, atol=1e-6)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_one_hot_probabilities_are_ids(name):
    logits, ids = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 4, 4))
    labels = torch.nn.functional.one_hot(ids, 3).movedim(-1, 1).float()
    loss = create_loss(name, feature_type="image")
    torch.testing.assert_close(loss(logits, labels), loss(logits, ids))


@pytest.mark.parametrize("name", NAMES)
def test_ignored_steps_and_classes_that_cannot_be(name):
    logits = torch.randn(2, 3, 4)
    masked = torch.cat([logits, torch.full((2, 3, 1), -math.inf)], -1).requires_grad_()
    ids = torch.tensor([[0, -100, 3], [-100, 1, 2]])
    loss = create_loss(name, feature_type="text")
    value = loss(masked, ids)
    torch.testing.assert_close(value, loss(logits[ids != -100].unsqueeze(0), ids[ids != -100].unsqueeze(0)))
    assert torch.isfinite(torch.autograd.grad(value, masked)[0]).all()
    assert loss.count(ids) == 4


@pytest.mark.parametrize("name", NAMES)
def test_hessian_is_that_of_the_projection(name):
    # The Jacobian of p, away from where a class enters the support.
    logits = torch.tensor([[0.5, 0.1, -0.2, -4.0]], dtype=torch.float64)
    loss = create_loss(name)
    hessian = torch.autograd.functional.hessian(lambda z: loss(z, torch.tensor([0])), logits).reshape(4, 4)
    p = projected(name, logits)[0]
    weights = (p > 0).double() if name == "sparsemax" else p.sqrt()
    expected = weights.diag() - torch.outer(weights, weights) / weights.sum()
    torch.testing.assert_close(hessian, expected, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(torch.func.hessian(lambda z: loss(z, torch.tensor([0])))(logits).reshape(4, 4), hessian)
