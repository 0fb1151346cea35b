"""Every registered loss keeps every point of the contract, and the checks notice a loss that does not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from losskit.modules.batches import cast, leaves
from losskit.modules.contract import check_compiles, subject_of, total_of
from losskit.registry import registry
from losskit.schema import BaseLossConfig, dataclass
from losskit.schema import fields as schema_utils
from losskit.testing import CHECKS, Batch, ContractError, check_loss

NAMES = registry.names()
# Losses whose gradient torch cannot differentiate; it says so when asked.
ONCE_DIFFERENTIABLE = {
    "ctc",  # torch has no derivative of its backward pass
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", NAMES)
def test_loss_keeps_its_contract(name, check):
    CHECKS[check](subject_of(name))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_loss_is_the_same_under_inductor(name):
    check_compiles(subject_of(name), backend="inductor")


@pytest.mark.parametrize("name", NAMES)
def test_second_derivatives_are_right(name):
    subject = subject_of(name)
    for feature_type, batch in subject.cases():
        module = subject.build(feature_type).double()
        inputs, targets = leaves(cast(batch, torch.float64))
        if name in ONCE_DIFFERENTIABLE:
            value = module(*inputs, *targets)
            with pytest.raises(RuntimeError):
                sum(g.sum() for g in torch.autograd.grad(value, inputs, create_graph=True)).backward()
            continue
        assert torch.autograd.gradgradcheck(lambda *x, m=module, t=targets: total_of(m(*x, *t)), inputs), feature_type


@pytest.mark.parametrize("name", NAMES)
def test_names_follow_one_rule(name):
    entry = registry.get(name)
    camel = "".join(word.capitalize() for word in name.split("_"))
    module, _, cls = entry.module.path.partition(":")
    assert cls == f"{camel}Loss"
    assert entry.config.path == f"{module.replace('.modules.', '.schema.')}:{camel}LossConfig"
    assert callable(getattr(__import__("losskit.modules", fromlist=["modules"]), f"{name}_loss"))
    assert entry.config.load()().type == name


@dataclass
class BrokenLossConfig(BaseLossConfig):
    scale: float = schema_utils.PositiveFloat(default=1.0, description="A factor.")


def broken(forward, scale=1.0):
    """A loss class that is right but for its forward, or for its default."""

    class Broken(nn.Module):
        """Breaks one point."""

        def __init__(self, scale: float = scale):
            super().__init__()
            self.scale = scale

        def forward(self, predictions, targets):
            return forward(self, predictions, targets)

        @staticmethod
        def get_schema_cls():
            return BrokenLossConfig

    return Broken


def _refuse(predictions, targets):
    if predictions.shape != targets.shape:
        raise ValueError(f"{tuple(predictions.shape)} and {tuple(targets.shape)}")
    return predictions.float() if predictions.dtype in (torch.half, torch.bfloat16) else predictions


def right(self, predictions, targets):
    predictions = _refuse(predictions, targets)
    return self.scale * (predictions - targets).square().sum() / max(predictions.numel(), 1)


BREACHES = {
    "result_is_scalar": lambda self, p, t: self.scale * (_refuse(p, t) - t).square(),
    "trains_by_default": lambda self, p, t: self.scale * (_refuse(p, t) - t).mean() * 0,
    "every_setting_acts": lambda self, p, t: (_refuse(p, t) - t).square().sum() / max(p.numel(), 1),
    "gradients": lambda self, p, t: self.scale * (_refuse(p, t) - t).square().sum() + (p - p.detach()).sum(),
    "gradient_of_zero": lambda self, p, t: self.scale * (p.clamp_min(0) - p * t + F.softplus(-p.abs())).sum(),
    "large_inputs": lambda self, p, t: self.scale * (_refuse(p, t) - t).exp().sum(),
    "perfect_fit": lambda self, p, t: self.scale * (_refuse(p, t) - t).square().sum().sqrt(),
    "half_precision": lambda self, p, t: self.scale * (p - t.to(p.dtype)).square().sum(),
    "nothing_to_count": lambda self, p, t: self.scale * (_refuse(p, t) - t).square().mean(),
    "few_items": lambda self, p, t: self.scale * (_refuse(p, t) - t).square().sum() / (p.numel() - 1),
    "no_broadcasting": lambda self, p, t: self.scale * (p - t).square().sum(),
    "order_does_not_matter": lambda self, p, t: self.scale * _refuse(p, t).flatten()[0] * t.sum(),
    "compiles": lambda self, p, t: self.scale * _refuse(p, t).sum() * (1 if float(t.sum()) > 0 else 2),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("point", BREACHES)
def test_checks_notice_a_breach(point):
    # The corner at 0 shows with labels; the others show with numbers too.
    feature_type = "binary" if point == "gradient_of_zero" else "number"
    with pytest.raises(ContractError, match=f"{point}: "):
        check_loss(broken(BREACHES[point]), feature_types=[feature_type], skip=["state", "exports", "docstring"])


def test_checks_notice_different_defaults():
    with pytest.raises(AssertionError, match=r"scale defaults to 1.0 in the config, to 2.0 in the constructor"):
        CHECKS["config_defaults_match"](subject_of(broken(right, scale=2.0), ["number"]))


def test_a_right_loss_passes():
    check_loss(broken(right), feature_types=["number", "vector"], skip=["state"])


def test_unusual_inputs_can_be_given():
    def make_batch(feature_type, generator):
        return Batch((torch.rand(6, generator=generator),), (torch.rand(6, generator=generator),))

    check_loss("huber", feature_types=["number"], make_batch=make_batch)
    check_loss("mse", feature_types=["number"])


def test_a_mask_that_does_nothing_is_noticed():
    def masked(weigh):
        class Masked(broken(right)):
            @classmethod
            def get_optional_loss_targets(cls):
                return ("mask",)

            def forward(self, predictions, targets, *, mask=None):
                values = self.scale * (_refuse(predictions, targets) - targets).square()
                if mask is not None:
                    values = weigh(values, mask)
                return values.sum() / max(predictions.numel(), 1)

        return Masked

    CHECKS["masks"](subject_of(masked(lambda values, mask: values * mask), ["number"]))
    with pytest.raises(AssertionError, match=r"a mask \(6,\) leaves something out that counts"):
        CHECKS["masks"](subject_of(masked(lambda values, mask: values), ["number"]))
    with pytest.raises(AssertionError, match=r"a mask \(6,\) of all items changes the loss"):
        CHECKS["masks"](subject_of(masked(lambda values, mask: 7 * values * mask), ["number"]))
