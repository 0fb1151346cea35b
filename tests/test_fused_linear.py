"""Linear cross-entropy, some items at a time: the same as from all logits, in little more memory than the gradients."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from benchmarks.memory import peak_memory
from losskit.modules import fused, fused_linear
from losskit.modules.heads import linear_cross_entropy_loss

SETTINGS = {
    "class_weights": st.sampled_from([None, "weights"]),
    "ignore_index": st.sampled_from([None, -100, 1]),
    "label_smoothing": st.sampled_from([0.0, 0.2]),
    "reduction": st.sampled_from(["mean", "sum"]),
}


def value_and_gradients(targets, tensors, *, is_fused, items=2, **kwargs):
    leaves = [x.detach().clone(memory_format=torch.preserve_format).requires_grad_(x.requires_grad) for x in tensors]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "LEAST_SIZE", 1 if is_fused else math.inf)
        patch.setattr(fused, "SMALLEST_BLOCK", 6)
        patch.setattr(fused, "LARGEST_BLOCK", 6)
        patch.setattr(fused_linear, "LEAST_ITEMS", items)
        patch.setattr(fused_linear, "MOST_ITEMS", items)
        value = linear_cross_entropy_loss(leaves[0], targets, *leaves[1:], **kwargs)
        has_kernel = "_Fused" in str(value.grad_fn)
        value.backward(torch.full_like(value, 3.0))
    return value.detach(), [x.grad for x in leaves], has_kernel


# From 128 classes on, the softmax takes another way.
@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from([1, 3, 7, 130]), st.fixed_dictionaries(SETTINGS))
def test_some_items_at_a_time_give_the_loss_of_all_logits(data, classes, kwargs):
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99), "seed"))
    shape = data.draw(st.sampled_from([(), (1,), (5,), (2, 3), (3, 0)]), "shape")
    has_bias = data.draw(st.booleans(), "bias")
    sizes = [(*shape, 4), (classes, 4), *([(classes,)] if has_bias else [])]
    tensors = [3 * torch.randn(size, generator=generator).double() for size in sizes]
    if has_bias and classes > 2 and not kwargs["label_smoothing"]:
        tensors[2][2] = -math.inf  # a class that cannot be
    if data.draw(st.booleans(), "transposed"):
        tensors[:2] = [x.transpose(-1, 0).contiguous().transpose(-1, 0) for x in tensors[:2]]
    frozen = data.draw(st.sampled_from([None, *range(len(tensors))]), "frozen")
    tensors = [x.requires_grad_(index != frozen) for index, x in enumerate(tensors)]
    ids = torch.randint(min(classes, 2), shape, generator=generator)
    if kwargs["class_weights"]:
        kwargs = {**kwargs, "class_weights": torch.arange(classes) / 2}
    items = data.draw(st.sampled_from([1, 2, 100]), "items")
    expected, gradients, _ = value_and_gradients(ids, tensors, is_fused=False, **kwargs)
    found, others, _ = value_and_gradients(ids, tensors, is_fused=True, items=items, **kwargs)
    torch.testing.assert_close((found, others), (expected, gradients), rtol=1e-9, atol=1e-10)


def test_the_value_is_that_of_numpy():
    generator = np.random.default_rng(0)
    hidden, weight = generator.normal(size=(2000, 16)), generator.normal(size=(300, 16))
    bias, class_weights = generator.normal(size=300), generator.uniform(size=300)
    ids = generator.integers(0, 300, 2000)
    rest = ids != 7
    log_p = log_softmax(hidden @ weight.T + bias, axis=1)
    costs = -0.9 * class_weights[ids] * log_p[np.arange(2000), ids] - 0.1 / 300 * log_p @ class_weights
    expected = costs[rest].sum() / class_weights[ids[rest]].sum()
    tensors = [torch.as_tensor(x) for x in (hidden, ids, weight, bias, class_weights)]
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        one, targets, two, three, weights = (x.to(dtype) if x.is_floating_point() else x for x in tensors)
        settings = {"class_weights": weights, "ignore_index": 7, "label_smoothing": 0.1}
        found = linear_cross_entropy_loss(one.requires_grad_(), targets, two, three, **settings)
        assert "_Fused" in str(found.grad_fn)
        np.testing.assert_allclose(found.item(), expected, rtol=tolerance)


def test_the_gradient_is_that_of_differences():
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(size, generator=generator).double().requires_grad_() for size in ((5, 4), (6, 4), (6,))]
    ids = torch.tensor([0, 5, 1, 1, 3])

    def loss(hidden, weight, bias):
        settings = {"class_weights": torch.arange(6) + 0.5, "ignore_index": 3, "label_smoothing": 0.1}
        return linear_cross_entropy_loss(hidden, ids, weight, bias, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "LEAST_SIZE", 1)
        patch.setattr(fused, "LARGEST_BLOCK", 6)
        patch.setattr(fused_linear, "MOST_ITEMS", 2)
        patch.setattr(fused_linear, "LEAST_ITEMS", 2)
        assert "_Fused" in str(loss(*tensors).grad_fn)
        assert torch.autograd.gradcheck(loss, tensors)
        assert torch.autograd.gradgradcheck(loss, tensors)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_full(dtype):
    # As under autocast: hidden states in half precision, the layer in float32, or all of it rounded.
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(300, 16, generator=generator).to(dtype).requires_grad_()
    ids = torch.randint(200, (300,), generator=generator)
    for weight in (torch.randn(200, 16, generator=generator), torch.randn(200, 16, generator=generator).to(dtype)):
        given = [hidden, weight.requires_grad_()]
        with torch.autocast("cpu", torch.bfloat16):
            value, gradients, has_kernel = value_and_gradients(ids, given, is_fused=True, items=64)
        full = [x.detach().float().requires_grad_() for x in given]
        expected, others, _ = value_and_gradients(ids, full, is_fused=False)
        assert has_kernel
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(gradients, [g.to(x.dtype) for g, x in zip(others, given, strict=True)])


def test_wrong_ids_are_told_as_without_a_kernel():
    hidden, weight = torch.randn(2000, 16), torch.randn(300, 16)
    ids = torch.zeros(2000, dtype=torch.long)
    ids[4] = 300
    with pytest.raises(
        ValueError, match=r"class id 300 at index \(4,\), but the logits \(2000, 300\) have 300 classes"
    ):
        linear_cross_entropy_loss(hidden, ids, weight)


# Of fewer features, the least items for which matrix products are efficient have more logits than that.
@pytest.mark.parametrize("features", [384, 512])
def test_memory_is_that_of_the_gradients_and_a_quarter(features):
    # All logits would be 33 MB, and the gradients are 25 or 34 MB.
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(512, features, generator=generator).requires_grad_()
    weight = torch.randn(16000, features, generator=generator).requires_grad_()
    ids = torch.randint(16000, (512,), generator=generator)
    settings = {"label_smoothing": 0.1, "ignore_index": 3, "class_weights": torch.ones(16000)}
    for kwargs in ({}, settings):
        hidden.grad = weight.grad = None
        peak = peak_memory(lambda kwargs=kwargs: linear_cross_entropy_loss(hidden, ids, weight, **kwargs).backward())
        assert peak < 1.25 * 4 * (hidden.numel() + weight.numel())


@pytest.mark.slow
def test_memory_of_a_language_model_is_that_of_the_gradients_and_a_quarter():
    # All logits would be 500 MB.
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(4096, 512, generator=generator).requires_grad_()
    weight = torch.randn(32000, 512, generator=generator).requires_grad_()
    ids = torch.randint(32000, (4096,), generator=generator)
    peak = peak_memory(lambda: linear_cross_entropy_loss(hidden, ids, weight).backward())
    assert peak < 1.25 * 4 * (hidden.numel() + weight.numel())
