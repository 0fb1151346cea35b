"""Losses of overlaps that are computed together with their gradient: the same as the plain form, in less memory."""

import contextlib
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.memory import peak_memory
from losskit import create_loss
from losskit.modules import fused
from losskit.modules.segmentation import DiceLoss

EVERY_SIZE = {"LEAST_SIZE": 1, "SMALLEST_BLOCK": 24, "LARGEST_BLOCK": 24}
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
