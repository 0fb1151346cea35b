"""Losses of all pairs of a batch, some rows of similarities at a time: the same as from the whole matrix."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.memory import peak_memory
from losskit.modules import fused, fused_pairs
from losskit.modules.contrastive import contrastive_loss, nt_xent_loss
from losskit.modules.mining import ms_loss, multi_similarity_loss, refiner_contrastive_loss, refiner_ms_loss
from tests.references import contrastive, mining

TEMPERATURES = st.sampled_from([0.002, 0.07, 1.0, 30.0])


def of_ids(loss):
    """Of embeddings, with ids of which some have no pair; `classes` says how many there are."""
    return lambda x, classes, **kwargs: loss(x[0], torch.arange(len(x[0])) % classes, **kwargs)


LOSSES = {
    "nt_xent": (1, lambda x, classes, **kwargs: nt_xent_loss(x[0], **kwargs)),
    "nt_xent of labels": (1, of_ids(lambda x, ids, **kwargs: nt_xent_loss(x, ids, **{**kwargs, "pairing": "labels"}))),
    "contrastive": (2, lambda x, classes, **kwargs: contrastive_loss(*x, **kwargs)),
    "multi_similarity": (1, of_ids(multi_similarity_loss)),
    "ms": (1, of_ids(lambda x, ids, **kwargs: ms_loss(x, (ids.unsqueeze(1) >> torch.arange(3)) & 1, **kwargs))),
    "refiner_ms": (2, lambda x, classes, **kwargs: refiner_ms_loss(*x, **kwargs)),
    "refiner_contrastive": (2, lambda x, classes, **kwargs: refiner_contrastive_loss(*x, **kwargs)),
}
SETTINGS = {
    "nt_xent": {"temperature": TEMPERATURES, "pairing": st.sampled_from(["consecutive", "halves"])},
    "nt_xent of labels": {"temperature": TEMPERATURES},
    "contrastive": {"temperature": TEMPERATURES, "normalize": st.booleans(), "symmetric": st.booleans()},
    "multi_similarity": {"alpha": st.sampled_from([0.5, 2.0]), "miner_epsilon": st.sampled_from([None, 0.1, 1.0])},
    "ms": {"hard_mining": st.booleans(), "is_multilabel": st.booleans()},
    "refiner_ms": {"margin": st.sampled_from([0.1, 5.0]), "base": st.sampled_from([-0.5, 0.5])},
    "refiner_contrastive": {"sim_thresh": st.sampled_from([0.1, 1.0])},
}
LAYOUTS = {
    "contiguous": lambda x: x,
    "columns": lambda x: x.T.contiguous().T,
    "strided": lambda x: torch.stack([x, x], -1).flatten(1)[:, ::2],
}


def value_and_gradients(loss, tensors, *, is_fused, rows=128, kept=2**22):
    """In the two forms; what needs no gradient has none."""
    leaves = [x.detach().clone(memory_format=torch.preserve_format).requires_grad_(x.requires_grad) for x in tensors]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "LEAST_SIZE", 1 if is_fused else math.inf)
        patch.setattr(fused, "SMALLEST_BLOCK", 1)
        patch.setattr(fused_pairs, "LEAST_ROWS", rows)
        patch.setattr(fused_pairs, "LARGEST_KEPT", kept)
        value = loss(*leaves)
        has_kernel = "_Fused" in str(value.grad_fn)
        value.backward(torch.full_like(value, 3.0))
    return value.detach(), [x.grad for x in leaves], has_kernel


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_some_rows_at_a_time_give_the_loss_of_the_whole_matrix(name, data):
    number, loss = LOSSES[name]
    kwargs = {key: data.draw(values, key) for key, values in SETTINGS[name].items()}
    kwargs["reduction"] = data.draw(st.sampled_from(["mean", "sum"]), "reduction")
    size, classes = 2 * data.draw(st.integers(1, 20), "pairs"), data.draw(st.integers(1, 9), "classes")
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99), "seed"))
    # More samples than dimensions, so that some are alike, and one that has no direction.
    x = [torch.randn(size, 3, generator=generator, dtype=torch.float64) for _ in range(number)]
    x[0][data.draw(st.integers(0, size - 1), "zero")] = 0
    layout = LAYOUTS[data.draw(st.sampled_from(list(LAYOUTS)), "layout")]
    x = [layout(tensor).requires_grad_() for tensor in x]
    if number == 2 and data.draw(st.booleans(), "is the second fixed"):
        x[1].requires_grad_(False)
    rows, kept = data.draw(st.sampled_from([1, 3, 128]), "rows"), data.draw(st.sampled_from([0, 2**22]), "kept")

    def of_all(*tensors):
        return loss(tensors, classes, **kwargs)

    expected, gradients, _ = value_and_gradients(of_all, x, is_fused=False)
    found, others, _ = value_and_gradients(of_all, x, is_fused=True, rows=rows, kept=kept)
    scale = max([g.abs().max().item() for g in gradients if g is not None])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(others, gradients, rtol=1e-7, atol=1e-10 * max(scale, 1.0))


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("temperature", [0.002, 0.1])
def test_a_temperature_learns_from_the_derivative_of_the_similarities(normalize, symmetric, temperature):
    generator = torch.Generator().manual_seed(0)
    x = [torch.randn(20, 4, generator=generator).double().requires_grad_() for _ in range(2)]
    x.append(torch.tensor(temperature, dtype=torch.float64, requires_grad=True))
    for is_frozen in (False, True):
        x[0].requires_grad_(not is_frozen)

        def loss(one, other, temperature):
            return contrastive_loss(one, other, temperature=temperature, normalize=normalize, symmetric=symmetric)

        expected, gradients, _ = value_and_gradients(loss, x, is_fused=False)
        found, others, has_kernel = value_and_gradients(loss, x, is_fused=True, rows=3)
        assert has_kernel
        assert others[2] is not None
        torch.testing.assert_close((found, others), (expected, gradients), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_full(dtype):
    x = torch.randn(200, 16, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value, (gradient,), has_kernel = value_and_gradients(nt_xent_loss, [x], is_fused=True)
    expected, (other,), _ = value_and_gradients(nt_xent_loss, [x.detach().float().requires_grad_()], is_fused=False)
    assert has_kernel
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, other.to(dtype))


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("name", LOSSES)
def test_what_is_not_finite_is_what_the_plain_form_makes_of_it(name, bad):
    number, loss = LOSSES[name]
    x = [torch.randn(20, 3, generator=torch.Generator().manual_seed(i)) for i in range(number)]
    x[0][4, 1] = bad
    values = []
    for is_fused in (False, True):
        value, _, _ = value_and_gradients(lambda *x: loss(x, 3), [t.requires_grad_() for t in x], is_fused=is_fused)
        values.append(value)
    torch.testing.assert_close(values[1], values[0], equal_nan=True)


# Enough samples for a kernel; the pairs of the others are among the first classes.
SIZE = 200


def truth(name, x, y, ids):
    if name == "nt_xent":
        return nt_xent_loss, (x,), contrastive.nt_xent(x, 0.07, "consecutive")
    if name == "contrastive":
        return contrastive_loss, (x, y), contrastive.contrastive(x, y, 0.07, False, True)
    if name == "multi_similarity":
        return multi_similarity_loss, (x, ids), mining.multi_similarity(x, ids, 2.0, 50.0, 0.5, 0.1)
    if name == "ms":
        return ms_loss, (x, ids), mining.ms(x, np.eye(50)[ids], 50.0, 2.0, 0.5, True, False)
    if name == "refiner_ms":
        return refiner_ms_loss, (x, y), mining.refiner_ms(x, y, 50.0, 2.0, 0.5, 0.1, 1e-16)
    return refiner_contrastive_loss, (x, y), mining.refiner_contrastive(x, y, 0.1, 1e-16)


@pytest.mark.parametrize(
    "name", ["nt_xent", "contrastive", "multi_similarity", "ms", "refiner_ms", "refiner_contrastive"]
)
def test_kernels_have_the_values_of_loops_over_pairs(name):
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(2, SIZE, 8)) / 3
    ids = generator.integers(0, 50, SIZE)
    loss, inputs, values = truth(name, x, y, ids)
    tensors = [torch.as_tensor(tensor) for tensor in inputs]
    found = loss(tensors[0].requires_grad_(), *tensors[1:])
    assert "_Fused" in str(found.grad_fn)
    np.testing.assert_allclose(found.item(), values.mean(), rtol=1e-12)
    floats = [tensor.detach().float() if tensor.is_floating_point() else tensor for tensor in tensors]
    np.testing.assert_allclose(loss(*floats).item(), values.mean(), rtol=1e-5)


def test_sums_that_are_next_to_nothing_keep_their_digits():
    # Beside e^(1 / temperature), the bound of all exponentials, those of opposite vectors are 0 in float32.
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.01]]).repeat(2, 1).requires_grad_()
    value, _, has_kernel = value_and_gradients(lambda x: nt_xent_loss(x, temperature=0.01), [x], is_fused=True)
    expected, _, _ = value_and_gradients(lambda x: nt_xent_loss(x, temperature=0.01), [x.double()], is_fused=False)
    assert has_kernel
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)


def test_a_loss_of_next_to_nothing_is_not_negative():
    # Each pair is its own direction, so that rounding is all that there is.
    x = torch.eye(64).repeat_interleave(2, 0) * torch.linspace(0.1, 3, 128).unsqueeze(1)
    value, (gradient,), has_kernel = value_and_gradients(
        lambda x: nt_xent_loss(x, temperature=0.04), [x.requires_grad_()], is_fused=True, rows=16
    )
    assert has_kernel
    assert 0 <= value < 1e-7
    assert gradient.abs().max() < 1e-5


# How many times the gradients: those, the directions, the similarities of 128 rows and what is made of them.
@pytest.mark.parametrize(
    ("loss", "number", "has_ids", "most"),
    [
        (nt_xent_loss, 1, False, 4.5),
        (lambda x: nt_xent_loss(x, temperature=0.01), 1, False, 4.5),
        (lambda x, ids: nt_xent_loss(x, ids, pairing="labels"), 1, True, 4.5),
        (lambda x, y: contrastive_loss(x, y, normalize=True), 2, False, 3.5),
        (multi_similarity_loss, 1, True, 6.5),
        (refiner_ms_loss, 2, False, 3.5),
    ],
)
def test_memory_grows_with_the_batch_and_not_with_its_square(loss, number, has_ids, most):
    # All similarities of 4096 samples would be 64 MB, and the gradient of each of the vectors is 2 MB.
    x = [torch.randn(4096, 128, generator=torch.Generator().manual_seed(i)).requires_grad_() for i in range(number)]
    ids = [torch.arange(4096) // 4] if has_ids else []
    peak = peak_memory(lambda: loss(*x, *ids).backward())
    assert peak < most * number * x[0].numel() * 4


def test_nt_xent_of_a_large_batch_fits_in_little_memory():
    x = torch.randn(8192, 128, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert peak_memory(lambda: nt_xent_loss(x).backward()) < 20 * 2**20


def test_small_batches_keep_less_than_twice_the_matrix():
    x = [torch.randn(512, 64, generator=torch.Generator().manual_seed(i)).requires_grad_() for i in range(2)]
    matrix = 512 * 512 * 4
    assert peak_memory(lambda: nt_xent_loss(x[0]).backward()) < 1.5 * matrix
    assert peak_memory(lambda: contrastive_loss(*x, normalize=True).backward()) < 2 * matrix
