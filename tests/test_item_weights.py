"""Masks and weights of items, labels that are missing, and features that a batch does not have."""

import pytest
import torch
import torch.nn.functional as F

import losskit
from losskit import MultiTaskLoss
from losskit.modules.base import AdditiveLoss
from losskit.modules.batches import cast, leaves
from losskit.modules.contract import Subject
from losskit.modules.lookup import Term
from losskit.registry import registry

ADDITIVE = [
    (entry.name, feature_type)
    for entry in registry.entries()
    if issubclass(entry.module.load(), AdditiveLoss)
    for feature_type in entry.feature_types
]


def case(name, feature_type, **settings):
    """A criterion of one loss, in float64, with the tensors of a batch by their roles."""
    subject = Subject(registry.get(name))
    module = subject.build(feature_type, **settings)
    entry = subject.entry
    term = Term("f", name, module, entry.inputs, entry.targets, entry.optional_inputs, entry.optional_targets)
    batch = cast(subject.batch(feature_type), torch.float64)
    return MultiTaskLoss([term]).double(), term, batch


def value_of(criterion, term, batch, rows=slice(None), normalizers=None, missing=None, **weights):
    """The loss of some rows, and the gradients of the whole inputs."""
    inputs, targets = leaves(batch)
    predictions = {"f": {role: x[rows] for role, x in zip(term.inputs, inputs)}}
    given = {role: x[rows] for role, x in zip(term.targets, targets)}
    output = criterion(predictions, {"f": {**given, **weights}}, normalizers)
    return output.total, torch.autograd.grad(output.total, inputs)


def reductions_of(name):
    return registry.get(name).schema["properties"].get("reduction", {}).get("enum", [None])


CASES = [(name, kind, reduction) for name, kind in ADDITIVE for reduction in reductions_of(name)]


@pytest.mark.parametrize(("name", "feature_type", "reduction"), CASES)
def test_an_item_of_weight_two_is_that_item_twice_and_one_of_weight_zero_is_not_there(name, feature_type, reduction):
    criterion, term, batch = case(name, feature_type, **({"reduction": reduction} if reduction else {}))
    weights = torch.tensor([1.0, 0.0, 2.0, 1.0, 0.0, 3.0])
    rows = torch.tensor([0, 2, 2, 3, 5, 5, 5])
    key = "sample_weight"
    torch.testing.assert_close(
        value_of(criterion, term, batch, **{key: weights}), value_of(criterion, term, batch, rows)
    )


@pytest.mark.parametrize(("name", "feature_type"), ADDITIVE)
def test_what_a_mask_leaves_out_may_be_anything(name, feature_type):
    if name == "m4c_decoding_bce_with_mask":
        pytest.skip("its mask is one of the loss's own targets")
    criterion, term, batch = case(name, feature_type)
    mask = torch.tensor([True, False, True, True, False, True])
    expected = value_of(criterion, term, batch, mask.nonzero().squeeze(1))
    spoilt = batch._replace(
        inputs=tuple(spoil(x, mask) for x in batch.inputs), targets=tuple(spoil(x, mask) for x in batch.targets)
    )
    for given in (mask, mask.double(), mask.long()):
        torch.testing.assert_close(value_of(criterion, term, spoilt, mask=given), expected)


def spoil(tensor, mask):
    tensor = tensor.clone()
    tensor[~mask] = float("nan") if tensor.is_floating_point() else 99
    return tensor


@pytest.mark.parametrize(("name", "feature_type"), ADDITIVE)
def test_an_empty_mask_gives_nothing_to_learn(name, feature_type):
    if name == "m4c_decoding_bce_with_mask":
        pytest.skip("its mask is one of the loss's own targets")
    criterion, term, batch = case(name, feature_type)
    value, gradients = value_of(criterion, term, batch, mask=torch.zeros(6, dtype=torch.bool))
    assert value == 0
    assert all(not gradient.any() for gradient in gradients)


@pytest.mark.parametrize(("name", "feature_type"), ADDITIVE)
def test_parts_with_their_counts_are_the_whole(name, feature_type):
    criterion, term, batch = case(name, feature_type)
    weights = torch.tensor([1.0, 0.0, 2.0, 1.0, 0.5, 3.0])
    expected = value_of(criterion, term, batch, sample_weight=weights)
    inputs, targets = leaves(batch)
    totals = counts = 0
    # One part has no item that counts.
    for phase in ("count", "add"):
        for rows in (slice(0, 1), slice(1, 2), slice(2, 6)):
            predictions = {"f": {role: x[rows] for role, x in zip(term.inputs, inputs)}}
            given = {role: x[rows] for role, x in zip(term.targets, targets)}
            labels = {"f": {**given, "sample_weight": weights[rows]}}
            if phase == "count":
                counts = counts + criterion.counts(labels, predictions)[f"f/{name}"]
            else:
                totals = totals + criterion(predictions, labels, {f"f/{name}": counts}).total
    torch.testing.assert_close(totals, expected[0])
    torch.testing.assert_close(torch.autograd.grad(totals, inputs), expected[1])


NUMBERS = "output_features: [{name: x, type: number, loss: %s, missing: mask}]"


@pytest.mark.parametrize("loss", ["mse", "huber", "mae", "poisson_nll", "smooth_l1"])
def test_numbers_that_are_nan_are_missing_labels(loss):
    criterion = build(loss, "number")
    x, y = torch.randn(5, requires_grad=True), torch.tensor([1.0, float("nan"), 2.0, float("nan"), 0.5])
    there = ~y.isnan()
    total = criterion({"x": x}, {"x": y}).total
    (gradient,) = torch.autograd.grad(total, x)
    expected = losskit.create_loss(loss)(x[there], y[there])
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, x)[0])
    assert criterion.counts({"x": y})[criterion.keys[0]] == 3


def build(loss, feature_type, missing=True):
    entry = registry.get(loss)
    module = losskit.create_loss(loss, feature_type=feature_type)
    return MultiTaskLoss([Term("x", entry.name, module, entry.inputs, entry.targets, missing=missing)])


def test_each_number_of_a_vector_may_be_missing():
    y = torch.tensor([[1.0, float("nan")], [2.0, 3.0]])
    assert build("mse", "vector")({"x": torch.zeros(2, 2)}, {"x": y}).total == (1 + 4 + 9) / 3


@pytest.mark.parametrize(
    ("feature_type", "shape"), [("category", (4, 3)), ("sequence", (2, 4, 3)), ("image", (2, 3, 2, 2))]
)
def test_class_ids_may_be_numbers_of_which_some_are_missing(feature_type, shape):
    # As a column of a table is read that has gaps.
    axis = -1 if feature_type == "sequence" else 1
    logits = torch.randn(shape, requires_grad=True)
    ids = torch.randint(3, logits.select(axis, 0).shape)
    gaps = torch.rand(ids.shape) < 0.4
    total = build("cross_entropy", feature_type)({"x": logits}, {"x": ids.double().masked_fill(gaps, torch.nan)}).total
    expected = F.cross_entropy(logits.movedim(axis, 1), ids.masked_fill(gaps, -100))
    torch.testing.assert_close(total, expected)


def test_a_distribution_with_a_gap_is_missing():
    logits, labels = torch.randn(3, 4), torch.rand(3, 4).softmax(1)
    expected = F.cross_entropy(logits[[0, 2]], labels[[0, 2]])
    labels[1, 2] = torch.nan
    torch.testing.assert_close(
        build("cross_entropy", "category_distribution")({"x": logits}, {"x": labels}).total, expected
    )


def test_class_ids_that_are_integers_are_never_missing():
    logits, ids = torch.randn(3, 4), torch.tensor([0, 1, 2])
    torch.testing.assert_close(
        build("cross_entropy", "category")({"x": logits}, {"x": ids}).total, F.cross_entropy(logits, ids)
    )


def test_masks_may_stand_beside_missing_labels_and_weights():
    y = torch.tensor([1.0, torch.nan, 2.0, 3.0])
    targets = {"targets": y, "mask": torch.tensor([1, 1, 0, 1]), "sample_weight": torch.tensor([1.0, 5.0, 7.0, 3.0])}
    total = build("mse", "number")({"x": torch.zeros(4)}, {"x": targets}).total
    assert total == (1 * 1 + 3 * 9) / 4


def test_masks_of_pixels_lie_beside_the_classes():
    logits, ids = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 4, 4))
    mask = torch.rand(2, 4, 4) < 0.5
    criterion = losskit.build(text="output_features: [{name: x, type: image, loss: [cross_entropy, dice]}]")
    parts = criterion({"x": logits}, {"x": {"targets": ids, "mask": mask}}).parts
    ignored = ids.masked_fill(~mask, -100)
    torch.testing.assert_close(parts["x/softmax_cross_entropy"], F.cross_entropy(logits, ignored))
    # No mean over items, but a loss that knows how to ignore some.
    torch.testing.assert_close(parts["x/dice"], losskit.create_loss("dice")(logits, ignored))


OTHERS = [
    (entry.name, feature_type)
    for entry in registry.entries()
    if not issubclass(entry.module.load(), AdditiveLoss)
    for feature_type in entry.feature_types
]


@pytest.mark.parametrize(("name", "feature_type"), OTHERS)
def test_samples_that_a_mask_leaves_out_are_not_there_for_losses_that_are_no_means(name, feature_type):
    criterion, term, batch = case(name, feature_type)
    mask = torch.arange(len(batch.inputs[0])) % 3 < 2
    if name == "nt_xent":
        with pytest.raises(TypeError, match="nt_xent: .* pairs samples by their place, so it takes no `mask`"):
            value_of(criterion, term, batch, mask=mask)
        return
    expected = value_of(criterion, term, batch, mask.nonzero().squeeze(1))
    spoilt = batch._replace(inputs=tuple(spoil(x, mask) for x in batch.inputs))
    torch.testing.assert_close(value_of(criterion, term, spoilt, mask=mask), expected)


def test_samples_without_a_label_are_not_there_for_losses_that_are_no_means():
    x, y = torch.tensor([[3.0, 9.0], [4.0, 0.0]]), torch.tensor([[0.0, torch.nan], [0.0, 0.0]])
    root = build("rmse", "vector")
    torch.testing.assert_close(root({"x": x}, {"x": y}).total, torch.tensor(25 / 3).sqrt())
    logits, scores = torch.randn(3, 4), torch.rand(3, 4)
    expected = build("bce_kl", "set")({"x": logits[[0, 2]]}, {"x": scores[[0, 2]]})
    scores[1, 3] = torch.nan
    torch.testing.assert_close(build("bce_kl", "set")({"x": logits}, {"x": scores}), expected)


def test_a_loss_that_is_no_mean_takes_no_weights():
    criterion = losskit.build(text="output_features: [{name: x, type: number, loss: rmse}]")
    targets = {"targets": torch.zeros(3), "sample_weight": torch.ones(3)}
    message = "x/root_mean_squared_error: .* is no mean over items: it takes no `sample_weight`"
    with pytest.raises(TypeError, match=message):
        criterion({"x": torch.ones(3)}, {"x": targets})


@pytest.mark.parametrize("shape", [(2,), (3, 1), (1, 3)])
def test_weights_that_do_not_fit_are_never_broadcast(shape):
    criterion = losskit.build(text="output_features: [{name: x, type: number, loss: mse}]")
    with pytest.raises(ValueError, match=r"x/mean_squared_error: .*do not fit \(3,\)"):
        criterion({"x": torch.ones(3)}, {"x": {"targets": torch.zeros(3), "sample_weight": torch.ones(shape)}})


def test_a_language_model_is_masked_where_its_labels_are():
    logits, ids = torch.randn(2, 5, 7), torch.randint(7, (2, 5))
    mask = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 0, 0]], dtype=torch.bool)
    criterion = losskit.build(text="output_features: [{name: x, type: text, loss: next_token_softmax_cross_entropy}]")
    total = criterion({"x": logits}, {"x": {"targets": ids, "mask": mask}}).total
    expected = F.cross_entropy(logits[:, :-1].transpose(1, 2), ids.masked_fill(~mask, -100)[:, 1:])
    torch.testing.assert_close(total, expected)


TWO = """
output_features:
  - {name: a, type: number, loss: mse}
  - {name: b, type: category, loss: {type: cross_entropy, weight: 2.0}}
  - {name: t, type: vector, loss: triplet_margin}
"""


def test_a_feature_that_a_batch_does_not_have_contributes_nothing():
    criterion = losskit.build(text=TWO)
    head = torch.nn.Linear(4, 3)
    x, a = torch.full((2, 4), torch.inf), torch.ones(2, requires_grad=True)
    output = criterion({"a": a, "b": head(x)}, {"a": torch.zeros(2)})
    assert output.total == 1
    assert output.parts == {"a/mean_squared_error": 1, "b/softmax_cross_entropy": 0, "t/triplet_margin": 0}
    output.total.backward()
    # Data parallelism waits for a gradient of each parameter, and it must not be one of infinite logits.
    assert head.bias.grad is not None
    assert not head.bias.grad.any()
    assert criterion.counts({"a": torch.zeros(2)}, {"a": a})["b/softmax_cross_entropy"] == 0


def test_the_parameters_of_a_loss_whose_feature_is_absent_have_a_gradient_of_zero():
    loss = "{type: linear_cross_entropy, in_features: 4, num_classes: 3}"
    text = f"output_features: [{{name: a, type: number}}, {{name: b, type: category, loss: {loss}}}]"
    criterion = losskit.build(text=text)
    criterion({"a": torch.ones(2, requires_grad=True)}, {"a": torch.zeros(2)}).total.backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in criterion.parameters())


def test_targets_that_are_not_given_at_all_are_an_error():
    with pytest.raises(ValueError, match="a/mean_squared_error: the targets are missing"):
        losskit.build(text=TWO)({"a": torch.ones(2)})
