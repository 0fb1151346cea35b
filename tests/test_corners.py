"""Corners of losses and settings that a loss in textbook form falls into; each was found by trying to break one."""

import math

import pytest
import torch
import torch.nn.functional as F

from losskit import create_loss
from losskit.modules import dice_loss, huber_loss
from losskit.registry import get_loss_cls

IMPOSSIBLE = torch.tensor([[0.0, 1.0, -math.inf]])
SIMILARITIES = [[1.0, 0.1, 0.2], [0.1, 1.0, 0.1], [0.2, 0.1, 1.0]]


@pytest.mark.parametrize(
    ("name", "settings", "targets"),
    [
        ("focal", {"activation": "sigmoid"}, [0]),
        ("objectosphere", {}, [0]),
        ("objectosphere", {"background_class": 2}, [2]),
        ("softmax_cross_entropy", {"class_similarities": SIMILARITIES, "class_similarities_temperature": 0.5}, [0]),
    ],
)
def test_a_class_that_cannot_be_costs_nothing(name, settings, targets):
    logits = IMPOSSIBLE.clone().requires_grad_()
    value = create_loss(name, feature_type="category", **settings)(logits, torch.tensor(targets))
    (gradient,) = torch.autograd.grad(value, logits)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_a_label_of_no_weight_may_be_impossible(reduction, label_smoothing):
    settings = {"class_weights": [1.0, 1.0, 0.0], "reduction": reduction, "label_smoothing": label_smoothing}
    logits = torch.tensor([[0.0, 1.0, -math.inf], [0.0, 0.0, 0.0]], requires_grad=True)
    value = create_loss("cross_entropy", **settings)(logits, torch.tensor([2, 0]))
    (gradient,) = torch.autograd.grad(value, logits)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()


def test_similarities_are_shared_out_among_the_classes_that_can_be():
    settings = {"class_similarities_temperature": 0.5}
    among_two = create_loss("cross_entropy", class_similarities=[row[:2] for row in SIMILARITIES[:2]], **settings)
    among_three = create_loss("cross_entropy", class_similarities=SIMILARITIES, **settings)
    torch.testing.assert_close(
        among_three(IMPOSSIBLE, torch.tensor([0])), among_two(IMPOSSIBLE[:, :2], torch.tensor([0]))
    )


def test_infinite_logits_that_are_right_cost_nothing_in_an_open_set():
    loss = create_loss("entropic_open_set", feature_type="binary")
    assert loss(torch.tensor([math.inf, -math.inf]), torch.tensor([1, 0])) == 0


@pytest.mark.parametrize("p", [3.0, 10.0, 50.0])
def test_triplets_of_a_high_norm_do_not_overflow(p):
    torch.manual_seed(0)
    x = torch.randn(3, 3, 4, dtype=torch.float64)
    expected = F.triplet_margin_loss(*x, p=p)
    loss = create_loss("triplet_margin", p=p)
    torch.testing.assert_close(loss(*x), expected)
    torch.testing.assert_close(loss(*(1e4 * x).float()), loss(*(1e4 * x)).float(), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("name", "feature_type", "batches"),
    [
        ("corn", "category", [((n, 6), (n,)) for n in (4, 5)]),
        ("caption_cross_entropy", "text", [((n, 5, 7), (n, 5)) for n in (4, 5)]),
        ("multi_label_margin", "set", [((n, 5), (n, 5)) for n in (4, 5)]),
        ("ctc", "text", [((n, 9, 5), (n, 3)) for n in (4, 5)]),
    ],
)
def test_a_last_batch_that_is_smaller_compiles_too(name, feature_type, batches):
    torch._dynamo.reset()
    loss = create_loss(name, feature_type=feature_type)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for logits_shape, targets_shape in batches:
        logits, targets = torch.randn(logits_shape), torch.randint(1, 4, targets_shape)
        lengths = {"lengths": torch.full((len(logits),), 3)} if name == "caption_cross_entropy" else {}
        torch.testing.assert_close(compiled(logits, targets, **lengths), loss(logits, targets, **lengths))


def test_an_exported_deep_svdd_takes_any_batch():
    loss = create_loss("deep_svdd")
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(loss, (torch.rand(4),), dynamic_shapes=({0: batch},)).module()
    for size in (4, 9):
        scores = torch.rand(size)
        torch.testing.assert_close(program(scores), loss(scores))


def test_batchmean_divides_by_samples_or_is_refused():
    x = torch.randn(3, 4)
    torch.testing.assert_close(huber_loss(x, 0 * x, reduction="batchmean"), huber_loss(x, 0 * x, reduction="sum") / 3)
    with pytest.raises(ValueError, match="reduction must be mean, sum or none, got 'batchmean'"):
        get_loss_cls("vector", "huber")(reduction="batchmean")
    with pytest.raises(ValueError, match="reduction must be mean, sum or none"):
        dice_loss(torch.randn(2, 3, 4), torch.zeros(2, 4, dtype=torch.long), reduction="batchmean")
    with pytest.raises(ValueError, match="a single value without a batch"):
        create_loss("bce_with_logits", reduction="batchmean")(torch.tensor(1.0), torch.tensor(1.0))


def test_normalizers_are_single_numbers_of_0_or_more():
    loss, x = create_loss("mse"), torch.ones(4)
    assert loss(x, 0 * x, normalizer=0) == 0
    assert loss(x, 0 * x, normalizer=torch.tensor(math.nan)).isnan()  # a sum over ranks that failed must not hide
    with pytest.raises(ValueError, match="must be 0 or more, got -3"):
        loss(x, 0 * x, normalizer=-3)
    with pytest.raises(ValueError, match=r"must be a single number, got a tensor of shape \(2,\)"):
        loss(x, 0 * x, normalizer=torch.ones(2))


def test_the_logarithm_of_no_overlap_is_the_same_in_every_dtype():
    loss = create_loss("dice", smooth=0, log=True)
    logits, ids = torch.randn(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long)
    torch.testing.assert_close(loss(logits, ids).double(), loss(logits.double(), ids), rtol=1e-5, atol=0)


def test_attention_may_be_supervised_by_what_asks_for_a_gradient():
    attentions, targets = torch.rand(2, 3), torch.rand(2, 3, requires_grad=True)
    create_loss("attention_supervision")(attentions, targets).backward()
    assert torch.isfinite(targets.grad).all()
