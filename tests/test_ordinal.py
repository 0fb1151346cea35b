"""Losses for classes that have an order."""

import pytest
import torch
import torch.nn.functional as F

import losskit
from losskit import create_loss
from losskit.modules import corn_loss


def by_task(logits, ids, num_classes):
    """The paper's sum over tasks, each over the examples that reach it, over the number of all these examples."""
    total, count = 0.0, 0
    for task in range(num_classes - 1):
        reaching = ids > task - 1
        labels = (ids[reaching] > task).to(logits.dtype)
        total = total + F.binary_cross_entropy_with_logits(logits[reaching, task], labels, reduction="sum")
        count += len(labels)
    return total / count


@pytest.mark.parametrize("num_classes", [2, 3, 7])
@pytest.mark.parametrize("spare", [0, 1])
def test_corn_is_the_mean_over_all_conditional_examples(num_classes, spare):
    logits = torch.randn(30, num_classes - 1 + spare, dtype=torch.float64, requires_grad=True)
    ids = torch.randint(num_classes, (30,))
    loss = create_loss("corn", num_classes=num_classes)
    value, expected = loss(logits, ids), by_task(logits, ids, num_classes)
    torch.testing.assert_close(value, expected)
    gradient, other = (torch.autograd.grad(v, logits)[0] for v in (value, expected))
    torch.testing.assert_close(gradient, other)
    assert (gradient[:, num_classes - 1 :] == 0).all()
    assert loss.count(ids) == sum(min(int(y) + 1, num_classes - 1) for y in ids)
    if not spare:
        torch.testing.assert_close(corn_loss(logits, ids), expected)


def test_the_feature_says_how_many_classes_there_are():
    # As many logits as classes: without their number, the last would be one more threshold.
    logits, ids = torch.randn(8, 4), torch.randint(4, (8,))
    for feature in ({"num_classes": 4}, {"classes": list("abcd")}):
        criterion = losskit.build({"output_features": [{"name": "c", "type": "category", "loss": "corn", **feature}]})
        torch.testing.assert_close(criterion({"c": logits}, {"c": ids}).total, by_task(logits, ids, 4))
    config = {"name": "c", "type": "category", "num_classes": 4, "loss": {"type": "corn", "num_classes": 3}}
    assert [d.code for d in losskit.validate({"output_features": [config]})] == ["LK206"]


def test_thresholds_that_are_not_reached_have_no_gradient():
    logits = torch.tensor([[1e4, -1e4, 1e4]], requires_grad=True)
    value = corn_loss(logits, torch.tensor([0]), reduction="sum")
    assert value == 1e4
    assert torch.autograd.grad(value, logits)[0].tolist() == [[1.0, 0.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_ids_may_be_small_integers(dtype):
    logits, ids = torch.randn(2, 255), torch.tensor([255, 3])
    loss = create_loss("corn", num_classes=256)
    if dtype == torch.uint8:
        assert ids.to(dtype).add(1)[0] == 0  # which is what must not happen to the count
    torch.testing.assert_close(loss(logits, ids.to(dtype)), by_task(logits, ids, 256))
    assert loss.count(ids.to(dtype)) == 255 + 4


@pytest.mark.parametrize(
    ("settings", "shape", "ids", "error", "message"),
    [
        ({}, (2, 2), [0, 3], ValueError, r"outside 0 to 2: 3 at index \(1,\); logits .* have 3 classes"),
        ({}, (2, 2), [0, -1], ValueError, r"outside 0 to 2"),
        ({"num_classes": 3}, (2, 3), [0, 3], ValueError, r"outside 0 to 2"),
        ({"num_classes": 5}, (2, 3), [0, 1], ValueError, r"\(2, 3\) and targets \(2,\) do not fit 5 classes: .* 4 col"),
        ({}, (2, 2), [[0], [1]], ValueError, r"\(2, 2\) and targets \(2, 1\) do not fit.*targets.squeeze\(-1\)"),
        ({}, (2,), [0, 1], ValueError, r"\(2,\) and targets \(2,\) do not fit: they must be \(batch, classes - 1\)"),
        ({}, (2, 2), [0.0, 1.0], TypeError, "targets are float32, but class ids must be integers"),
    ],
)
def test_corn_refuses_what_does_not_fit(settings, shape, ids, error, message):
    with pytest.raises(error, match=message):
        create_loss("corn", **settings)(torch.zeros(shape), torch.tensor(ids))


def test_count_needs_the_number_of_classes():
    with pytest.raises(TypeError, match="set num_classes"):
        create_loss("corn").count(torch.tensor([0]))
