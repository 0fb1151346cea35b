"""Losses that are computed together with their gradient: the same as the plain form, in less memory."""

import functools
import math
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import losskit
from benchmarks.memory import peak_memory
from losskit.modules import focal_loss, fused, softmax_cross_entropy_loss
from losskit.modules.batches import cast, leaves
from losskit.modules.contract import CHECKS, subject_of, total_of
from losskit.registry import registry
from tests.kernels import plainly, run

NAMES = registry.names()


# What looks at the config alone, or at compiled code, which has no kernels, is tested elsewhere.
WITHOUT_KERNELS = {"compiles", "exports", "docstring", "config_defaults_match"}


@pytest.mark.usefixtures("_every_size")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("check", [name for name in CHECKS if name not in WITHOUT_KERNELS])
@pytest.mark.parametrize("name", NAMES)
def test_loss_with_a_kernel_keeps_its_contract(name, check):
    CHECKS[check](subject_of(name))


@pytest.mark.usefixtures("_every_size")
@pytest.mark.parametrize("name", [name for name in NAMES if name != "ctc"])
def test_second_derivatives_go_through_the_plain_form(name):
    subject = subject_of(name)
    for feature_type, batch in subject.cases():
        module = subject.build(feature_type).double()
        inputs, targets = leaves(cast(batch, torch.float64))
        assert torch.autograd.gradgradcheck(lambda *x, m=module, t=targets: total_of(m(*x, *t)), inputs), feature_type


@pytest.mark.usefixtures("_every_size")
@pytest.mark.parametrize("name", NAMES)
def test_inference_mode_gives_the_same_value(name):
    subject = subject_of(name)
    for feature_type, (inputs, targets) in subject.cases():
        module = subject.build(feature_type).eval()
        expected = total_of(module(*inputs, *targets)).detach()
        with torch.inference_mode():
            found = total_of(module(*inputs, *targets))
        torch.testing.assert_close(found, expected)


@pytest.mark.usefixtures("_every_size")
@pytest.mark.parametrize("name", NAMES)
def test_kernels_compute_on_the_device_of_their_inputs_whatever_the_default_is(name):
    subject = subject_of(name)
    for feature_type, batch in subject.cases():
        module = subject.build(feature_type)
        inputs, targets = leaves(batch)
        if type(total_of(module(*inputs, *targets)).grad_fn).__name__ != "_FusedBackward":
            continue
        with torch.device("meta"):
            total = total_of(module(*inputs, *targets))
            total.backward()
        assert total.is_cpu
        assert all(tensor.grad.is_cpu for tensor in inputs)


@st.composite
def layouts(draw):
    """A tensor of distinct numbers in some order of its axes, perhaps with gaps, and perhaps a class axis."""
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    order = draw(st.permutations(range(len(shape))))
    steps = [draw(st.integers(1, 2)) for _ in shape]
    whole = torch.zeros([n * step for n, step in zip(shape, steps, strict=True)]).permute(order)
    tensor = whole[tuple(slice(None, None, steps[d]) for d in order)]
    tensor.copy_(torch.arange(float(tensor.numel())).reshape(tensor.shape))
    return tensor, draw(st.none() | st.integers(0, tensor.ndim - 1)), draw(st.integers(1, 40))


@given(layouts())
@settings(deadline=None)
def test_blocks_hold_each_element_once_and_items_stay_with_their_classes(case):
    tensor, axis, size = case
    result = torch.full_like(tensor, -1)
    items = [] if axis is None else [tensor.select(axis, 0)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "block_size", lambda tensor, num_rooms: size)
        for block in fused.blocks([tensor, result], items, axis):
            buffer = block.buffer(1, fused.Workspace(tensor))
            buffer.copy_(block.tensor(0))
            if axis is not None:
                buffer -= block.item(0).unsqueeze(1)
            block.store(1, buffer)
    expected = tensor if axis is None else tensor - tensor.narrow(axis, 0, 1)
    assert torch.equal(result, expected)


@pytest.mark.usefixtures("_every_size")
class TestEngine:
    """What holds for every kernel, tried with cross-entropy, in several blocks."""

    loss = staticmethod(losskit.create_loss("cross_entropy", label_smoothing=0.1))
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([0, 3, -100, 2, 2])

    def test_a_kernel_is_at_work(self):
        # Else the tests below would test nothing.
        assert type(self.loss(self.logits.requires_grad_(), self.ids).grad_fn).__name__ == "_FusedBackward"

    def test_the_gradient_can_be_asked_for_again(self):
        leaf = self.logits.clone().requires_grad_()
        value = self.loss(leaf, self.ids)
        first, second = (torch.autograd.grad(2 * value, leaf, retain_graph=True)[0] for _ in range(2))
        kept = first.clone()
        second.zero_()  # which must not be the memory of the first
        assert torch.equal(first, kept)
        torch.testing.assert_close(first, plainly(self.loss, self.logits, self.ids, factor=2.0)[1])

    def test_a_tiny_gradient_in_half_precision_is_scaled_before_it_is_rounded(self):
        # Divided by the number of items, gradients of float16 are below its least number; a GradScaler lifts them.
        logits, ids = self.logits.half().repeat(20_000, 1), self.ids.repeat(20_000)
        value, gradient = run(self.loss, logits, ids, factor=2.0**16)
        expected, expected_gradient = plainly(self.loss, logits.float(), ids, factor=2.0**16)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(gradient.float(), expected_gradient, rtol=1e-3, atol=1e-7)
        assert gradient.dtype == torch.float16

    @pytest.mark.parametrize("factor", [1.0, -2.0, 0.3, 0.0])
    def test_a_gradient_in_bfloat16_is_rounded_once(self, factor):
        logits = self.logits.bfloat16()
        found, expected = (way(self.loss, logits, self.ids, factor=factor)[1] for way in (run, plainly))
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=0)

    @pytest.mark.parametrize("wrong", [math.inf, -math.inf, math.nan])
    def test_what_is_not_finite_is_left_to_the_plain_form(self, wrong):
        logits = self.logits.clone()
        logits[1, 2] = wrong
        for found, expected in zip(run(self.loss, logits, self.ids), plainly(self.loss, logits, self.ids), strict=True):
            torch.testing.assert_close(found, expected, equal_nan=True)

    def test_many_classes_that_lie_apart_in_memory(self):
        # Blocks have the classes of a single item then, for which torch's softmax writes nothing, and does not say so.
        logits, ids = torch.randn(2, 200, 3), torch.randint(200, (2, 3))
        for found, expected in zip(run(self.loss, logits, ids), plainly(self.loss, logits, ids), strict=True):
            torch.testing.assert_close(found, expected)

    def test_function_transforms_and_forward_mode_see_the_plain_form(self):
        expected = plainly(self.loss, self.logits, self.ids)[1]
        found = torch.func.grad(self.loss)(self.logits, self.ids)
        torch.testing.assert_close(found, expected)
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(self.logits, torch.ones_like(self.logits))
            slope = torch.autograd.forward_ad.unpack_dual(self.loss(dual, self.ids)).tangent
        torch.testing.assert_close(slope, expected.sum())

    def test_several_gradients_at_once(self):
        leaf = self.logits.clone().requires_grad_()
        factors = torch.tensor([1.0, -2.0])
        (found,) = torch.autograd.grad(self.loss(leaf, self.ids), leaf, factors, is_grads_batched=True)
        expected = plainly(self.loss, self.logits, self.ids)[1]
        torch.testing.assert_close(found, torch.stack([expected, -2 * expected]))

    @pytest.mark.parametrize("make", [lambda x: x, lambda x: x.square() + 1], ids=["the same", "made of it"])
    def test_second_derivatives_of_inputs_that_hang_together(self, make):
        # Each input has its own share of the gradient; what lies between them, autograd adds by itself.
        loss = losskit.create_loss("contrastive", normalize=True)

        def gradient():
            leaf = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
            (first,) = torch.autograd.grad(loss(leaf, make(leaf)), leaf, create_graph=True)
            return first, torch.autograd.grad(first.square().sum(), leaf)[0]

        found = gradient()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fused, "LEAST_SIZE", math.inf)
            expected = gradient()
        torch.testing.assert_close(found, expected)

    def test_logits_may_be_overwritten_before_the_backward_pass(self):
        # As metrics may do it; the gradient is known by then, and torch's own cross-entropy allows it too.
        leaf = self.logits.detach().clone().requires_grad_()
        logits = leaf * 1
        value = self.loss(logits, self.ids)
        logits.zero_()
        value.backward()
        torch.testing.assert_close(leaf.grad, plainly(self.loss, self.logits, self.ids)[1])

    def test_a_value_that_is_kept_after_the_backward_pass_keeps_no_input(self):
        leaf, ids = self.logits.detach().clone().requires_grad_(), self.ids.clone()
        logits = leaf * 1
        held = [weakref.ref(logits), weakref.ref(ids)]
        value = self.loss(logits, ids)
        value.backward(retain_graph=True)
        assert all(ref() is not None for ref in held)
        value.backward()
        del logits, ids
        assert [ref() for ref in held] == [None, None]
        with pytest.raises(RuntimeError, match="second time"):
            value.backward()

    def test_a_tracer_sees_the_plain_form(self):
        traced = torch.fx.experimental.proxy_tensor.make_fx(lambda x: self.loss(x, self.ids))(self.logits)
        torch.testing.assert_close(traced(self.logits + 1), self.loss(self.logits + 1, self.ids))

    def test_without_gradients_there_is_no_graph(self):
        expected = plainly(self.loss, self.logits, self.ids)[0]
        with torch.inference_mode():
            found = self.loss(self.logits, self.ids)
        assert not found.requires_grad
        torch.testing.assert_close(found, expected)

    def test_targets_that_are_learned_get_their_gradient(self):
        labels = self.logits.softmax(1).requires_grad_()
        value = self.loss(self.logits, labels)
        assert torch.autograd.grad(value, labels)[0].abs().sum() > 0

    def test_class_weights_that_are_learned_get_their_gradient(self):
        weights = torch.rand(4, requires_grad=True)
        for value in (
            softmax_cross_entropy_loss(self.logits, self.ids, class_weights=weights, label_smoothing=0.1),
            focal_loss(self.logits, self.ids, alpha=weights),
        ):
            assert torch.autograd.grad(value, weights)[0].abs().sum() > 0

    def test_a_learned_normalizer_gets_its_gradient(self):
        normalizer = torch.tensor(2.0, requires_grad=True)
        value = self.loss(self.logits, self.ids, normalizer=normalizer)
        torch.testing.assert_close(torch.autograd.grad(value, normalizer)[0], -value.detach() / 2)


@pytest.mark.usefixtures("_every_size")
@pytest.mark.parametrize("ignore_index", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64], ids=str)
def test_focal_loss_ignores_a_label_that_is_0_or_1(ignore_index, dtype):
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(5, 4, generator=generator), torch.randint(2, (5, 4), generator=generator).to(dtype)
    loss = losskit.create_loss("focal", activation="sigmoid", ignore_index=ignore_index)
    torch.testing.assert_close(run(loss, logits, labels), plainly(loss, logits, labels))


@pytest.mark.usefixtures("_every_size")
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("cross_entropy", (5, 4)),
        ("focal", (5, 4)),
        ("poly", (5, 4)),
        ("label_smoothing_cross_entropy", (5, 4)),
        ("corn", (40, 2)),
        ("sparsemax", (5, 4)),
        ("tempered_softmax_cross_entropy", (5, 4)),
        ("dice", (5, 4, 3)),
        ("lovasz_softmax", (5, 4, 3)),
    ],
)
def test_targets_that_are_overwritten_before_a_gradient_in_half_precision_are_an_error(name, shape):
    # There the kernel reads them in the backward pass; a gradient of other targets would go unnoticed.
    targets = torch.ones(shape[0], *shape[2:], dtype=torch.long)
    value = losskit.create_loss(name)(torch.randn(shape).half().requires_grad_(), targets)
    targets.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


CASES = {
    "cross_entropy": ({"label_smoothing": 0.1}, "ids"),
    "focal": ({"gamma": 1.5}, "ids"),
    "poly": ({"label_smoothing": 0.1}, "ids"),
    "label_smoothing_cross_entropy": ({}, "ids"),
    "soft_label_cross_entropy": ({}, "scores"),
    "sequence_softmax_cross_entropy": ({}, "steps"),
    "sigmoid_focal": ({"name": "focal"}, "labels"),
    "focal of one against the rest": ({"name": "focal", "activation": "sigmoid"}, "ids"),
    "mean_squared_error": ({}, "numbers"),
    "mean_absolute_error": ({}, "numbers"),
    "corn": ({}, "ranks"),
    "sparsemax": ({}, "ids"),
    "entmax15": ({}, "ids"),
    "tempered_softmax_cross_entropy": ({"label_smoothing": 0.1}, "ids"),
}


def batch_of(kind, generator):
    """A batch of a million numbers, which are several blocks."""
    random = functools.partial(torch.randn, generator=generator)
    integers = functools.partial(torch.randint, generator=generator)
    return {
        "ids": lambda: (random(5, 30, 90, 91), integers(30, (5, 90, 91))),
        "scores": lambda: (random(110, 10_000), random(110, 10_000).square()),
        "steps": lambda: (random(22, 100, 1000), integers(1000, (22, 100))),
        "labels": lambda: (random(11_000, 100), integers(2, (11_000, 100)).float()),
        "numbers": lambda: (random(2_200_000), random(2_200_000)),
        "ranks": lambda: (random(11_000, 99), integers(100, (11_000,))),
    }[kind]()


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, *(pytest.param(dtype, marks=pytest.mark.slow) for dtype in (torch.bfloat16, torch.float64))],
    ids=str,
)
@pytest.mark.parametrize("case", CASES)
def test_large_inputs_give_what_the_plain_form_gives_in_little_memory(case, dtype):
    options, kind = CASES[case]
    options = dict(options)
    loss = losskit.create_loss(options.pop("name", case), **options)
    inputs, targets = batch_of(kind, torch.Generator().manual_seed(0))
    inputs = inputs.to(dtype)
    if dtype == torch.bfloat16 and kind == "numbers":
        pytest.skip("torch's own, which needs both in one dtype")
    targets = targets.to(dtype) if dtype == torch.float64 and targets.is_floating_point() else targets
    found, expected = run(loss, inputs, targets), plainly(loss, inputs, targets)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=0)
    exact = {"rtol": 1e-4, "atol": 1e-5 * expected[1].abs().max().item()} if dtype != torch.bfloat16 else {}
    torch.testing.assert_close(found[1], expected[1], **exact)
    size = inputs.numel() * inputs.element_size()
    # In half precision, blocks are converted to twice the size, and here so are the labels.
    assert peak_memory(lambda: run(loss, inputs, targets)) <= size * (1.25 if dtype != torch.bfloat16 else 1.7)
    with torch.no_grad():
        assert peak_memory(lambda: loss(inputs, targets)) <= size * (0.3 if dtype != torch.bfloat16 else 0.8)


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "corn", "sparsemax", "mean_squared_error", "lovasz_hinge"])
def test_an_exported_loss_takes_batches_of_any_size(name):
    # To compare sizes, as a kernel does to see whether it is worth while, would fix them.
    inputs, targets = {
        "mean_squared_error": lambda: (torch.randn(8), torch.randn(8)),
        "lovasz_hinge": lambda: (torch.randn(8, 6, 6), torch.randint(2, (8, 6, 6))),
    }.get(name, lambda: (torch.randn(8, 5), torch.randint(5, (8,))))()
    loss = losskit.create_loss(name)
    sizes = {0: torch.export.Dim("batch", min=4)}
    exported = torch.export.export(loss, (inputs, targets), dynamic_shapes=(sizes, sizes)).module()
    others = torch.cat([inputs, inputs]), torch.cat([targets, targets])
    torch.testing.assert_close(exported(*others), loss(*others))
