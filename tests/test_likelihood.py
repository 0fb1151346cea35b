"""What is special to negative log likelihoods: torch's values, overflow, shapes of variances, refused numbers."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from losskit import create_loss, debug, validate
from losskit.modules import gaussian_nll_loss, poisson_nll_loss

EXACT = {"rtol": 3e-7, "atol": 1e-7}


def value_and_gradients(loss, *tensors):
    """The value, and the gradient with respect to every tensor but the last."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors[:-1]]
    value = loss(*leaves, tensors[-1])
    return value.detach(), *torch.autograd.grad(value.sum(), leaves)


def numbers():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(30, 6, generator=generator), torch.randint(9, (30, 6), generator=generator).float()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("log_input", "full"), list(itertools.product([True, False], repeat=2)))
def test_poisson_nll_is_torchs(log_input, full, reduction):
    x, y = numbers()
    x = x if log_input else x.abs()
    if not log_input:
        x[0, 0] = 0.0
    settings = {"log_input": log_input, "full": full, "eps": 1e-5, "reduction": reduction}
    found = value_and_gradients(lambda x, y: poisson_nll_loss(x, y, **settings), x, y)
    # Rates add up in another order.
    torch.testing.assert_close(
        found, value_and_gradients(torch.nn.PoissonNLLLoss(**settings), x, y), **{**EXACT, "rtol": 1e-6}
    )
    if reduction == "none":
        torch.testing.assert_close(found[0], F.poisson_nll_loss(x, y, **settings), **EXACT)


def test_poisson_rates_overflow_nowhere():
    loss, y = create_loss("poisson_nll"), torch.ones(3)
    # exp(12) is infinite in float16, exp(89) in float32.
    x = torch.tensor([12.0, -12.0, 0.0], dtype=torch.float16)
    torch.testing.assert_close(loss(x, y), F.poisson_nll_loss(x.double(), y).float())
    value, gradient = value_and_gradients(loss, torch.tensor([89.0, 1e4, -1e4]), y)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
    assert (gradient[:2] > 0).all()


def test_poisson_tangent_joins_smoothly_and_leaves_lower_rates_alone():
    x = torch.tensor([63.999999, 64.0, 64.000001, 65.0], dtype=torch.float64)
    value, gradient = value_and_gradients(
        lambda x, y: poisson_nll_loss(x, y, reduction="none"), x, torch.zeros(4, dtype=torch.float64)
    )
    assert value[:2].tolist() == x[:2].exp().tolist()
    torch.testing.assert_close(value[:3], x[:3].exp(), rtol=1e-11, atol=0)
    torch.testing.assert_close(gradient, value[1] * torch.ones(4, dtype=torch.float64), rtol=2e-6, atol=0)
    assert value[3].item() == pytest.approx(2 * math.exp(64))


def test_stirlings_formula_begins_above_one():
    x, y = torch.zeros(4), torch.tensor([0.0, 0.5, 1.0, 2.0])
    found = poisson_nll_loss(x, y, full=True, reduction="none")
    assert found[:3].tolist() == [1.0, 1.0, 1.0]
    assert found[3].item() == pytest.approx(1 + math.log(2), abs=0.05)


def test_poisson_refuses_rates_and_counts_that_cannot_be():
    with pytest.raises(ValueError, match=r"predictions hold a negative rate: .* at index \(.*; with log_input"):
        create_loss("poisson_nll", log_input=False)(torch.tensor([-0.1]), torch.tensor([1]))
    with debug(), pytest.raises(ValueError, match=r"targets hold a value outside 0 to inf: -1 at index \(0,\)"):
        create_loss("poisson_nll")(torch.tensor([0.1]), torch.tensor([-1]))


def test_eps_beside_log_input_is_a_warning():
    config = "output_features:\n- {{name: n, type: number, loss: {{type: poisson_nll, eps: 0.1, log_input: {}}}}}"
    found = validate(text=config.format("true"))
    assert [(d.code, d.severity) for d in found] == [("LK303", "warning")]
    assert not validate(text=config.format("false"))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("full", "eps"), list(itertools.product([True, False], [1e-6, 0.3])))
def test_gaussian_nll_is_torchs(full, eps, reduction):
    x, y = numbers()
    variances = x.exp() + eps  # at eps or above, where gradients are defined
    variances[0, 0] = eps
    settings = {"full": full, "eps": eps, "reduction": reduction}
    theirs = torch.nn.GaussianNLLLoss(**settings)
    found = value_and_gradients(lambda x, v, y: gaussian_nll_loss(x, v, y, **settings), x, variances, y)
    expected = value_and_gradients(lambda x, v, y: theirs(x, y, v), x, variances, y)
    torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("shape", [(30, 1), (30,)])
def test_one_variance_for_the_last_axis_as_in_torch(shape):
    x, y = numbers()
    variances = torch.rand(shape, generator=torch.Generator().manual_seed(1)) + 0.1
    found = value_and_gradients(create_loss("gaussian_nll"), x, variances, y)
    expected = value_and_gradients(lambda x, v, y: F.gaussian_nll_loss(x, y, v), x, variances, y)
    torch.testing.assert_close(found, expected, **EXACT)
    unreduced = gaussian_nll_loss(x, variances, y, reduction="none")
    assert unreduced.shape == x.shape


def test_one_variance_for_all_numbers():
    x, y = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0])
    expected = gaussian_nll_loss(x, torch.full((2,), 3.0), y)
    for variances in (torch.tensor(3.0), torch.tensor([3.0])):
        torch.testing.assert_close(gaussian_nll_loss(x, variances, y), expected)


@pytest.mark.parametrize(
    ("predictions", "variances", "message"),
    [
        ((4, 3), (3,), r"predictions \(4, 3\) and variances \(3,\) do not fit: .* the shape \(4, 3\) or \(4, 1\)"),
        ((4, 3), (1, 3), r"predictions \(4, 3\) and variances \(1, 3\) do not fit"),
        ((4,), (4, 1), r"predictions \(4,\) and variances \(4, 1\) do not fit"),
        ((), (1,), r"predictions \(\) and variances \(1,\) do not fit: variances must have the shape \(\)$"),
        # One variance per sample, or one per dimension?
        ((3, 3), (3,), r"variances \(3,\) fit in two ways: for one variance per sample give variances.unsqueeze\(-1\)"),
    ],
)
def test_variances_of_other_shapes_are_refused(predictions, variances, message):
    with pytest.raises(ValueError, match=message):
        gaussian_nll_loss(torch.zeros(predictions), torch.ones(variances), torch.zeros(predictions))


def test_a_last_batch_of_one_sample_is_not_ambiguous():
    assert gaussian_nll_loss(torch.zeros(1, 1), torch.ones(1), torch.ones(1, 1)) == 0.5


def test_forms_of_variances_have_the_same_values():
    x, y = (tensor.double() for tensor in numbers())
    deviations = x.abs()
    deviations[0, 0] = 0.0
    values = [
        create_loss("gaussian_nll", var_form=form, eps=0.01)(x, variances, y)
        for form, variances in (
            ("std", deviations),
            ("variance", deviations.square()),
            ("log_variance", 2 * deviations.log()),  # -inf at 0
        )
    ]
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(values[0], values[2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("form", ["variance", "log_variance", "std"])
def test_extreme_variances_stay_finite(form, dtype):
    extremes = torch.tensor([0.0, 1e-7, 1e4, -1e4 if form == "log_variance" else 1.0], dtype=dtype)
    x, y = torch.tensor([1e4, -1e4, 0.0, 3.0], dtype=dtype), torch.zeros(4)
    value, *gradients = value_and_gradients(
        lambda x, v, y: gaussian_nll_loss(x, v, y, var_form=form), x.float(), extremes.float(), y
    )
    half_value, *_ = value_and_gradients(lambda x, v, y: gaussian_nll_loss(x, v, y, var_form=form), x, extremes, y)
    assert torch.isfinite(value)
    assert half_value == value
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize(("form", "lowest"), [("variance", 1e-6), ("std", 1e-3), ("log_variance", math.log(1e-6))])
def test_the_gradient_of_variances_ends_below_eps(form, lowest):
    variances = torch.tensor([lowest * 1.5 if lowest < 0 else lowest / 2, 2.0])
    _, _, gradient = value_and_gradients(
        create_loss("gaussian_nll", var_form=form), torch.ones(2), variances, torch.zeros(2)
    )
    assert gradient[0] == 0
    assert gradient[1] != 0


@pytest.mark.parametrize(("form", "what"), [("variance", "variances"), ("std", "standard deviations")])
def test_negative_variances_are_refused(form, what):
    with pytest.raises(ValueError, match=rf"{what} hold a negative value: .* at index \(.*; var_form: log_variance"):
        gaussian_nll_loss(torch.zeros(2), torch.tensor([1.0, -1e-3]), torch.zeros(2), var_form=form)
    with pytest.raises(ValueError, match="var_form must be variance, log_variance or std, got 'logvar'"):
        gaussian_nll_loss(torch.zeros(2), torch.ones(2), torch.zeros(2), var_form="logvar")


def test_a_perfect_fit_of_a_gaussian_costs_the_logarithm_of_its_spread():
    value, of_mean, of_variance = value_and_gradients(
        create_loss("gaussian_nll", full=True), torch.ones(3), torch.ones(3), torch.ones(3)
    )
    assert value.item() == pytest.approx(0.5 * math.log(2 * math.pi))
    assert of_mean.tolist() == [0.0] * 3
    assert of_variance.tolist() == pytest.approx([1 / 6] * 3)
