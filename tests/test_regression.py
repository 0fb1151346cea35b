"""What is special to losses between real-valued tensors: torch's and Ludwig's values, and where these break."""

import pytest
import torch
import torch.nn.functional as F

from losskit import create_loss
from losskit.modules import (
    root_mean_squared_error_loss,
    root_mean_squared_percentage_error_loss,
    smooth_l1_loss,
)

EXACT = {"rtol": 3e-7, "atol": 0}


def value_and_gradient(loss, predictions, *targets):
    predictions = predictions.detach().clone().requires_grad_()
    value = loss(predictions, *targets)
    return value.detach(), torch.autograd.grad(value.sum(), predictions)[0]


def pairs():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(40, 7, generator=generator), torch.randn(40, 7, generator=generator)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0, 5.0])
def test_smooth_l1_is_torchs(beta, reduction):
    x, y = pairs()
    found = value_and_gradient(create_loss("smooth_l1", beta=beta), x, y)
    torch.testing.assert_close(found, value_and_gradient(torch.nn.SmoothL1Loss(beta=beta), x, y), **EXACT)
    found = value_and_gradient(lambda x, y: smooth_l1_loss(x, y, beta=beta, reduction=reduction), x, y)
    torch.testing.assert_close(
        found, value_and_gradient(torch.nn.SmoothL1Loss(reduction=reduction, beta=beta), x, y), **EXACT
    )
    if beta:
        huber = create_loss("huber", delta=beta)(x, y)
        torch.testing.assert_close(huber, beta * create_loss("smooth_l1", beta=beta)(x, y))


def test_percentage_errors_have_the_values_of_torchmetrics_ludwig_and_keras():
    x, y = pairs()
    y[0, 0] = 0.0
    # torchmetrics divides by the target, clamped at 1.17e-6; Keras clamps at its own epsilon.
    torchmetrics = ((x - y).abs() / y.abs().clamp(min=1.17e-6)).mean()
    torch.testing.assert_close(create_loss("mape")(x, y), torchmetrics, **EXACT)
    keras = 100 * ((y - x) / y.abs().clamp(min=1e-7)).abs().mean()
    torch.testing.assert_close(create_loss("mape", eps=1e-7, as_percent=True)(x, y), keras, rtol=1e-6, atol=0)
    # With the usual clamp, an error of 1e-3 at a target of 0 is 855 times the whole.
    near_zero = torch.tensor([1e-3]), torch.tensor([0.0])
    assert create_loss("mape")(*near_zero).item() == pytest.approx(1e-3 / 1.17e-6)
    assert create_loss("mape", eps=0.1)(*near_zero).item() == pytest.approx(0.01)


@pytest.mark.parametrize("name", ["rmse", "rmspe"])
def test_roots_of_means_have_ludwigs_values(name):
    x, y = pairs()
    y[0, 0] = 0.0
    y[y.abs() < 1e-4] = 0.0

    def ludwig(x, y):
        shares = x - y if name == "rmse" else (y - x) / (y + 1e-4 * (y == 0).float())
        return F.mse_loss(shares, torch.zeros_like(shares)).sqrt()

    loss = create_loss(name)
    torch.testing.assert_close(value_and_gradient(loss, x, y), value_and_gradient(ludwig, x, y), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["rmse", "rmspe"])
def test_roots_of_means_at_and_beside_a_perfect_fit(name):
    loss, y = create_loss(name), torch.tensor([1.0, -2.0, 0.0])
    value, gradient = value_and_gradient(loss, y, y)
    assert value == 0
    assert gradient.tolist() == [0.0, 0.0, 0.0]
    # Nothing is added that would hide a small error: the slope is that of the only error, by the root of 3.
    x = torch.tensor([1.0, -2.0 + 2**-20, 0.0])
    value, gradient = value_and_gradient(loss, x, y)
    scale = 1.0 if name == "rmse" else 0.5
    assert value.item() == pytest.approx(scale * 2**-20 / 3**0.5)
    assert gradient.tolist() == pytest.approx([0.0, scale / 3**0.5, 0.0])


def test_a_target_near_zero_does_not_outweigh_all_others():
    # Ludwig divides by 1e-9 here, and gets 7e5.
    value, gradient = value_and_gradient(
        root_mean_squared_percentage_error_loss, torch.tensor([1e-3, 1.0]), torch.tensor([1e-9, -1.0])
    )
    assert value.item() == pytest.approx(((10**2 + 2**2) / 2) ** 0.5, rel=1e-4)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_squares_of_large_errors_do_not_overflow_in_half_precision(dtype):
    x, y = torch.tensor([1e4, -1e4], dtype=dtype), torch.zeros(2)
    assert root_mean_squared_error_loss(x, y).item() == x[0].item()
    assert root_mean_squared_percentage_error_loss(x, y).item() == pytest.approx(x[0].item() * 1e4)
    assert create_loss("mape")(x, y).item() == pytest.approx(x[0].item() / 1.17e-6)


@pytest.mark.parametrize(("name", "settings"), [("rmse", {}), ("rmse", {"eps": 0.5}), ("rmspe", {})])
def test_the_root_over_nothing_is_zero(name, settings):
    value, gradient = value_and_gradient(create_loss(name, **settings), torch.zeros(0, 3), torch.zeros(0, 3))
    assert value == 0
    assert gradient.shape == (0, 3)


def test_eps_stands_inside_the_root():
    x, y = torch.tensor([3.0, 1.0]), torch.tensor([1.0, 1.0])
    assert create_loss("rmse", eps=2.0)(x, y).item() == 2.0


@pytest.mark.parametrize("name", ["smooth_l1", "mape", "rmse", "rmspe"])
def test_integer_targets_count_as_numbers_and_other_shapes_are_refused(name):
    loss, x = create_loss(name), torch.tensor([0.5, 3.0])
    torch.testing.assert_close(loss(x, torch.tensor([1, 2], dtype=torch.uint8)), loss(x, torch.tensor([1.0, 2.0])))
    with pytest.raises(ValueError, match=r"predictions \(2, 1\) and targets \(2,\) .* \(2, 2\); drop the last axis"):
        loss(x.unsqueeze(1), x)


@pytest.mark.parametrize("name", ["rmse", "rmspe"])
def test_a_root_of_a_mean_has_no_count(name):
    loss = create_loss(name)
    with pytest.raises(TypeError, match="is no sum over items"):
        loss.count(torch.zeros(2))
    with pytest.raises(TypeError, match="normalizer"):
        loss(torch.zeros(2), torch.zeros(2), normalizer=2)
