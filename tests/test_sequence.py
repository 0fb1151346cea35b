"""Cross-entropy of sequences, next tokens and captions."""

import pytest
import torch
import torch.nn.functional as F

import losskit
from losskit import create_loss
from losskit.modules import (
    caption_cross_entropy_loss,
    next_token_softmax_cross_entropy_loss,
    sequence_softmax_cross_entropy_loss,
)

CLOSE = {"rtol": 3e-7, "atol": 0.0}
SETTINGS = [
    {},
    {"class_weights": [1.0, 0.5, 2.0, 1.0, 3.0]},
    {"label_smoothing": 0.1},
    {"robust_lambda": 0.1},
    {"confidence_penalty": 0.2},
    {"class_similarities": torch.eye(5).tolist(), "class_similarities_temperature": 0.5},
]


def assert_alike(value, expected, logits):
    torch.testing.assert_close(value, expected, **CLOSE)
    gradients = [torch.autograd.grad(v.sum(), logits, retain_graph=True)[0] for v in (value, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_sequence_is_cross_entropy_of_all_steps_without_padding(settings, reduction):
    logits, ids = torch.randn(3, 6, 5, requires_grad=True), torch.randint(5, (3, 6))
    flat = logits.reshape(-1, 5), ids.reshape(-1)
    loss = create_loss("sequence_softmax_cross_entropy", reduction=reduction, **settings)
    expected = create_loss("cross_entropy", ignore_index=2, reduction=reduction, **settings)
    assert_alike(loss(logits, ids), expected(*flat), logits)
    assert loss.count(ids) == expected.count(flat[1])
    if not settings:
        assert_alike(loss(logits, ids), F.cross_entropy(*flat, ignore_index=2, reduction=reduction), logits)


def test_no_example_of_the_batch_is_left_out():
    # Ludwig leaves out the first, so that a batch of one is NaN there.
    logits, ids = torch.randn(1, 4, 5), torch.tensor([[1, 3, 0, 2]])
    loss = create_loss("sequence_softmax_cross_entropy", feature_type="text")
    torch.testing.assert_close(loss(logits, ids), F.cross_entropy(logits[0, :3], ids[0, :3]))


def test_repetitions_count_once_at_their_first_step():
    logits, ids = torch.randn(2, 5, 5, requires_grad=True), torch.tensor([[3, 1, 3, 2, 1], [4, 4, 4, 4, 0]])
    first = torch.tensor([[1, 1, 0, 0, 0], [1, 0, 0, 0, 1]], dtype=torch.bool)  # 2 is padding
    for settings in SETTINGS:
        loss = create_loss("sequence_softmax_cross_entropy", unique=True, **settings)
        expected = create_loss("cross_entropy", **settings)
        assert_alike(loss(logits, ids), expected(logits[first], ids[first]), logits)
        assert loss.count(ids.byte()) == expected.count(ids[first])
    values = sequence_softmax_cross_entropy_loss(logits, ids, unique=True, reduction="none")
    assert torch.equal(values > 0, first)


def test_unique_is_the_same_when_compiled():
    loss = create_loss("sequence_softmax_cross_entropy", unique=True)
    logits, ids = torch.randn(3, 7, 5), torch.randint(5, (3, 7))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits, ids), loss(logits, ids))


@pytest.mark.parametrize("settings", SETTINGS)
def test_next_token_is_cross_entropy_of_the_steps_after(settings):
    logits, ids = torch.randn(3, 6, 5, requires_grad=True), torch.randint(5, (3, 6))
    ids[1, 3:] = -100
    flat = logits[:, :-1].reshape(-1, 5), ids[:, 1:].reshape(-1)
    loss = create_loss("next_token_softmax_cross_entropy", **settings)
    expected = create_loss("cross_entropy", **settings)
    assert_alike(loss(logits, ids), expected(*flat), logits)
    assert loss.count(ids) == expected.count(flat[1])
    if not settings:
        assert_alike(loss(logits, ids), F.cross_entropy(*flat), logits)


def test_labels_that_are_shifted_already():
    logits, ids = torch.randn(2, 4, 5), torch.randint(5, (2, 4))
    loss = create_loss("next_token_softmax_cross_entropy", shift=False)
    torch.testing.assert_close(loss(logits, ids), F.cross_entropy(logits.reshape(-1, 5), ids.reshape(-1)))
    assert loss.count(ids) == 8


def test_next_tokens_unreduced_have_a_last_step_of_0():
    logits, ids = torch.randn(2, 4, 5), torch.randint(5, (2, 4))
    values = next_token_softmax_cross_entropy_loss(logits, ids, reduction="none")
    torch.testing.assert_close(values[:, :-1], F.cross_entropy(logits[:, :-1].mT, ids[:, 1:], reduction="none"))
    assert (values[:, -1] == 0).all()


def test_first_token_is_never_predicted():
    # So that it is neither a repetition nor first of its class, and may be any start.
    logits, ids = torch.randn(1, 3, 5), torch.tensor([[1, 1, 4]])
    expected = F.cross_entropy(logits[0, :2], ids[0, 1:])
    for settings in ({}, {"unique": True}, {"ignore_index": 2}, {"ignore_index": None}):
        loss = create_loss("next_token_softmax_cross_entropy", **settings)
        torch.testing.assert_close(loss(logits, ids), expected)
        assert loss.count(ids) == 2


@pytest.mark.parametrize("steps", [0, 1])
def test_sequences_too_short_for_a_next_token_give_0(steps):
    logits, ids = torch.randn(3, steps, 5, requires_grad=True), torch.zeros(3, steps, dtype=torch.long)
    for settings in ({}, {"unique": True}, {"label_smoothing": 0.1}):
        loss = create_loss("next_token_softmax_cross_entropy", **settings)
        value = loss(logits, ids)
        assert value == 0
        assert (torch.autograd.grad(value, logits)[0] == 0).all()
        assert loss.count(ids) == 0


def test_each_caption_is_as_long_as_its_own_length():
    logits, ids = torch.randn(4, 5, 6, requires_grad=True), torch.randint(6, (4, 5))
    lengths = torch.tensor([2, 6, 1, 4])  # not sorted, which MMF would need
    counted = torch.arange(5) < (lengths - 1).unsqueeze(1)
    loss = create_loss("caption_cross_entropy")
    assert_alike(loss(logits, ids, lengths=lengths), F.cross_entropy(logits[counted], ids[counted]), logits)
    assert_alike(loss(logits, ids), F.cross_entropy(logits.mT, ids), logits)
    assert loss.count(ids, lengths=lengths) == 9
    assert loss.count(ids) == 20
    values = caption_cross_entropy_loss(logits, ids, lengths=lengths.int(), reduction="none")
    assert torch.equal(values > 0, counted)
    assert loss(logits, ids, lengths=torch.ones(4, dtype=torch.long)) == 0
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits, ids, lengths=lengths), loss(logits, ids, lengths=lengths))


def test_lengths_come_with_the_targets_of_a_feature():
    criterion = losskit.build({"output_features": [{"name": "c", "type": "text", "loss": "caption_cross_entropy"}]})
    logits, ids, lengths = torch.randn(2, 3, 4), torch.randint(4, (2, 3)), torch.tensor([2, 4])
    counted = torch.arange(3) < (lengths - 1).unsqueeze(1)
    total = criterion({"c": logits}, {"c": {"targets": ids, "lengths": lengths}}).total
    torch.testing.assert_close(total, F.cross_entropy(logits[counted], ids[counted]))
    torch.testing.assert_close(criterion({"c": logits}, {"c": ids}).total, F.cross_entropy(logits.mT, ids))


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (torch.tensor([2, 5]), r"lengths must be from 0 to 4, for targets \(2, 3\) of 3 steps and the start"),
        (torch.tensor([2, -1]), "lengths must be from 0 to 4"),
        (torch.tensor([2]), r"one per row of the targets \(2, 3\), got \(1,\)"),
        (torch.tensor([2.0, 3.0]), "lengths must be integers"),
        ([2, 3], "got list"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(lengths, message):
    with pytest.raises(ValueError, match=message):
        create_loss("caption_cross_entropy")(torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.long), lengths=lengths)


NAMES = ["sequence_softmax_cross_entropy", "next_token_softmax_cross_entropy", "caption_cross_entropy"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("shape", "targets", "error", "message"),
    [
        ((2, 5, 3), torch.zeros(2, 3).long(), ValueError, r"\(2, 5, 3\) and targets \(2, 3\) .*logits.transpose\(1, 2"),
        ((2, 5), torch.zeros(2).long(), ValueError, r"\(2, 5\) and targets \(2,\) .*must be \(batch, steps, classes\)"),
        ((2, 3, 5), torch.zeros(2, 3, 5), ValueError, r"class ids \(batch, steps\)"),
        ((2, 3, 5), torch.zeros(2, 3), TypeError, r"targets are float32, .*targets.long\(\)"),
        (
            (2, 3, 5),
            torch.full((2, 3), 5),
            ValueError,
            r"the class id 5 at index .*, but the logits \(2, 3, 5\) have 5 classes: 0 to 4",
        ),
        # An id that another config would ignore is no class.
        ((2, 3, 5), torch.full((2, 3), -1), ValueError, "the class id -1"),
    ],
)
def test_what_does_not_fit_is_refused(name, shape, targets, error, message):
    with pytest.raises(error, match=message):
        create_loss(name)(torch.zeros(shape), targets)


@pytest.mark.parametrize("name", NAMES)
def test_batchmean_is_the_sum_over_the_number_of_sequences(name):
    function = getattr(losskit.modules, f"{name}_loss")
    logits, ids = torch.randn(3, 4, 5), torch.randint(5, (3, 4))
    torch.testing.assert_close(function(logits, ids, reduction="batchmean"), function(logits, ids, reduction="sum") / 3)


def test_sequences_and_text_default_to_the_loss_without_padding():
    for feature_type in ("sequence", "text"):
        criterion = losskit.build({"output_features": [{"name": "s", "type": feature_type}]})
        logits, ids = torch.randn(2, 3, 4), torch.tensor([[0, 1, 2], [3, 2, 2]])
        expected = F.cross_entropy(logits.mT, ids, ignore_index=2)
        torch.testing.assert_close(criterion({"s": logits}, {"s": ids}).total, expected)
