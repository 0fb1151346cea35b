"""Losses between distributions: torch's and MMF's values, classes and samples that are absent, what is refused."""

import math

import pytest
import torch
import torch.nn.functional as F

from losskit import create_loss, debug
from losskit.modules import kl_div_loss
from tests.test_binary import compare

INF = math.inf
pytestmark = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")


@pytest.mark.parametrize("reduction", ["mean", "sum", "batchmean", "none"])
@pytest.mark.parametrize("shape", [(50, 7), (3, 4, 5, 6), (7,)])
def test_kl_div_has_the_values_of_torch(reduction, shape):
    torch.manual_seed(0)
    logits, targets = 3 * torch.randn(shape), torch.randn(shape).softmax(0)
    axis = 0 if len(shape) == 1 else 1
    for log_target in (False, True):
        given = targets.log() if log_target else targets
        settings = {"reduction": reduction, "log_target": log_target}

        def expected(x, y, settings=settings):
            return F.kl_div(x.log_softmax(axis), y, **settings).sum()

        compare(lambda x, y, s=settings: kl_div_loss(x.log_softmax(axis), y, **s).sum(), expected, logits, given)
        compare(lambda x, y, s=settings: kl_div_loss(x, y, from_logits=True, **s).sum(), expected, logits, given)


def test_classes_that_are_absent_cost_nothing():
    # torch gives NaN for each of these.
    log_p = torch.tensor([[0.25, 0.75, 0.0]]).log().requires_grad_()
    targets = torch.tensor([[0.5, 0.5, 0.0]])
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    for log_target in (False, True):
        given = (targets.log() if log_target else targets).requires_grad_(log_target)
        with debug():
            value = kl_div_loss(log_p, given, log_target=log_target)
        assert value.item() == pytest.approx(expected)
        (gradient,) = torch.autograd.grad(value, log_p, retain_graph=True)
        torch.testing.assert_close(gradient, -targets)
    # Of two models that learn from each other, both get gradients.
    (gradient,) = torch.autograd.grad(value, given)
    assert torch.isfinite(gradient).all()
    logits = torch.tensor([[1.0, 2.0, -INF]], requires_grad=True)
    for name, settings in (
        ("kl_div", {"from_logits": True}),
        ("softmax_kldiv", {}),
        ("weighted_softmax", {}),
        ("bce_kl_combined", {}),
    ):
        with debug():
            value = create_loss(name, **settings)(logits, targets)
        without = create_loss(name, **settings)(logits[:, :2], targets[:, :2])
        torch.testing.assert_close(value, without)
        assert torch.isfinite(torch.autograd.grad(value, logits)[0]).all(), name


def mmf_softmax(logits, targets, *, weigh=False):
    """Divides by the sum of the scores, or by 1e-6 where that is 0."""
    totals = targets.sum(1, keepdim=True)
    totals = torch.where(totals == 0, torch.full_like(totals, 1e-6), totals)
    shares = targets / totals
    log_shares = torch.where(shares == 0, torch.ones_like(shares), shares).log()
    values = (shares * (log_shares - logits.log_softmax(1))).sum(1, keepdim=True)
    return (values * totals if weigh else values).sum() / len(values)


def mmf_wrong(logits, targets):
    totals = targets.sum(1, keepdim=True)
    shares = targets / torch.where(totals == 0, torch.full_like(totals, 1e-6), totals)
    return F.kl_div(logits.log_softmax(1), shares, reduction="mean") * targets.shape[1]


def mmf_combined(logits, targets, weight):
    bce = F.binary_cross_entropy_with_logits(logits, targets) * targets.shape[1]
    return weight * mmf_softmax(logits, targets) + bce


def test_losses_of_scores_have_the_values_of_mmf():
    torch.manual_seed(0)
    # Some samples have no score above 0 at all, and all have classes without one.
    logits, targets = torch.randn(40, 5), torch.rand(40, 5).mul(1.6).sub(0.9).clamp_min(0)
    assert (targets.sum(1) == 0).any()
    given = targets.clone()
    compare(create_loss("softmax_kldiv"), mmf_softmax, logits, targets)
    compare(create_loss("wrong"), mmf_wrong, logits, targets)
    compare(create_loss("weighted_softmax"), lambda x, y: mmf_softmax(x, y, weigh=True), logits, targets)
    for weight in (1.0, 0.3, 0.0):
        combined = create_loss("bce_kl_combined", weight_softmax=weight)
        compare(combined, lambda x, y, w=weight: mmf_combined(x, y, w), logits, targets)
        both = create_loss("bce_kl", weight_softmax=weight)
        compare(
            lambda x, y, f=both: sum(f(x, y).values()), lambda x, y, w=weight: mmf_combined(x, y, w), logits, targets
        )
        torch.testing.assert_close(both(logits, targets)["kl"], weight * mmf_softmax(logits, targets))
    assert torch.equal(targets, given)


@pytest.mark.parametrize("name", ["softmax_kldiv", "weighted_softmax", "bce_kl_combined"])
def test_samples_without_scores_have_no_softmax(name):
    logits = torch.randn(3, 4, requires_grad=True)
    value = create_loss(name)(logits, torch.zeros(3, 4, dtype=torch.long))
    (gradient,) = torch.autograd.grad(value, logits)
    if name == "bce_kl_combined":
        torch.testing.assert_close(value, F.softplus(logits).sum() / 3)
    else:
        assert value == 0
        assert (gradient == 0).all()


@pytest.mark.parametrize("name", ["kl_div", "softmax_kldiv", "weighted_softmax", "bce_kl_combined"])
def test_targets_may_be_of_any_dtype(name):
    inputs, targets = torch.rand(4, 3).log_softmax(1), torch.randint(2, (4, 3))
    expected = create_loss(name)(inputs, targets.float())
    for dtype in (torch.bool, torch.uint8, torch.int32, torch.float16, torch.float64):
        torch.testing.assert_close(create_loss(name)(inputs, targets.to(dtype)), expected)


@pytest.mark.parametrize("name", ["kl_div", "softmax_kldiv", "weighted_softmax", "bce_kl_combined", "bce_kl"])
def test_shapes_that_do_not_fit_are_refused(name):
    role = "log_probabilities" if name == "kl_div" else "logits"
    with pytest.raises(ValueError, match=rf"{role} \(4, 1\) and targets \(4,\) .*{role}.squeeze\(-1\)"):
        create_loss(name)(torch.zeros(4, 1), torch.zeros(4))
    settings = {"from_logits": True} if name == "kl_div" else {}
    with pytest.raises(ValueError, match="must have a class axis"):
        create_loss(name, **settings)(torch.tensor(0.0), torch.tensor(1.0))


def test_debug_says_what_is_no_probability():
    ones, half = torch.ones(1, 2), torch.full((1, 2), 0.5)
    with debug():
        # torch gives a negative divergence without a word.
        with pytest.raises(ValueError, match=r"log_probabilities hold a value outside -inf to 1e-06: 0.5 at index"):
            kl_div_loss(half, half)
        with pytest.raises(ValueError, match=r"targets hold a value outside 0 to inf: -0.69"):
            kl_div_loss(half.log(), half.log())
        with pytest.raises(ValueError, match=r"targets hold a value outside -inf to 1e-06: 0.5"):
            kl_div_loss(half.log(), half, log_target=True)
        with pytest.raises(ValueError, match=r"targets hold a value outside 0 to inf: -1"):
            create_loss("softmax_kldiv")(half, -ones)
        assert create_loss("softmax_kldiv")(half, 3 * ones) == 0
        with pytest.raises(ValueError, match=r"targets hold a value outside 0 to 1: 3"):
            create_loss("bce_kl_combined")(half, 3 * ones)
