"""What is special to classification with samples of no class."""

import math

import pytest
import torch
import torch.nn.functional as F

import losskit
from losskit import create_loss


@pytest.mark.parametrize("background", [-1, 2, 4, 300])
def test_unknown_samples_want_all_logits_alike_and_one_mean_is_over_all(background):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 4, generator=generator).requires_grad_()
    ids = torch.tensor([0, 1, background, 3, background, background, 1])
    known = ids != background
    parts = torch.cat(
        [F.cross_entropy(logits[known], ids[known], reduction="none"), -logits[~known].log_softmax(1).mean(1)]
    )
    value = create_loss("entropic_open_set", background_class=background)(logits, ids.int())
    torch.testing.assert_close(value, parts.mean())
    torch.testing.assert_close(*(torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (value, parts.mean())))
    lengths = logits.norm(dim=1)
    extra = torch.cat([(3 - lengths[known]).clamp_min(0).square(), 0.5 * lengths[~known].square()])
    loss = create_loss("objectosphere", background_class=background, xi=3.0, zeta=0.5)
    torch.testing.assert_close(loss(logits, ids), (parts + extra).mean())


def test_without_a_background_class_it_is_cross_entropy():
    logits, ids = torch.randn(50, 5), torch.randint(5, (50,))
    torch.testing.assert_close(create_loss("entropic_open_set")(logits, ids), F.cross_entropy(logits, ids))
    z, labels = torch.randn(50), torch.randint(2, (50,))
    expected = F.binary_cross_entropy_with_logits(z, labels.float())
    torch.testing.assert_close(create_loss("entropic_open_set")(z, labels), expected)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64, torch.float32])
def test_binary_labels_in_either_form(dtype):
    z, labels = torch.tensor([1.5, -0.5, 3.0]), torch.tensor([1, 0, 2])
    two = torch.stack([torch.zeros(3), z], 1)
    for name in ("entropic_open_set", "objectosphere"):
        loss = create_loss(name, feature_type="binary", background_class=2)
        # The length of (0, z) is that of z.
        torch.testing.assert_close(loss(z, labels.to(dtype)), loss(two, labels))
    assert create_loss("entropic_open_set")(z, torch.tensor([True, False, True])) > 0


def test_features_take_the_place_of_logits():
    logits, features = torch.randn(4, 3), torch.randn(4, 8).requires_grad_()
    ids = torch.tensor([0, 1, -1, 2])
    loss, entropic = (
        losskit.get_loss_cls("category", name)(background_class=-1, reduction="none")
        for name in ("objectosphere", "entropic_open_set")
    )
    lengths = features.norm(dim=1)
    expected = torch.where(ids >= 0, (10 - lengths).square(), 0.1 * lengths.square())
    torch.testing.assert_close(loss(logits, ids, features=features) - entropic(logits, ids), expected)


def test_features_of_zero_have_a_finite_gradient_that_leaves_them():
    features = torch.zeros(2, 3).requires_grad_()
    loss = create_loss("objectosphere", background_class=-1)
    value = loss(torch.zeros(2, 3), torch.tensor([0, -1]), features=features)
    (gradient,) = torch.autograd.grad(value, features)
    torch.testing.assert_close(value, torch.tensor(math.log(3) + 50))
    assert (gradient[0] < 0).all()
    assert (gradient[1] == 0).all()


def test_classes_that_cannot_be_do_not_count_for_unknown_samples():
    logits = torch.tensor([[2.0, 0.0, -math.inf]]).requires_grad_()
    loss = create_loss("entropic_open_set", background_class=-1)
    value = loss(logits, torch.tensor([-1]))
    torch.testing.assert_close(value, -logits[:, :2].log_softmax(1).mean())
    assert torch.isfinite(torch.autograd.grad(value, logits)[0]).all()


def test_what_cannot_be_meant_is_refused():
    loss = create_loss("objectosphere", background_class=-1)
    with pytest.raises(ValueError, match=r"class id 3 at index .*, but the logits \(2, 3\) have 3 classes"):
        loss(torch.zeros(2, 3), torch.tensor([3, -1]))
    with pytest.raises(ValueError, match="neither between 0 and 1 nor the background class"):
        loss(torch.zeros(2), torch.tensor([2, -1]))
    with pytest.raises(TypeError, match=r"targets \(2, 3\) are probabilities.*class ids \(2,\)"):
        loss(torch.zeros(2, 3), torch.full((2, 3), 1 / 3))
    with pytest.raises(ValueError, match=r"logits \(2, 3\) and features \(3, 5\) do not fit"):
        loss(torch.zeros(2, 3), torch.tensor([0, -1]), features=torch.zeros(3, 5))
    with pytest.raises(losskit.ConfigError, match="is 1, one of the two labels of a binary feature"):
        create_loss("entropic_open_set", feature_type="binary", background_class=1)
