"""Cross-entropy of labels with shares in several classes, and its polynomial relative."""

import math

import pytest
import torch
import torch.nn.functional as F

from losskit import create_loss, validate
from losskit.modules import label_smoothing_cross_entropy_loss, poly_loss, soft_label_cross_entropy_loss

CLOSE = {"rtol": 3e-7, "atol": 0.0}


def assert_alike(value, expected, logits, tolerance=CLOSE):
    """Values and gradients are the same."""
    torch.testing.assert_close(value, expected, **tolerance)
    gradients = [torch.autograd.grad(v.sum(), logits, retain_graph=True)[0] for v in (value, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("normalize_targets", [True, False])
def test_soft_labels_have_mmfs_number(reduction, normalize_targets):
    logits = torch.randn(5, 4, requires_grad=True)
    scores = torch.tensor([[0.3, 0.9, 0.0, 0.6], [1, 0, 0, 0], [0, 0, 0, 0], [0.1, 0.1, 0.1, 0.1], [2, 3, 0, 0]])
    labels = scores / (scores.sum(1, keepdim=True) + torch.finfo(torch.float32).eps) if normalize_targets else scores
    expected = -(labels * logits.log_softmax(1)).sum() / (4 if reduction == "mean" else 1)
    loss = create_loss("soft_label_cross_entropy", normalize_targets=normalize_targets, reduction=reduction)
    assert_alike(loss(logits, scores), expected, logits, {"rtol": 1e-6, "atol": 0.0})
    assert loss.count(scores) == 4


def test_soft_labels_are_torchs_where_they_sum_to_1():
    logits, targets = torch.randn(6, 3, requires_grad=True), torch.rand(6, 3).softmax(1)
    for reduction in ("mean", "sum", "none"):
        value = soft_label_cross_entropy_loss(logits, targets, normalize_targets=False, reduction=reduction)
        assert_alike(value, F.cross_entropy(logits, targets, reduction=reduction), logits)
    ids = torch.tensor([0, 1, 2, -100, 1, 0])
    assert_alike(soft_label_cross_entropy_loss(logits, ids), F.cross_entropy(logits, ids), logits)
    assert create_loss("soft_target_cross_entropy").count(ids) == 5


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64])
def test_several_labels_share_alike(dtype):
    # 200 labels of 2 sum to more than a byte holds.
    logits, labels = torch.randn(2, 300), (torch.arange(300) < 200).expand(2, 300)
    loss = create_loss("soft_label_cross_entropy")
    expected = -logits.log_softmax(1)[:, :200].mean()
    torch.testing.assert_close(loss(logits, labels.to(dtype)), expected)
    assert loss.count(labels.to(dtype)) == 2


def test_soft_labels_of_0_on_classes_that_cannot_be():
    logits = torch.tensor([[1.0, 2.0, -math.inf]], requires_grad=True)
    targets = torch.tensor([[1.0, 3.0, 0.0]])
    value = soft_label_cross_entropy_loss(logits, targets)
    torch.testing.assert_close(value, F.cross_entropy(logits[:, :2], torch.tensor([[0.25, 0.75]])))
    assert torch.isfinite(torch.autograd.grad(value, logits)[0]).all()


def test_marked_scores_are_no_scores():
    loss, logits = create_loss("soft_label_cross_entropy"), torch.randn(2, 3)
    marked = torch.tensor([[1, -100, 1], [-100, -100, -100]])
    torch.testing.assert_close(loss(logits, marked), loss(logits, marked.clamp_min(0)))
    assert loss.count(marked) == 1
    with pytest.raises(ValueError, match="targets hold a negative score: -1"):
        loss(logits, torch.tensor([[1, -1, 0], [0, 1, 0]]))
    feature = {"name": "s", "type": "set", "loss": {"type": "soft_label_cross_entropy", "ignore_index": 0}}
    assert [d.code for d in validate({"output_features": [feature]})] == ["LK303"]


@pytest.mark.parametrize(
    ("shape", "targets", "error", "message"),
    [
        ((4, 3), torch.zeros(4, 1), ValueError, r"logits \(4, 3\) and targets \(4, 1\) .*targets.squeeze\(-1\)"),
        ((4, 3), torch.zeros(4), TypeError, r"float32 of shape \(4,\), but class ids must be integers"),
        ((3,), torch.zeros(3), ValueError, r"\(3,\) and targets \(3,\) .* must be \(batch, classes\)"),
    ],
)
def test_soft_labels_refuse_what_does_not_fit(shape, targets, error, message):
    with pytest.raises(error, match=message):
        create_loss("soft_label_cross_entropy")(torch.zeros(shape), targets)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.9])
def test_uniform_smoothing_is_that_of_torch(label_smoothing):
    logits, ids = torch.randn(4, 3, 5, requires_grad=True), torch.randint(3, (4, 5))
    ids[0] = -100
    for reduction in ("mean", "sum", "none"):
        settings = {"label_smoothing": label_smoothing, "reduction": reduction}
        value = label_smoothing_cross_entropy_loss(logits, ids, spread="uniform", **settings)
        assert_alike(value, F.cross_entropy(logits, ids, **settings), logits, {"rtol": 1e-6, "atol": 1e-7})


@pytest.mark.parametrize("label_smoothing", [0.1, 0.5, 0.9])
def test_smoothing_over_the_others_has_mmfs_number(label_smoothing):
    logits, ids = torch.randn(6, 4, dtype=torch.float64, requires_grad=True), torch.tensor([0, 1, 2, 3, -100, 0])
    labels = torch.full((6, 4), label_smoothing / 3, dtype=torch.float64)
    labels.scatter_(1, ids.clamp_min(0).unsqueeze(1), 1 - label_smoothing)
    expected = -(labels * logits.log_softmax(1))[ids != -100].sum() / 5
    loss = create_loss("label_smoothing_cross_entropy", label_smoothing=label_smoothing)
    assert_alike(loss(logits, ids), expected, logits, {"rtol": 1e-12, "atol": 0.0})


@pytest.mark.parametrize("spread", ["others", "uniform"])
def test_classes_that_cannot_be_get_no_share(spread):
    logits = torch.tensor([[1.0, 2.0, 0.5, -math.inf], [-math.inf, -math.inf, -math.inf, 3.0]], requires_grad=True)
    values = label_smoothing_cross_entropy_loss(logits, torch.tensor([0, 3]), spread=spread, reduction="none")
    possible = torch.tensor([[1.0, 2.0, 0.5]])
    expected = label_smoothing_cross_entropy_loss(possible, torch.tensor([0]), spread=spread)
    torch.testing.assert_close(values[0], expected)
    assert values[1] == 0  # a single class that can be
    assert torch.isfinite(torch.autograd.grad(values.sum(), logits)[0]).all()


def test_smoothing_takes_ids_and_says_so():
    with pytest.raises(TypeError, match="targets are probabilities, .*soft_label_cross_entropy and softmax"):
        create_loss("label_smoothing_cross_entropy")(torch.zeros(2, 3), torch.full((2, 3), 1 / 3))
    config = {"losses": [{"type": "label_smoothing_cross_entropy", "label_smoothing": 0, "spread": "uniform"}]}
    assert "has no effect while `label_smoothing` is 0" in str(validate(config)[0])


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
@pytest.mark.parametrize("epsilon", [-1.0, 0.0, 1.0, 2.0])
def test_poly_is_cross_entropy_and_what_misses_the_labels(epsilon, label_smoothing):
    logits, ids = torch.randn(5, 4, 3, requires_grad=True), torch.randint(4, (5, 3))
    for targets in (ids, F.one_hot(ids, 4).movedim(-1, 1).float()):
        labels = (1 - label_smoothing) * F.one_hot(ids, 4).movedim(-1, 1) + label_smoothing / 4
        missed = 1 - (labels * logits.softmax(1)).sum(1)
        expected = F.cross_entropy(logits, labels) + epsilon * missed.mean()
        value = poly_loss(logits, targets, epsilon=epsilon, label_smoothing=label_smoothing, class_axis=1)
        assert_alike(value, expected, logits, {"rtol": 1e-5, "atol": 1e-6})
    if epsilon == 0:
        value = poly_loss(logits, ids, epsilon=0.0, label_smoothing=label_smoothing)
        assert_alike(value, F.cross_entropy(logits, ids, label_smoothing=label_smoothing), logits)


def test_poly_keeps_the_digits_of_small_errors():
    # 1 - exp(log p) would have 3 digits left of the 7 that log p has.
    logits, ids = torch.tensor([[10.0, 0.0]]), torch.tensor([0])
    cost = F.cross_entropy(logits, ids).double()
    torch.testing.assert_close(create_loss("poly")(logits, ids).double(), cost - torch.expm1(-cost), **CLOSE)


def test_poly_with_classes_that_cannot_be():
    logits = torch.tensor([[1.0, 2.0, -math.inf]], requires_grad=True)
    loss = create_loss("poly", label_smoothing=0.1)
    for targets, fewer in (
        (torch.tensor([0]), torch.tensor([0])),
        (torch.tensor([[0.4, 0.6, 0.0]]), torch.tensor([[0.4, 0.6]])),
    ):
        value = loss(logits, targets)
        torch.testing.assert_close(value, loss(logits[:, :2], fewer))
        assert torch.isfinite(torch.autograd.grad(value, logits)[0]).all()
