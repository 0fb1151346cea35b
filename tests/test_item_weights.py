"""Masks and weights of items, labels that are missing, and features that a batch does not have."""

import concurrent.futures
import re
import sys

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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision_are_added_up_in_full(dtype):
    criterion, weights = build("mse", "number"), torch.ones(70001, dtype=dtype)  # more than float16 can count to
    x = torch.ones(70001)
    targets = {"x": {"targets": torch.zeros(70001), "sample_weight": weights}}
    assert criterion.counts(targets)[criterion.keys[0]] == 70001
    assert criterion({"x": x}, targets).total == 1


def test_a_weight_outside_of_the_mask_may_be_anything():
    targets = {"targets": torch.zeros(2), "mask": torch.tensor([1, 0]), "sample_weight": torch.tensor([2.0, torch.nan])}
    assert build("mse", "number")({"x": torch.ones(2)}, {"x": targets}).total == 1


@pytest.mark.parametrize("name", ["dice", "lovasz_softmax", "lovasz_hinge"])
def test_pixels_that_are_masked_may_be_anything_for_losses_of_regions(name):
    criterion = losskit.build(text=f"output_features: [{{name: x, type: image, loss: {name}}}]")
    mask = torch.rand(2, 4, 4) < 0.6
    logits, ids = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 4, 4))
    if name == "lovasz_hinge":
        logits, ids = torch.randn(2, 4, 4), ids.clamp(max=1)
    wide = mask if logits.ndim == 3 else mask.unsqueeze(1)
    results = []
    for x in (logits, logits.masked_fill(~wide, torch.nan)):
        x.requires_grad_()
        total = criterion({"x": x}, {"x": {"targets": ids, "mask": mask}}).total
        results.append((total, torch.autograd.grad(total, x)[0]))
    torch.testing.assert_close(results[1], results[0])


def test_each_pixel_of_a_mask_with_soft_labels_may_be_missing():
    logits, labels = torch.randn(2, 1, 4, 4), torch.rand(2, 1, 4, 4)
    mask = torch.rand(2, 1, 4, 4) < 0.7
    criterion = build("dice", "image")
    expected = losskit.create_loss("dice")(logits, labels.masked_fill(~mask, -100))
    torch.testing.assert_close(criterion({"x": logits}, {"x": labels.masked_fill(~mask, torch.nan)}).total, expected)


@pytest.mark.parametrize(
    ("loss", "feature_type", "shape"),
    [
        ("dice", "image", (2, 3, 4, 4)),
        ("entropic_open_set", "category", (6, 3)),
        ("multi_similarity", "vector", (6, 5)),
    ],
)
def test_class_ids_with_gaps_fit_losses_that_are_no_cross_entropies(loss, feature_type, shape):
    logits = torch.randn(shape)
    ids = torch.randint(3, (shape[0], *shape[2:]))
    gaps = torch.zeros(ids.shape, dtype=torch.bool)
    gaps[1] = True
    criterion = build(loss, feature_type)
    total = criterion({"x": logits}, {"x": ids.double().masked_fill(gaps, torch.nan)}).total
    rest = torch.tensor([index for index in range(len(ids)) if index != 1])
    if loss == "dice":  # whose pixels are ignored, and an image without any is one that fits
        expected = build(loss, feature_type, False)({"x": logits}, {"x": ids.masked_fill(gaps, -100)}).total
    else:
        expected = build(loss, feature_type, False)({"x": logits[rest]}, {"x": ids[rest]}).total
    torch.testing.assert_close(total, expected)


@pytest.mark.parametrize("loss", ["linear_cross_entropy", "adaptive_log_softmax"])
def test_steps_without_a_label_are_counted_without_predictions(loss):
    config = {"type": loss, "in_features": 5, "num_classes": 3}
    config |= {"cutoffs": [1]} if loss == "adaptive_log_softmax" else {}
    feature = {"name": "x", "type": "text", "missing": "mask", "loss": config}
    criterion = losskit.build({"output_features": [feature]})
    labels = torch.randint(3, (5, 4)).float()
    labels[0, 1] = torch.nan
    assert criterion.counts({"x": labels})[criterion.keys[0]] == 19


def test_axes_of_binary_features_are_no_classes_and_those_of_images_are_channels():
    x, y, mask = torch.randn(2, 5, 5), torch.randint(2, (2, 5, 5)), torch.rand(2, 5) < 0.5
    criterion = losskit.build(text="output_features: [{name: x, type: binary, loss: bce_with_logits}]")
    expected = F.binary_cross_entropy_with_logits(x[mask], y[mask].float())
    torch.testing.assert_close(criterion({"x": x}, {"x": {"targets": y, "mask": mask}}).total, expected)
    x, y, mask = torch.randn(3, 3, 3, 3), torch.randn(3, 3, 3, 3), torch.rand(3, 3, 3) < 0.5
    criterion = losskit.build(text="output_features: [{name: x, type: image, loss: mse}]")
    expected = F.mse_loss(x.movedim(1, -1)[mask], y.movedim(1, -1)[mask])
    torch.testing.assert_close(criterion({"x": x}, {"x": {"targets": y, "mask": mask}}).total, expected)


def test_branches_of_logits_are_no_items():
    criterion = losskit.build(text="output_features: [{name: x, type: set, loss: triple_logit_bce, missing: mask}]")
    logits, labels = torch.randn(6, 4, 3), torch.rand(6, 3)
    gaps = torch.rand(6, 3) < 0.4
    by_mask = criterion({"x": logits}, {"x": {"targets": labels, "mask": ~gaps}}).total
    torch.testing.assert_close(criterion({"x": logits}, {"x": labels.masked_fill(gaps, torch.nan)}).total, by_mask)


@pytest.mark.parametrize("feature_type", ["set", "category_distribution"])
def test_a_mask_of_elements_does_not_fit_a_loss_of_samples(feature_type):
    criterion = losskit.build(text=f"output_features: [{{name: x, type: {feature_type}, loss: bce_kl}}]")
    targets = {"targets": torch.rand(6, 3), "mask": torch.ones(6, 3, dtype=torch.bool)}
    with pytest.raises(ValueError, match=r"mask \(6, 3\) does not fit BceKlLoss: there must be one number per sample"):
        criterion({"x": torch.randn(6, 3)}, {"x": targets})


def test_threads_may_use_one_criterion_with_and_without_masks():
    criterion = losskit.build(text="output_features: [{name: x, type: category, loss: [cross_entropy, focal]}]")
    x, y, mask = torch.randn(8, 3), torch.randint(3, (8,)), torch.arange(8) % 2 == 0
    expected = [criterion({"x": x}, {"x": y}).total, criterion({"x": x}, {"x": {"targets": y, "mask": mask}}).total]

    def work(index):
        targets = {"targets": y, "mask": mask} if index % 2 else y
        return [criterion({"x": x}, {"x": targets}).total for _ in range(50)]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            results = list(pool.map(work, range(4)))
    finally:
        sys.setswitchinterval(interval)
    for index, found in enumerate(results):
        torch.testing.assert_close(found, [expected[index % 2]] * 50)


@pytest.mark.parametrize(
    ("key", "meant"),
    [("sample_weights", "sample_weight"), ("weights", "sample_weight"), ("maks", "mask"), ("attention_mask", "mask")],
)
def test_a_misspelt_key_of_the_targets_is_told(key, meant):
    criterion = losskit.build(text="output_features: [{name: x, type: number, loss: mse}]")
    message = f"x/mean_squared_error: nothing takes '{key}' of the targets; did you mean '{meant}'?"
    for _ in range(2):
        with pytest.raises(ValueError, match=re.escape(message)):
            criterion({"x": torch.ones(2)}, {"x": {"targets": torch.zeros(2), key: torch.ones(2)}})
    # What is nothing like ours belongs to others.
    criterion({"x": torch.ones(2)}, {"x": {"targets": torch.zeros(2), "ids": torch.ones(2)}})


def test_a_mask_among_the_predictions_is_told():
    criterion = losskit.build(text="output_features: [{name: x, type: number, loss: mse}]")
    with pytest.raises(ValueError, match="the predictions hold 'mask', which is looked for in the targets"):
        criterion({"x": {"logits": torch.ones(2), "mask": torch.ones(2)}}, {"x": torch.zeros(2)})


@pytest.mark.parametrize(("weight", "found"), [(-1.0, "-1"), (float("nan"), "nan")])
def test_weights_that_mean_nothing_are_told_in_debug(weight, found):
    criterion = losskit.build(text="output_features: [{name: x, type: number, loss: mse}]")
    targets = {"targets": torch.zeros(2), "sample_weight": torch.tensor([1.0, weight])}
    message = rf"x/mean_squared_error: sample_weight hold a value outside 0 to inf: {found} at index \(1,\)"
    with losskit.debug(), pytest.raises(ValueError, match=message):
        criterion({"x": torch.ones(2)}, {"x": targets})


def test_a_single_item_counts_for_what_it_is():
    # Without an axis, or with one number that stands for all, there is nothing to add up, but the number counts.
    weighted = losskit.create_loss("cross_entropy", feature_type="category", class_weights=[1, 2, 3])
    assert weighted.count(torch.tensor(2)) == 3
    assert weighted.count(torch.tensor(-100)) == 0
    steps = losskit.create_loss("m4c_decoding_bce_with_mask", feature_type="sequence")
    half = torch.full((1, 1), 0.5).expand(6, 4)
    assert steps.count(torch.zeros(6, 4, 3), mask=half) == 12
    assert steps.count(torch.zeros(6, 4, 3), mask=half.new_zeros(1, 1).expand(6, 4)) == 1
