"""What is special to the Lovász losses."""

import pytest
import torch

from losskit import create_loss


def berman(errors, inside):
    """The published form of the weights, differences of Jaccard losses."""
    errors, order = errors.sort(descending=True)
    inside = inside[order].to(errors.dtype)
    jaccard = 1 - (inside.sum() - inside.cumsum(0)) / (inside.sum() + (1 - inside).cumsum(0))
    return (errors * jaccard.diff(prepend=jaccard.new_zeros(1))).sum()


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("classes", ["present", "all"])
def test_lovasz_softmax_has_the_value_and_gradient_of_the_published_form(classes, per_image):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 5, 6, dtype=torch.float64, generator=generator).requires_grad_()
    ids = torch.randint(3, (3, 5, 6), generator=generator)  # class 3 is absent
    ids[0, 0] = 255
    ids[1] = ids[1].clamp_max(1)
    groups = [slice(i, i + 1) for i in range(3)] if per_image else [slice(0, 3)]
    images = []
    for group in groups:
        valid = ids[group] != 255
        p, labels = logits[group].softmax(1).movedim(1, -1)[valid], ids[group][valid]
        counted = range(4) if classes == "all" else labels.unique().tolist()
        images.append(
            torch.stack([berman((p[:, c] - (labels == c).double()).abs(), labels == c) for c in counted]).mean()
        )
    expected = torch.stack(images).mean()
    loss = create_loss("lovasz_softmax", classes=classes, per_image=per_image, ignore_index=255)
    value = loss(logits, ids.to(torch.uint8))
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(*(torch.autograd.grad(x, logits)[0] for x in (value, expected)))


def test_lovasz_of_certain_masks_is_the_jaccard_loss():
    ids = torch.tensor([[[0, 0, 1, 1]]])
    predicted = torch.tensor([[[0, 1, 1, 1]]])
    logits = 200.0 * torch.nn.functional.one_hot(predicted, 2).movedim(-1, 1).float()
    # Class 0: 1 of 2 pixels; class 1: 2 of 3.
    expected = torch.tensor(1 - (1 / 2 + 2 / 3) / 2)
    torch.testing.assert_close(create_loss("lovasz_softmax")(logits, ids), expected)
    # The hinge is 2 for a pixel that is wrong by a logit of 1, and 0 for one that is right.
    masks = (2.0 * predicted - 1).unsqueeze(1)
    torch.testing.assert_close(create_loss("lovasz_hinge")(masks, ids.unsqueeze(1)), torch.tensor(2 * (1 - 2 / 3)))


def test_images_without_a_pixel_that_counts_do_not_count():
    logits = torch.randn(3, 4, 5, 5)
    ids = torch.randint(4, (3, 5, 5))
    ids[1] = -100
    loss = create_loss("lovasz_softmax", per_image=True)
    torch.testing.assert_close(loss(logits, ids), loss(logits[::2], ids[::2]))
    masks = ids.clamp_max(1)
    hinge = create_loss("lovasz_hinge")
    torch.testing.assert_close(hinge(logits[:, 0], masks), hinge(logits[::2, 0], masks[::2]))


def test_masks_without_a_pixel_that_counts_cost_nothing():
    logits = torch.randn(2, 4, 4).requires_grad_()
    for settings in ({}, {"per_image": False}):
        value = create_loss("lovasz_hinge", **settings)(logits, torch.full((2, 4, 4), -100))
        (gradient,) = torch.autograd.grad(value, logits)
        assert value == 0
        assert (gradient == 0).all()


def test_ignored_pixels_are_as_if_they_were_not_there():
    logits = torch.randn(1, 3, 1, 40).requires_grad_()
    ids = torch.randint(3, (1, 1, 40))
    ids[..., 25:] = -100
    for name, given in (("lovasz_softmax", logits), ("lovasz_hinge", logits[:, 0])):
        labels = ids if name == "lovasz_softmax" else ids.clamp_max(1)
        loss = create_loss(name)
        whole, cut = loss(given, labels), loss(given[..., :25], labels[..., :25])
        torch.testing.assert_close(whole, cut)
        torch.testing.assert_close(*(torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (whole, cut)))


def test_weights_of_a_large_image_keep_their_digits():
    # Differences of Jaccard losses would be off by a tenth here.
    logits = torch.randn(1, 2, 1200, 1200, generator=torch.Generator().manual_seed(0)).requires_grad_()
    ids = (torch.rand(1, 1200, 1200, generator=torch.Generator().manual_seed(1)) > 0.5).long()
    loss = create_loss("lovasz_softmax")
    (single,) = torch.autograd.grad(loss(logits, ids), logits)
    (double,) = torch.autograd.grad(loss(logits.double(), ids), logits)
    errors = (single - double).abs() / double.abs().clamp_min(1e-12)
    assert errors.flatten().median() < 1e-5


def test_hinge_takes_masks_of_every_dtype_and_refuses_other_values():
    logits, masks = torch.randn(2, 1, 3, 3), torch.randint(2, (2, 1, 3, 3))
    loss = create_loss("lovasz_hinge")
    expected = loss(logits.squeeze(1), masks.squeeze(1))
    for dtype in (torch.bool, torch.uint8, torch.int32, torch.float32):
        torch.testing.assert_close(loss(logits, masks.to(dtype)), expected)
    with pytest.raises(ValueError, match="a value other than 0, 1 and -100"):
        loss(logits, masks + 1)
    with pytest.raises(ValueError, match=r"logits \(2, 1, 3, 3\) and targets \(2, 3, 3\).*logits.squeeze\(1\)"):
        loss(logits, masks.squeeze(1))
    with pytest.raises(ValueError, match="one mask per image.*lovasz_softmax"):
        loss(torch.randn(2, 3, 4, 4), torch.zeros(2, 3, 4, 4))
    with pytest.raises(ValueError, match=r"targets \(2, 3, 4, 4\) must be class ids"):
        create_loss("lovasz_softmax")(torch.randn(2, 3, 4, 4), torch.zeros(2, 3, 4, 4))
