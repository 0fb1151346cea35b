"""Losses of overlaps that are computed together with their gradient: the same as the plain form, in less memory."""

import contextlib
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.memory import peak_memory
from losskit.modules import fused, fused_lovasz
from losskit.modules.lovasz import LovaszHingeLoss, LovaszSoftmaxLoss
from losskit.modules.segmentation import DiceLoss

EVERY_SIZE = {"LEAST_SIZE": 0, "SMALLEST_BLOCK": 6, "LARGEST_BLOCK": 24}
NO_SIZE = {"LEAST_SIZE": 10**12}


def outcome(loss, logits, targets, constants):
    """The value and the gradient, or the error."""
    leaf = logits.detach().requires_grad_()
    with contextlib.ExitStack() as stack:
        for name, value in constants.items():
            stack.enter_context(mock.patch.object(fused, name, value))
        try:
            value = loss(leaf, targets)
            # A factor such as that of a scaler.
            (gradient,) = torch.autograd.grad(3 * value, leaf)
        except ValueError as error:
            return str(error)
    return value.detach(), gradient


def assert_same(found, expected, **tolerances):
    if isinstance(expected, str):
        assert found == expected
        return
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True, **tolerances)


def laid_out(tensor, layout):
    """The same numbers, otherwise in memory."""
    if layout == "channels_last":
        return tensor.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "batch_last":
        return tensor.movedim(0, -1).contiguous().movedim(-1, 0)
    if layout == "slice":
        room = tensor.new_zeros([size + 2 for size in tensor.shape])
        inner = room[tuple(slice(1, -1) for _ in tensor.shape)]
        inner.copy_(tensor)
        return inner
    return tensor.contiguous()


FULL = (torch.float32, torch.float64)
LAYOUTS = st.sampled_from(["contiguous", "channels_last", "batch_last", "slice"])
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16])
TOLERANCES = {
    torch.float64: {"rtol": 1e-9, "atol": 1e-12},
    torch.float32: {"rtol": 1e-4, "atol": 1e-6},
    torch.float16: {"rtol": 4e-3, "atol": 1e-5},
    torch.bfloat16: {"rtol": 2e-2, "atol": 1e-5},
}


@st.composite
def dice_cases(draw):
    batch, classes = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    logits = torch.randn(batch, classes, *sizes, generator=generator)
    config = draw(
        st.fixed_dictionaries(
            {
                "smooth": st.sampled_from([0.0, 1e-5, 1.0]),
                "smooth_denominator": st.sampled_from([None, 2.0]),
                "average": st.sampled_from(["sample_class", "class", "micro", "batch"]),
                "classes": st.sampled_from(["all", "present", [0], [classes - 1]]),
                "include_background": st.booleans() if classes > 1 else st.just(True),
                "squared": st.booleans(),
                "log": st.booleans(),
                "class_weights": st.sampled_from([None, [0.5, 2.0, 0.0, 1.0][:classes]]),
                "ignore_index": st.sampled_from([None, -100, 0, 255]),
                "activation": st.sampled_from(["auto", "softmax", "sigmoid", "none"]),
                "reduction": st.sampled_from(["mean", "sum"]),
            }
        )
    )
    if not config["include_background"] and config["classes"] == [0]:
        config["classes"] = "all"
    kind = draw(st.sampled_from(["ids", "float", "bool", "uint8", "long", "one_mask"]))
    ignored = torch.rand(batch, *sizes, generator=generator) < 0.2
    if kind == "ids":
        targets = torch.randint(classes, (batch, *sizes), generator=generator)
        if config["ignore_index"] is not None:
            targets[ignored] = config["ignore_index"]
    else:
        logits = logits[:, 0] if kind == "one_mask" else logits
        masks = torch.rand(logits.shape, generator=generator)
        if kind in ("bool", "uint8", "long"):
            targets = (masks > 0.5).to(getattr(torch, kind))
        else:
            targets = masks
        index = config["ignore_index"]
        if index is not None and kind != "bool" and (kind != "uint8" or index >= 0) and draw(st.booleans()):
            targets[ignored if kind == "one_mask" else ignored.unsqueeze(1).expand_as(targets)] = index
    if config["activation"] == "none":
        logits = logits.sigmoid()
    dtype, layout = draw(DTYPES), draw(LAYOUTS)
    return config, laid_out(logits.to(dtype), layout), laid_out(targets, draw(LAYOUTS) if kind != "ids" else layout)


@settings(max_examples=300, deadline=None)
@given(case=dice_cases())
def test_dice_has_the_value_and_gradient_of_its_plain_form(case):
    config, logits, targets = case
    loss = DiceLoss(**config)
    expected = outcome(loss, logits, targets, NO_SIZE)
    assert_same(outcome(loss, logits, targets, EVERY_SIZE), expected, **TOLERANCES[logits.dtype])


def numpy_dice(logits, ids, smooth):
    """Dice of a softmax and its gradient, in float64, in textbook form."""
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    p = shifted / shifted.sum(1, keepdims=True)
    m = np.moveaxis(np.eye(logits.shape[1])[ids], -1, 1)
    pixels = tuple(range(2, logits.ndim))
    overlaps, sizes = (p * m).sum(pixels, keepdims=True), (p + m).sum(pixels, keepdims=True) + smooth
    dice = (2 * overlaps + smooth) / sizes
    g = -(2 * m / sizes - dice / sizes) / dice.size
    return (1 - dice).mean(), p * (g - (g * p).sum(1, keepdims=True))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "slice"])
# Images larger than a block, and several in one.
@pytest.mark.parametrize("shape", [(2, 5, 400, 300), (130, 3, 40, 41)])
def test_dice_of_large_images_is_that_of_numpy(shape, layout):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(shape, generator=generator)
    ids = torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
    expected = [torch.as_tensor(x) for x in numpy_dice(logits.double().numpy(), ids.numpy(), 1.0)]
    leaf = laid_out(logits, layout).requires_grad_()
    value = DiceLoss()(leaf, ids)
    (gradient,) = torch.autograd.grad(value, leaf)
    torch.testing.assert_close(value.double(), expected[0], rtol=1e-6, atol=0)
    # What is left where g and its mean cancel, has the error of both.
    torch.testing.assert_close(gradient.double(), expected[1], rtol=1e-5, atol=1e-6 * expected[1].abs().max().item())


def test_sizes_of_large_regions_are_exact():
    # In bins of float32, a count stays where it is from 2^24 on.
    ids = torch.zeros(1, 2**12, 2**12 + 8, dtype=torch.long)
    ids[0, 0] = 1
    logits = torch.stack([30.0 - 60 * ids, 60.0 * ids - 30], 1)
    value = DiceLoss(smooth=0.0, classes=[0])(logits, ids)
    assert value.item() == 0


@st.composite
def lovasz_cases(draw):
    batch, classes = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    logits = draw(st.sampled_from([0.1, 1.0, 10.0])) * torch.randn(batch, classes, *sizes, generator=generator)
    ids = torch.randint(draw(st.integers(1, classes)), (batch, *sizes), generator=generator)
    ignore_index = draw(st.sampled_from([None, -100, 0, 255]))
    if ignore_index is not None:
        ids[torch.rand(ids.shape, generator=generator) < draw(st.sampled_from([0.0, 0.3, 0.9]))] = ignore_index
    config = {
        "per_image": draw(st.booleans()),
        "ignore_index": ignore_index,
        "reduction": draw(st.sampled_from(["mean", "sum"])),
    }
    return config, logits.to(draw(DTYPES)), ids, draw(LAYOUTS)


@pytest.mark.parametrize("band", [2, 2**16])
@settings(max_examples=200, deadline=None)
@given(case=lovasz_cases(), classes=st.sampled_from(["present", "all"]))
def test_lovasz_softmax_has_the_value_and_gradient_of_its_plain_form(band, case, classes):
    config, logits, ids, layout = case
    logits = laid_out(logits, layout)
    loss = LovaszSoftmaxLoss(classes=classes, **config)
    with mock.patch.object(fused_lovasz, "_BAND", band):
        found = outcome(loss, logits, ids, EVERY_SIZE)
    expected = outcome(loss, logits, ids, NO_SIZE)
    tolerances = TOLERANCES[logits.dtype]
    torch.testing.assert_close(found[0], expected[0], **tolerances)
    if logits.dtype in FULL and logits.abs().max() < 8 and logits.shape[1] > 1:
        # Certain probabilities tie, as those of a single class do.
        torch.testing.assert_close(found[1], expected[1], **tolerances)


@pytest.mark.parametrize("band", [2, 2**16])
@settings(max_examples=200, deadline=None)
@given(case=lovasz_cases(), targets_dtype=st.sampled_from([torch.long, torch.float32, torch.uint8, torch.bool]))
def test_lovasz_hinge_has_the_value_and_gradient_of_its_plain_form(band, case, targets_dtype):
    config, logits, ids, layout = case
    if targets_dtype in (torch.uint8, torch.bool):
        # They cannot hold other indices.
        config = config | {"ignore_index": 255 if targets_dtype == torch.uint8 else -100}
        ids = ids.clamp(0, 1)
    index = config["ignore_index"]
    masks = (ids.clamp(0, 1) if index is None else torch.where(ids == index, ids, ids.clamp(0, 1))).to(targets_dtype)
    logits = laid_out(logits[:, :1] if logits.ndim > 3 else logits[:, 0], layout)
    masks = masks.reshape(logits.shape)
    loss = LovaszHingeLoss(**config)
    with mock.patch.object(fused_lovasz, "_BAND", band):
        found = outcome(loss, logits, masks, EVERY_SIZE)
    expected = outcome(loss, logits, masks, NO_SIZE)
    tolerances = TOLERANCES[logits.dtype]
    if isinstance(expected, str):
        assert found == expected
        return
    torch.testing.assert_close(found[0], expected[0], **tolerances)
    if logits.dtype in FULL:
        torch.testing.assert_close(found[1], expected[1], **tolerances)


@pytest.mark.parametrize("loss", [LovaszHingeLoss(), LovaszSoftmaxLoss(), LovaszSoftmaxLoss(classes="all")])
def test_a_gradient_among_ties_is_a_subgradient(loss):
    # The loss is convex in the errors: in no direction does it rise less than any of its gradients says.
    generator = torch.Generator().manual_seed(0)
    is_hinge = isinstance(loss, LovaszHingeLoss)
    shape = (3, 8, 8) if is_hinge else (3, 3, 8, 8)
    logits = torch.randint(-1, 2, shape, generator=generator).double()
    targets = torch.randint(2, (3, 8, 8), generator=generator)
    value, gradient = outcome(loss, logits, targets, EVERY_SIZE)
    assert (gradient != 0).any()
    for _ in range(20):
        step = 1e-6 * torch.randn(shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            rise = loss(logits + step, targets) - value
        assert rise >= (gradient / 3 * step).sum() - 1e-11


@pytest.mark.parametrize("name", ["dice", "dice_of_masks", "lovasz_softmax", "lovasz_hinge"])
@pytest.mark.parametrize("special", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("is_ignored", [False, True])
def test_what_is_not_finite_gives_what_the_plain_form_gives(name, special, is_ignored):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 6, 6, generator=generator)
    targets = torch.randint(3, (2, 6, 6), generator=generator)
    loss = {"lovasz_softmax": LovaszSoftmaxLoss(), "lovasz_hinge": LovaszHingeLoss()}.get(name, DiceLoss())
    if name == "lovasz_hinge":
        logits, targets = logits[:, 0], targets.clamp_max(1)
    if name == "dice_of_masks":
        targets = torch.rand(logits.shape, generator=generator)
    index = (1, 2, 3) if name == "lovasz_hinge" else (1, 1, 2, 3)
    logits[index] = special
    if is_ignored:
        targets[index if targets.ndim == logits.ndim else (1, 2, 3)] = -100
    found, expected = (outcome(loss, logits, targets, constants) for constants in (EVERY_SIZE, NO_SIZE))
    assert_same(found, expected, **TOLERANCES[torch.float32])


@pytest.mark.parametrize("targets", [torch.full((2, 3, 6, 6), 2), torch.full((2, 3, 6, 6), -1)])
def test_class_ids_in_place_of_masks_are_refused(targets):
    logits = torch.randn(2, 3, 6, 6)
    found, expected = (outcome(DiceLoss(), logits, targets, constants) for constants in (EVERY_SIZE, NO_SIZE))
    assert "outside 0 to 1" in expected
    assert found == expected


def test_labels_of_the_hinge_are_looked_at():
    logits, targets = torch.randn(2, 6, 6), torch.zeros(2, 6, 6)
    targets[1, 2, 3] = 0.5
    assert "0.5 at index (1, 2, 3)" in outcome(LovaszHingeLoss(), logits, targets, EVERY_SIZE)


def test_soft_masks_that_are_learned_keep_their_gradient():
    logits, masks = torch.randn(2, 3, 512, 512), torch.rand(2, 3, 512, 512, requires_grad=True)
    (gradient,) = torch.autograd.grad(DiceLoss()(logits.requires_grad_(), masks), masks)
    assert (gradient != 0).any()


def test_backward_may_be_called_again():
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(3, (2, 512, 512), generator=generator)
    for loss in (DiceLoss(), LovaszSoftmaxLoss()):
        for dtype in (torch.float32, torch.bfloat16):
            logits = torch.randn(2, 3, 512, 512, generator=generator).to(dtype).requires_grad_()
            value = loss(logits, targets)
            first, second = (torch.autograd.grad(value, logits, retain_graph=True)[0] for _ in range(2))
            assert torch.equal(first, second)


# Beside the gradient there are parts of it, and a few numbers per pixel.
@pytest.mark.parametrize(
    ("loss", "layout", "most"),
    [
        (DiceLoss(), "contiguous", 1.25),
        (DiceLoss(), "channels_last", 1.25),
        (DiceLoss(squared=True, average="class", ignore_index=3), "contiguous", 1.25),
        (LovaszSoftmaxLoss(per_image=True), "contiguous", 1.25),
        # A class of all images is sorted at once.
        (LovaszSoftmaxLoss(), "contiguous", 1.4),
        # An image is laid out anew.
        (LovaszSoftmaxLoss(per_image=True), "channels_last", 1.5),
    ],
)
def test_peak_memory_is_little_more_than_the_gradient(loss, layout, most):
    generator = torch.Generator().manual_seed(0)
    logits = laid_out(torch.randn(8, 21, 128, 128, generator=generator), layout).requires_grad_()
    ids = torch.randint(21, (8, 128, 128), generator=generator)
    size = logits.numel() * logits.element_size()
    assert peak_memory(lambda: torch.autograd.grad(loss(logits, ids), logits)) <= most * size
    # The errors of lovasz are all there before they are sorted; dice only adds up.
    with torch.no_grad():
        assert peak_memory(lambda: loss(logits, ids)) <= (0.4 if isinstance(loss, DiceLoss) else most) * size


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.uint8])
def test_peak_memory_of_masks_is_little_more_than_the_gradient(activation, dtype):
    logits = torch.randn(8, 21, 128, 128, requires_grad=True)
    masks = torch.rand(8, 21, 128, 128).round().to(dtype)
    loss = DiceLoss(activation=activation)
    peak = peak_memory(lambda: torch.autograd.grad(loss(logits, masks), logits))
    assert peak <= 1.25 * logits.numel() * logits.element_size()


def test_an_image_of_the_hinge_takes_memory_by_itself():
    logits, masks = torch.randn(64, 128, 128, requires_grad=True), torch.randint(2, (64, 128, 128))
    loss = LovaszHingeLoss()
    peak = peak_memory(lambda: torch.autograd.grad(loss(logits, masks), logits))
    assert peak <= 1.5 * logits.numel() * logits.element_size()
