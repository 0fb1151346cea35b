"""Probabilities from tempered exponentials: their one solver, and the kernels of the losses that use it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from losskit.modules import entmax15_loss, fused, sparsemax_loss, tempered_softmax_cross_entropy_loss
from losskit.modules.fused import Workspace
from losskit.modules.fused_tempered import Tempered
from losskit.modules.tempered import log_tempered_softmax
from tests.kernels import plainly, run

SPARSE = {"sparsemax": (sparsemax_loss, 0.0), "entmax15": (entmax15_loss, 0.5)}


@pytest.fixture(autouse=True)
def _same_numbers():
    """A label at the edge of having a probability has a loss too steep for finite differences."""
    torch.manual_seed(0)


def has_kernel(loss, logits, targets, **settings):
    return type(loss(logits.detach().requires_grad_(), targets, **settings).grad_fn).__name__ == "_FusedBackward"


# Independent truth: the equation solved by Brent's method, and the losses as they are defined, in float64.


def exp_t(x, t):
    return np.exp(x) if t == 1 else np.maximum(1 + (1 - t) * x, 0) ** (1 / (1 - t))


def log_t(x, t):
    with np.errstate(divide="ignore"):
        return np.log(x) if t == 1 else (x ** (1 - t) - 1) / (1 - t)


def probabilities(scores, t):
    """With one class alone, the sum is at least 1 at the largest score; with all alike, it is at most 1 here."""
    z = np.asarray(scores, dtype=np.float64)
    z = z - z.max()
    high = -float(log_t(np.float64(1 / len(z)), t)) + 1e-9
    return exp_t(z - brentq(lambda x: exp_t(z - x, t).sum() - 1, -1e-9, high, xtol=1e-15, rtol=1e-15), t)


def bi_tempered(scores, labels, t1, t2):
    p = probabilities(scores, t2)
    crossed = np.where(labels > 0, labels * (log_t(np.where(labels > 0, labels, 1), t1) - log_t(p, t1)), 0)
    return (crossed - (labels ** (2 - t1) - p ** (2 - t1)) / (2 - t1)).sum()


def fenchel_young(scores, labels, t):
    p = probabilities(scores, t)
    z = np.where(np.isfinite(scores), scores, 0)

    def entropy(q):
        return (1 - (q ** (2 - t)).sum()) / ((2 - t) * (1 - t))

    return z @ (p - labels) + entropy(p) - entropy(labels)


def solved(logits, t, num_steps=64):
    """What the solver gives for rows of logits."""
    scores = logits - logits.amax(1, keepdim=True)
    found = Tempered(scores, t, Workspace(scores))
    found.solve(num_steps)
    return found


def rows_of(num_classes):
    """Rows that are hard in one way or another."""
    generator = torch.Generator().manual_seed(num_classes)
    places = torch.arange(num_classes, dtype=torch.float64)
    yield torch.zeros(2, num_classes, dtype=torch.float64)
    # Where the classes within reach of the largest are many, few, and one.
    for scale in (1e-3, 0.1, 1.0, 20.0, 1e4):
        yield scale * torch.randn(4, num_classes, generator=generator, dtype=torch.float64)
    # Each step of Newton's method leaves only a part of the classes, again and again.
    yield torch.stack([0.5**places, 0.99**places, -(places**0.5) / 20, -1e-3 * places.log1p()])
    impossible = torch.randn(2, num_classes, generator=generator, dtype=torch.float64)
    impossible[:, 1::2] = -math.inf
    yield impossible


TEMPERATURES = [0.0, 0.05, 0.5, 2 / 3, 0.8, 0.9, 0.999, 1.0, 1.001, 1.2, 1.3, 1.4, 1.5, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("num_classes", [1, 2, 10, 1000, 100_000])
@pytest.mark.parametrize("t", TEMPERATURES)
def test_probabilities_sum_to_one_after_five_steps(t, num_classes):
    for logits in rows_of(num_classes):
        for dtype, tolerance in ((torch.float64, 1e-8), (torch.float32, 2e-6)):
            # Below 1, the solver takes more steps, and sorts nothing.
            found = solved(logits.to(dtype), t, 5 if t >= 1 else 64)
            # Many classes just within reach of the largest move the sum by a rounding of w each.
            reached = tolerance + (2 * torch.finfo(dtype).eps * found.offset * found.powers_sums if t < 0.85 else 0)
            assert ((found.p.double().sum(1, keepdim=True) - 1).abs() < reached).all(), (dtype, logits[0, :3])
            if t:
                sums = log_tempered_softmax(logits.to(dtype), t).double().exp().sum(-1, keepdim=True)
                # At t = 1, it is torch's own.
                assert ((sums - 1).abs() < (reached if t != 1 else 1e-4)).all(), (dtype, logits[0, :3])


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 0.9])
def test_twenty_steps_find_which_classes_have_a_probability(t):
    # Below t = 1 the solver has no other bound than that on the number of steps.
    for num_classes in (2, 1000, 100_000):
        for logits in rows_of(num_classes):
            torch.testing.assert_close(solved(logits, t, 20).offset, solved(logits, t).offset, rtol=1e-12, atol=0)


@pytest.mark.parametrize("t", TEMPERATURES)
def test_probabilities_and_their_powers_are_those_of_the_definition(t):
    logits = torch.randn(3, 40, dtype=torch.float64) * 3
    found = solved(logits, t)
    expected = torch.from_numpy(np.stack([probabilities(row.numpy(), t) for row in logits]))
    torch.testing.assert_close(found.p, expected, rtol=1e-8, atol=1e-11)
    for exponent in (t, 0.2, 0.7, 2 - t if t < 2 else 1.0):
        power = found.power(exponent, torch.empty_like(logits))
        wanted = torch.where(found.p > 0, found.p**exponent, 0)
        torch.testing.assert_close(power, wanted, rtol=1e-9, atol=1e-12)
    # Powers that grow without limit towards 0, but are 0 there.
    power = found.power(-0.3, torch.empty_like(logits))
    torch.testing.assert_close(power, torch.where(found.p > 0, found.p**-0.3, 0), rtol=1e-8, atol=0)


def test_the_published_case_of_twenty_thousand_classes():
    # Where five of the published iterations leave the sum off by 0.59.
    logits = 20 * torch.randn(64, 20_000, generator=torch.Generator().manual_seed(0))
    assert (solved(logits, 1.4, 5).p.double().sum(1) - 1).abs().max() < 1e-6
    assert (solved(logits.double(), 1.4, 5).p.sum(1) - 1).abs().max() < 1e-13


@pytest.mark.usefixtures("_every_size")
@pytest.mark.parametrize("name", SPARSE)
@pytest.mark.parametrize("num_classes", [1, 2, 7, 300])
def test_sparse_losses_are_those_of_the_definition(name, num_classes):
    loss, t = SPARSE[name]
    for rows in rows_of(num_classes):
        logits = rows[:2]
        ids = torch.tensor([0, num_classes // 2 // 2 * 2])  # none that cannot be
        labels = torch.rand(2, num_classes, dtype=torch.float64).mul(torch.isfinite(logits))
        labels /= labels.sum(1, keepdim=True)
        for targets, all_labels in ((ids, torch.eye(num_classes, dtype=torch.float64)[ids]), (labels, labels)):
            assert has_kernel(loss, logits, targets)
            value, gradient = run(loss, logits, targets, reduction="sum")
            pairs = list(zip(logits.numpy(), all_labels.numpy(), strict=True))
            expected = sum(fenchel_young(z, y, t) for z, y in pairs)
            np.testing.assert_allclose(value.item(), expected, rtol=1e-10, atol=1e-10)
            expected_gradient = np.stack([probabilities(z, t) - y for z, y in pairs])
            np.testing.assert_allclose(gradient.numpy(), expected_gradient, rtol=1e-8, atol=1e-10)


@pytest.mark.usefixtures("_every_size")
@pytest.mark.parametrize(
    ("t1", "t2"),
    # Below t2 = 1, labels without a probability would cost infinitely much at t1 = 1.
    [
        (t1, t2)
        for t1 in (0.0, 0.5, 0.8, 0.95, 1.0)
        for t2 in (0.3, 0.5, 0.9, 1.0, 1.1, 1.3, 1.4, 2.0, 4.0)
        if t1 < 1 or t2 >= 1
    ],
)
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_tempered_losses_are_those_of_the_definition(t1, t2, label_smoothing):
    logits = 0.3 * torch.randn(3, 5, dtype=torch.float64)
    ids, labels = torch.tensor([0, 4, 2]), torch.rand(3, 5, dtype=torch.float64).softmax(1)
    share = label_smoothing / 4
    options = {"t1": t1, "t2": t2, "label_smoothing": label_smoothing, "reduction": "sum"}
    for targets, all_labels in ((ids, torch.eye(5, dtype=torch.float64)[ids]), (labels, labels)):
        assert has_kernel(tempered_softmax_cross_entropy_loss, logits, targets, **options)
        value, gradient = run(tempered_softmax_cross_entropy_loss, logits, targets, **options)
        smooth = ((1 - label_smoothing - share) * all_labels + share).numpy()

        def total(z, smooth=smooth):
            return sum(bi_tempered(row, y, t1, t2) for row, y in zip(z.reshape(3, 5), smooth, strict=True))

        np.testing.assert_allclose(value.item(), total(logits.numpy()), rtol=1e-10, atol=1e-10)
        steps = 1e-5 * np.eye(15)
        expected = [(total(logits.numpy().ravel() + d) - total(logits.numpy().ravel() - d)) / 2e-5 for d in steps]
        np.testing.assert_allclose(gradient.numpy().ravel(), expected, rtol=1e-5, atol=1e-7)


@st.composite
def batches(draw):
    """Logits of any layout, some that cannot be, and ids, some ignored, or probabilities."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    shape = draw(st.lists(st.integers(1, 6), min_size=2, max_size=4))
    dtype = draw(st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]))
    scale = draw(st.sampled_from([0.0, 0.1, 1.0, 5.0, 100.0]))
    order = draw(st.permutations(range(len(shape))))
    whole = scale * torch.randn([shape[d] for d in order], generator=generator, dtype=torch.float64)
    logits = whole.permute([order.index(d) for d in range(len(shape))]).to(dtype)
    axis = draw(st.sampled_from([1, -1]))
    classes = shape[axis]
    rest = shape[:1] + shape[2:] if axis == 1 else shape[:-1]
    if draw(st.booleans()):
        labels = torch.rand(shape, generator=generator, dtype=torch.float64).softmax(axis)
        return logits, labels.to(dtype), axis
    ids = torch.randint(classes, rest, generator=generator)
    if draw(st.booleans()) and classes > 1:
        impossible = torch.rand(shape, generator=generator) < 0.2
        impossible.scatter_(axis, ids.unsqueeze(axis), False)
        logits = logits.masked_fill(impossible, -math.inf)
    if draw(st.booleans()):
        ids[torch.rand(rest, generator=generator) < 0.3] = -100
    return logits, ids, axis


def assert_alike(found, expected, dtype):
    """Values in full precision; gradients as far as they are rounded."""
    exact = dtype == torch.float64
    torch.testing.assert_close(found[0], expected[0], rtol=1e-9 if exact else 2e-5, atol=1e-10 if exact else 5e-6)
    coarse = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float32: 1e-4, torch.float64: 1e-8}[dtype]
    atol = {torch.float16: 1e-5, torch.bfloat16: 1e-5, torch.float32: 5e-6, torch.float64: 1e-10}[dtype]
    torch.testing.assert_close(found[1], expected[1], rtol=coarse, atol=atol)
    assert found[1].dtype == dtype


@pytest.mark.usefixtures("_every_size")
@given(batches(), st.sampled_from(["sum", "mean"]), st.data())
@settings(deadline=None, max_examples=300)
def test_tempered_kernel_is_the_plain_form(batch, reduction, data):
    logits, targets, axis = batch
    options = {
        "t1": data.draw(
            st.sampled_from([0.0, 0.2, 0.5, 0.8, 0.8 - 1e-7, 0.95, 0.999, 1 - 1e-16, 1.0]) | st.floats(0, 1)
        ),
        "t2": data.draw(st.sampled_from([0.05, 0.5, 0.999, 1.0, 1.001, 1.4, 1.5, 2.0, 4.0]) | st.floats(0.02, 4)),
        "label_smoothing": data.draw(st.sampled_from([0.0, 0.1])),
        "num_iters": data.draw(st.integers(1, 8)),
        "class_axis": axis,
        "reduction": reduction,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("LEAST_SIZE", 1), ("SMALLEST_BLOCK", 6), ("LARGEST_BLOCK", 6)):
            patch.setattr(fused, name, value)
        found = run(tempered_softmax_cross_entropy_loss, logits, targets, **options)
    expected = plainly(tempered_softmax_cross_entropy_loss, logits, targets, **options)
    if torch.isfinite(expected[0]):
        assert_alike(found, expected, logits.dtype)
    else:
        assert torch.equal(found[0], expected[0])


@pytest.mark.parametrize("name", SPARSE)
@given(batches(), st.sampled_from(["sum", "mean"]))
@settings(deadline=None, max_examples=200)
def test_sparse_kernel_is_the_plain_form(name, batch, reduction):
    loss, _ = SPARSE[name]
    logits, targets, axis = batch
    with pytest.MonkeyPatch.context() as patch:
        for key, value in (("LEAST_SIZE", 1), ("SMALLEST_BLOCK", 6), ("LARGEST_BLOCK", 6)):
            patch.setattr(fused, key, value)
        found = run(loss, logits, targets, class_axis=axis, reduction=reduction)
    assert_alike(found, plainly(loss, logits, targets, class_axis=axis, reduction=reduction), logits.dtype)


@pytest.mark.usefixtures("_every_size")
def test_a_probability_too_small_for_a_number_pulls_by_its_logarithm():
    # Below t2 = 1, where a probability of exactly 0 has none.
    logits, labels = torch.tensor([[154.0, -29.0]]), torch.tensor([[0.4, 0.6]])
    found, expected = (
        way(tempered_softmax_cross_entropy_loss, logits, labels, t1=0.999, t2=0.999) for way in (run, plainly)
    )
    assert found[1].abs().min() > 0.1
    torch.testing.assert_close(found, expected)


@pytest.mark.usefixtures("_every_size")
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("row", [[math.nan, 0, 0], [math.inf, 0, 0], [-math.inf] * 3], ids=str)
@pytest.mark.parametrize("loss", [sparsemax_loss, entmax15_loss, tempered_softmax_cross_entropy_loss])
def test_what_is_not_finite_gives_what_the_plain_form_gives(loss, row, ignored):
    logits = torch.tensor([[0.1, 0.2, 0.3], row, [1.0, 0.0, 0.5]])
    ids = torch.tensor([0, -100 if ignored else 1, 2])
    for found, expected in zip(run(loss, logits, ids), plainly(loss, logits, ids), strict=True):
        torch.testing.assert_close(found, expected, equal_nan=True)


@pytest.mark.usefixtures("_every_size")
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("temperatures", [(0.8, 1.4), (0.3, 0.5), (0.8, 0.5), (1.0, 1.3), (0.95, 1.05), (0.5, 1.0)])
def test_gradients_of_the_tempered_kernel_are_those_of_its_values(temperatures, label_smoothing):
    t1, t2 = temperatures
    logits = (2 * torch.randn(3, 4, dtype=torch.float64)).requires_grad_()
    if t1 == 1 or t2 < 1:
        logits = (logits.detach() / 4).requires_grad_()

    def loss(z):
        ids = torch.tensor([0, 3, -100])
        return tempered_softmax_cross_entropy_loss(z, ids, t1=t1, t2=t2, label_smoothing=label_smoothing)

    assert torch.autograd.gradcheck(loss, logits)
    assert torch.autograd.gradgradcheck(loss, logits)
