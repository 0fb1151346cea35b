"""Losses of models that return the logarithms of probabilities."""

import math

import pytest
import torch
import torch.nn.functional as F

from losskit import create_loss, debug
from losskit.modules import nll_loss, softmax_cross_entropy_loss

CLOSE = {"rtol": 3e-7, "atol": 0.0}
WEIGHTS = [0.5, 2.0, 1.0]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("settings", [{}, {"class_weights": WEIGHTS}, {"ignore_index": 1}, {"ignore_index": None}])
@pytest.mark.parametrize("shape", [(8, 3), (4, 3, 5, 6)])
def test_nll_is_that_of_torch(shape, settings, reduction):
    log_p = torch.randn(shape).log_softmax(1).requires_grad_()
    ids = torch.randint(3, (shape[0], *shape[2:]))
    weight = torch.tensor(settings["class_weights"]) if "class_weights" in settings else None
    expected = F.nll_loss(log_p, ids, weight, ignore_index=settings.get("ignore_index") or -100, reduction=reduction)
    value = nll_loss(log_p, ids, reduction=reduction, **settings)
    torch.testing.assert_close(value, expected, **CLOSE)
    gradients = [torch.autograd.grad(v.sum(), log_p)[0] for v in (value, expected)]
    torch.testing.assert_close(*gradients, **CLOSE)


def test_nll_of_probabilities_is_cross_entropy_with_classes_that_cannot_be():
    logits = torch.tensor([[2.0, 1.0, -math.inf], [0.5, 0.0, 1.0]], requires_grad=True)
    targets = torch.tensor([[0.7, 0.3, 0.0], [0.2, 0.2, 0.6]])
    for settings in ({}, {"class_weights": WEIGHTS}, {"reduction": "none"}):
        value = nll_loss(logits.log_softmax(1), targets, **settings)
        torch.testing.assert_close(value, softmax_cross_entropy_loss(logits, targets, **settings))
        assert torch.isfinite(torch.autograd.grad(value.sum(), logits)[0]).all()


def test_nll_of_sequences_has_its_classes_last():
    # As many steps as classes, so that only the feature type says which axis is which.
    log_p, ids = torch.randn(2, 3, 3).log_softmax(-1), torch.randint(3, (2, 3))
    loss = create_loss("nll", feature_type="text")
    torch.testing.assert_close(loss(log_p, ids), F.nll_loss(log_p.transpose(1, 2), ids))


def test_logits_are_noticed_while_debugging():
    with debug():
        for log_p in (torch.randn(4, 50_000).log_softmax(1).bfloat16(), torch.tensor([[0.0, -math.inf]])):
            create_loss("nll")(log_p, torch.zeros(len(log_p), dtype=torch.long))
        for name in ("nll", "nll_loss"):
            with pytest.raises(
                ValueError, match="no log-probabilities; apply log_softmax, or use softmax_cross_entropy"
            ):
                create_loss(name)(torch.tensor([[0.5, 0.5]]), torch.tensor([0]))


def test_nll_says_what_it_takes():
    with pytest.raises(ValueError, match=r"log_probabilities \(4, 3\) and targets \(4, 1\) .*targets.squeeze\(-1\)"):
        create_loss("nll")(torch.zeros(4, 3), torch.zeros(4, 1, dtype=torch.long))
    with pytest.raises(ValueError, match=r"class id 3 at index \(0,\), but the log_probabilities \(1, 3\) have 3"):
        create_loss("nll")(torch.zeros(1, 3), torch.tensor([3]))
    with pytest.raises(ValueError, match=r"class_weights has 2 values, but the log_probabilities \(1, 3\) have 3"):
        create_loss("nll", class_weights=[1, 2])(torch.zeros(1, 3), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"log_probabilities \(4, 8, 8\) of an image"):
        create_loss("nll", feature_type="image")(torch.zeros(4, 8, 8), torch.zeros(4, 8, dtype=torch.long))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_mmfs_nll_takes_the_highest_score_of_each_row(dtype):
    log_p = torch.randn(3, 4).log_softmax(1)
    targets = torch.tensor([[0, 1, 0, 0], [1, 0, 0, 1], [0, 0, 1, 0]], dtype=dtype)
    loss = create_loss("nll_loss")
    expected = F.nll_loss(log_p, torch.tensor([1, 0, 2])) * 4
    torch.testing.assert_close(loss(log_p, targets), expected)
    torch.testing.assert_close(loss(log_p, torch.tensor([1, 0, 2])), expected)


def test_rows_without_a_label_do_not_count_as_the_first_class():
    log_p, targets = torch.randn(2, 3).log_softmax(1), torch.tensor([[0, 0, 1], [0, 0, 0]])
    loss = create_loss("nll_loss")
    torch.testing.assert_close(loss(log_p, targets), -3 * log_p[0, 2])
    assert loss.count(targets) == 1
    assert loss(log_p[1:], targets[1:]) == 0


@pytest.mark.parametrize(
    ("shape", "targets", "message"),
    [
        ((4, 3), (4, 1), r"log_probabilities \(4, 3\) and targets \(4, 1\) .*targets.squeeze\(-1\)"),
        ((4, 3), (4, 2), r"\(4, 3\) and targets \(4, 2\) do not fit"),
        ((4, 3, 2), (4, 3, 2), r"\(4, 3, 2\) and targets \(4, 3, 2\) .* must be \(batch, classes\)"),
    ],
)
def test_mmfs_nll_refuses_what_does_not_fit(shape, targets, message):
    with pytest.raises(ValueError, match=message):
        create_loss("nll_loss")(torch.zeros(shape), torch.zeros(targets, dtype=torch.long))
