"""Losses that are computed together with their gradient: the same as the plain form, in less memory."""

import pytest
import torch

from losskit.modules import fused
from losskit.modules.batches import cast, leaves
from losskit.modules.contract import CHECKS, subject_of, total_of
from losskit.registry import registry

NAMES = registry.names()


@pytest.fixture
def _every_size(monkeypatch):
    """Kernels take inputs of every size, in blocks so small that there are several."""
    monkeypatch.setattr(fused, "LEAST_SIZE", 1)
    monkeypatch.setattr(fused, "SMALLEST_BLOCK", 6)
    monkeypatch.setattr(fused, "LARGEST_BLOCK", 6)


# What looks at the config alone, or at compiled code, which has no kernels, is tested elsewhere.
WITHOUT_KERNELS = {"compiles", "exports", "docstring", "config_defaults_match"}


@pytest.mark.usefixtures("_every_size")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("check", [name for name in CHECKS if name not in WITHOUT_KERNELS])
@pytest.mark.parametrize("name", NAMES)
def test_loss_with_a_kernel_keeps_its_contract(name, check):
    CHECKS[check](subject_of(name))


@pytest.mark.usefixtures("_every_size")
@pytest.mark.parametrize("name", [name for name in NAMES if name != "ctc"])
def test_second_derivatives_go_through_the_plain_form(name):
    subject = subject_of(name)
    for feature_type, batch in subject.cases():
        module = subject.build(feature_type).double()
        inputs, targets = leaves(cast(batch, torch.float64))
        assert torch.autograd.gradgradcheck(lambda *x, m=module, t=targets: total_of(m(*x, *t)), inputs), feature_type
