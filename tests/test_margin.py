"""What is special to margin losses: torch's values and slopes, spellings of labels, sets as ids, memory."""

import functools

import pytest
import torch

from losskit import create_loss, debug
from losskit import modules as losses

EXACT = {"rtol": 3e-7, "atol": 1e-7}
REDUCTIONS = ["mean", "sum", "none"]


def value_and_gradients(loss, *tensors):
    """The value, and the gradient with respect to every tensor but the last."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors[:-1]]
    value = loss(*leaves, tensors[-1])
    return value.detach(), *torch.autograd.grad(value.sum(), leaves)


def assert_same(ours, theirs, *tensors):
    torch.testing.assert_close(value_and_gradients(ours, *tensors), value_and_gradients(theirs, *tensors), **EXACT)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def labels(*shape):
    return 2 * torch.randint(2, shape, generator=torch.Generator().manual_seed(9)) - 1


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_losses_of_signs_are_torchs(reduction):
    x, other, y = random(50, 4), random(50, 4, seed=1), labels(50, 4)
    soft = functools.partial(losses.soft_margin_loss, reduction=reduction)
    assert_same(soft, torch.nn.SoftMarginLoss(reduction=reduction), 5 * x, y)
    for margin in (1.0, 0.3):
        hinge = functools.partial(losses.hinge_embedding_loss, margin=margin, reduction=reduction)
        assert_same(hinge, torch.nn.HingeEmbeddingLoss(margin, reduction=reduction), x.abs(), y)
    for margin in (0.0, 0.7, -0.2):
        ranking = functools.partial(losses.margin_ranking_loss, margin=margin, reduction=reduction)
        assert_same(ranking, torch.nn.MarginRankingLoss(margin, reduction=reduction), x, other, y)


def test_slopes_at_the_margin_itself_are_torchs():
    y = torch.tensor([1, -1])
    assert_same(create_loss("hinge_embedding"), torch.nn.HingeEmbeddingLoss(), torch.ones(2), y)
    # With a margin of 0, equal scores still have a slope, or fresh models would not learn.
    assert_same(create_loss("margin_ranking"), torch.nn.MarginRankingLoss(), torch.ones(2), torch.ones(2), y)
    _, gradient, _ = value_and_gradients(create_loss("margin_ranking"), torch.ones(2), torch.ones(2), y)
    assert gradient.tolist() == [-0.5, 0.5]
    x = torch.tensor([[2.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
    assert_same(create_loss("multi_margin"), torch.nn.MultiMarginLoss(), x, torch.tensor([0, 2]))
    for row in ([0, -1, -1], [2, -1, -1], [1, 0, -1]):
        ids = torch.tensor([row, row])
        assert_same(create_loss("multi_label_margin", target_form="ids"), torch.nn.MultiLabelMarginLoss(), x, ids)


@pytest.mark.parametrize("name", ["soft_margin", "hinge_embedding", "margin_ranking"])
def test_labels_may_be_spelt_in_three_ways(name):
    loss, y = create_loss(name), labels(6)
    inputs = [random(6, seed=seed) for seed in range(2 if name == "margin_ranking" else 1)]
    expected = loss(*inputs, y)
    for same in (y.float(), y.char(), y > 0, (y > 0).byte(), (y > 0).half()):
        assert loss(*inputs, same) == expected
    with pytest.raises(ValueError, match="targets hold a value other than -1 and 1, or 0 and 1"):
        loss(*inputs, y * 2)
    with pytest.raises(ValueError, match=r"\(6,\) and targets \(6, 1\) differ in shape and would broadcast"):
        loss(*inputs, y.unsqueeze(1))
    with pytest.raises(TypeError, match="must be floating-point numbers"):
        loss(*(x.int() for x in inputs), y)


def test_soft_margin_of_far_logits():
    # log(1 + exp(200)) is infinite in float32, and log(1 + exp(-30)) 0 where 1 is added first.
    value = losses.soft_margin_loss(torch.tensor([200.0, 30.0]), torch.tensor([0, 1]), reduction="none")
    torch.testing.assert_close(value, torch.tensor([200.0, 9.357623e-14]), rtol=1e-6, atol=0)


def test_margin_ranking_computes_in_the_wider_type_and_refuses_other_shapes():
    x = torch.tensor([1.0, 2.0], dtype=torch.float16)
    assert create_loss("margin_ranking")(x, x.double() + 2**-20, torch.ones(2)).item() == 2**-20
    with pytest.raises(ValueError, match=r"input1 \(2,\) and input2 \(1,\) differ in shape"):
        create_loss("margin_ranking")(x, x[:1], torch.ones(2))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("margin", [1.0, 0.4])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 0.0, 1.0, 3.0]])
def test_multi_margin_is_torchs(p, margin, weights, reduction):
    x, ids = random(40, 5), torch.randint(5, (40,), generator=torch.Generator().manual_seed(1))
    settings = {"p": p, "margin": margin, "reduction": reduction}
    theirs = torch.nn.MultiMarginLoss(weight=None if weights is None else torch.tensor(weights), **settings)
    assert_same(functools.partial(losses.multi_margin_loss, class_weights=weights, **settings), theirs, x, ids)


def test_multi_margin_where_torch_has_no_answer():
    loss, x, ids = create_loss("multi_margin"), random(4, 3), torch.tensor([0, 1, 2, 0])
    # torch refuses ids in bytes, images, and half precision on a CPU, and gives garbage for an empty batch.
    torch.testing.assert_close(loss(x, ids.byte()), loss(x, ids))
    torch.testing.assert_close(loss(x.half(), ids), loss(x.half().float(), ids))
    image = x.reshape(2, 2, 3).transpose(1, 2)
    torch.testing.assert_close(loss(image, ids.reshape(2, 2)), loss(x, ids))
    assert loss(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)) == 0
    # A class that cannot be is no rival.
    assert torch.isfinite(loss(torch.tensor([[1.0, -torch.inf, 0.5]]), torch.tensor([0])))


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        (torch.zeros(4, 3), TypeError, r"targets are float32 of the logits' shape \(4, 3\).*targets.argmax\(1\)"),
        (torch.zeros(4), TypeError, r"class ids must be integers; use targets.long\(\)"),
        (
            torch.zeros(4, 1).long(),
            ValueError,
            r"\(4, 3\) and targets \(4, 1\) do not fit; drop the targets' last axis",
        ),
        (torch.tensor([0, 1, 2, 3]), ValueError, r"class id 3 at index .*, but the logits .* have 3 classes: 0 to 2"),
    ],
)
def test_multi_margin_refuses_what_are_no_ids(targets, error, message):
    with pytest.raises(error, match=message):
        create_loss("multi_margin")(torch.zeros(4, 3), targets)


def test_multi_margin_refuses_other_powers():
    with pytest.raises(ValueError, match="p must be 1 or 2, got 3"):
        losses.multi_margin_loss(torch.zeros(1, 3), torch.tensor([0]), p=3)


def sets_as_ids(multi_hot):
    """torch's form: the ids of the labels, in any order, then -1."""
    ids = torch.full_like(multi_hot, -1)
    for row, found in zip(ids, multi_hot):
        here = found.nonzero().flatten().flip(0)
        row[: len(here)] = here
    return ids


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("num_classes", [1, 2, 9])
def test_multi_label_margin_is_torchs(num_classes, reduction):
    x = 3 * random(60, num_classes)
    multi_hot = torch.randint(2, x.shape, generator=torch.Generator().manual_seed(2))
    ids = sets_as_ids(multi_hot)
    theirs = torch.nn.MultiLabelMarginLoss(reduction=reduction)
    expected = value_and_gradients(theirs, x, ids)
    for form, targets in (("auto", ids), ("ids", ids.float()), ("auto", multi_hot), ("multi_hot", multi_hot > 0)):
        ours = functools.partial(losses.multi_label_margin_loss, target_form=form, reduction=reduction)
        torch.testing.assert_close(value_and_gradients(ours, x, targets), expected, **EXACT)


def test_multi_label_margin_reads_ids_as_torch_does():
    x = random(4, 4)
    # What stands after the first -1 does not count, and an id that stands twice counts twice.
    for rows in ([[1, -1, 3, 2], [0, 3, -1, 1]], [[2, 2, -1, -1], [3, 3, 3, 1]], [[-1, 1, 2, 3], [3, 1, 0, 2]]):
        ids = torch.tensor(rows * 2)
        assert_same(create_loss("multi_label_margin"), torch.nn.MultiLabelMarginLoss(), x, ids)
    # Of two classes both may be labels, and only the setting tells that 0 and 1 are their ids.
    both = torch.tensor([[0, 1]])
    assert create_loss("multi_label_margin", target_form="ids")(x[:1, :2], both) == 0
    assert create_loss("multi_label_margin")(x[:1, :2], both) > 0


def test_small_shortfalls_among_many_classes_keep_their_digits():
    x = 100 * random(2, 5000).sort(-1, descending=True).values
    multi_hot = torch.zeros_like(x)
    multi_hot[:, :50] = 1
    x[:, 50:] += x[:, 49:50] - 1 - x[:, 50:51] + 1e-3  # only a few fall short, by little, beside large numbers
    ours = functools.partial(losses.multi_label_margin_loss, reduction="none")
    ids = sets_as_ids(multi_hot.long())
    expected = torch.nn.MultiLabelMarginLoss(reduction="none")(x.double(), ids).float()
    assert 0 < expected.max() < 1e-5
    torch.testing.assert_close(ours(x, multi_hot), expected, rtol=1e-6, atol=0)


def test_multi_label_margin_of_many_classes_needs_no_pairs():
    # A value for each pair of classes would take 10 GB.
    x, targets = random(1, 50_000).requires_grad_(), torch.zeros(1, 50_000)
    targets[0, :5] = 1
    (gradient,) = torch.autograd.grad(create_loss("multi_label_margin")(x, targets), x)
    assert (gradient[0, :5] < 0).any()


@pytest.mark.parametrize(
    ("settings", "targets", "error", "message"),
    [
        ({}, torch.tensor([[3, -1, -1]]), ValueError, "an id other than -1 and the 3 classes of the logits, 0 to 2"),
        ({}, torch.tensor([[0.5, 0.0, 1.0]]), ValueError, "no whole number"),
        ({"target_form": "multi_hot"}, torch.tensor([[2, -1, -1]]), ValueError, "for ids use target_form: ids"),
        ({"target_form": "ids"}, torch.tensor([[True, False, True]]), TypeError, "use target_form: multi_hot"),
        ({}, torch.tensor([[2, -1]]), ValueError, r"logits \(1, 3\) and targets \(1, 2\) differ in shape"),
    ],
)
def test_multi_label_margin_refuses_what_is_no_set(settings, targets, error, message):
    with pytest.raises(error, match=message):
        create_loss("multi_label_margin", **settings)(torch.zeros(1, 3), targets)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 0.0, 1.0]])
def test_multi_label_soft_margin_is_torchs(weights, reduction):
    x, y = 3 * random(50, 4), torch.randint(2, (50, 4), generator=torch.Generator().manual_seed(3)).float()
    weight = None if weights is None else torch.tensor(weights)
    theirs = torch.nn.MultiLabelSoftMarginLoss(weight=weight, reduction=reduction)
    ours = functools.partial(losses.multi_label_soft_margin_loss, class_weights=weights, reduction=reduction)
    for targets in (y, 0.8 * y + 0.1):  # torch takes smoothed labels too
        assert_same(ours, theirs, x, targets)
    torch.testing.assert_close(ours(x, y > 0), ours(x, y))


@pytest.mark.parametrize("name", ["multi_label_margin", "multi_label_soft_margin"])
def test_the_mean_is_over_sets(name):
    loss, x, y = create_loss(name), random(2, 5, 3), torch.randint(2, (2, 5, 3))
    torch.testing.assert_close(loss(x, y), loss(x.reshape(10, 3), y.reshape(10, 3)))
    assert loss.count(y) == 10
    with pytest.raises(ValueError, match="must have a class axis"):
        loss(torch.tensor(1.0), torch.tensor(1))


def test_labels_that_are_no_shares_are_refused():
    with debug(), pytest.raises(ValueError, match=r"targets hold a value outside 0 to 1: -1 at index \(0, 1\)"):
        create_loss("multi_label_soft_margin")(torch.zeros(1, 2), torch.tensor([[1.0, -1.0]]))
    with pytest.raises(ValueError, match=r"targets hold a value outside 0 to 1: -1 at index \(.*; class ids go to"):
        create_loss("multi_label_soft_margin")(torch.zeros(1, 2), torch.tensor([[1, -1]]))


@pytest.mark.parametrize("name", ["soft_margin", "multi_margin", "multi_label_margin", "multi_label_soft_margin"])
def test_margin_losses_work_under_functional_transforms(name):
    loss, x = create_loss(name), random(5, 3)
    targets = torch.tensor([0, 1, 2, 0, 1]) if name == "multi_margin" else (random(5, 3, seed=4) > 0).long()
    per_sample = torch.func.vmap(torch.func.grad(lambda z, y: loss(z[None], y[None])))(x, targets)
    _, whole = value_and_gradients(loss, x, targets)
    torch.testing.assert_close(per_sample / 5, whole)
