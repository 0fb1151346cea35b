"""`compute_loss_func`, called as the Trainer of transformers calls it; test_frameworks.py runs the Trainer itself."""

import pickle
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

import losskit
from losskit.integrations.transformers import CountsLabels, compute_loss_func
from losskit.registry import registry

TWO = """
output_features:
  - {name: word, type: text, loss: {type: cross_entropy, class_weights: [1, 2, 3, 4]}}
  - {name: score, type: number, loss: [huber, {type: mse, weight: 0.5}]}
"""


@pytest.fixture
def tokens():
    """Logits that can be learned, and labels of which the micro-batches ignore 0, 2 and 5 of 5."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 7, generator=generator, requires_grad=True)
    labels = torch.randint(7, (3, 5), generator=generator)
    labels[1, 3:], labels[2] = -100, -100
    return logits, labels


def accumulated(loss, logits, labels, number):
    """The gradient that the Trainer accumulates over micro-batches of one row."""
    logits.grad = None
    for row in range(len(logits)):
        loss({"logits": logits[row : row + 1]}, labels[row : row + 1], num_items_in_batch=number).backward()
    return logits.grad.clone()


def test_micro_batches_add_up_to_the_gradient_of_the_whole(tokens):
    logits, labels = tokens
    loss = compute_loss_func("cross_entropy", label_smoothing=0.1)
    F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=0.1).backward()
    expected = logits.grad.clone()
    torch.testing.assert_close(accumulated(loss, logits, labels, labels.ne(-100).sum()), expected)
    # The Trainer gives the number as an int where it counts on its own, and once per device with several.
    torch.testing.assert_close(accumulated(loss, logits, labels, int(labels.ne(-100).sum())), expected)
    torch.testing.assert_close(accumulated(loss, logits, labels, labels.ne(-100).sum().expand(2, 1)), expected)


def test_a_language_model_is_counted_by_its_next_tokens(tokens):
    logits, labels = tokens
    loss = compute_loss_func("next_token_softmax_cross_entropy")
    F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()).backward()
    expected = logits.grad.clone()
    torch.testing.assert_close(accumulated(loss, logits, labels, labels[:, 1:].ne(-100).sum()), expected)


@pytest.mark.parametrize(
    ("name", "settings", "logits", "labels"),
    [
        ("mse", {}, (8, 3), torch.randn(8, 3)),  # a number of items per label
        ("bce_with_logits", {"reduction": "batchmean"}, (8, 3), torch.rand(8, 3)),
        ("bce_with_logits", {}, (8, 3), torch.randint(2, (8, 3)).float()),
        ("soft_label_cross_entropy", {}, (8, 3), torch.rand(8, 3)),  # an item has a label of three numbers
        ("cross_entropy", {}, (8, 3), torch.rand(8, 3).softmax(1)),
        ("kl_div", {}, (8, 3), torch.rand(8, 3).softmax(1)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_label_may_be_more_than_one_number(name, settings, logits, labels):
    # The Trainer counts numbers; what the loss divides by are its own items.
    role = registry.get(name).inputs[0]
    outputs = {role: torch.randn(logits).log_softmax(1)}
    loss = compute_loss_func(name, **settings)
    whole = losskit.create_loss(name, **settings)(outputs[role], labels)
    parts = [loss({role: outputs[role][i : i + 2]}, labels[i : i + 2], labels.numel()) for i in range(0, 8, 2)]
    torch.testing.assert_close(sum(parts), whole)
    torch.testing.assert_close(loss(outputs, labels), whole)


def test_a_sum_stays_a_sum():
    loss = compute_loss_func("mse", reduction="sum")
    assert loss({"logits": torch.tensor([3.0])}, torch.zeros(1), num_items_in_batch=8) == 9


def test_classes_are_last_as_models_of_transformers_have_them():
    # As many steps as classes: torch's axis would fit as well.
    logits, labels = torch.randn(2, 5, 5), torch.randint(5, (2, 5))
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(compute_loss_func("cross_entropy")({"logits": logits}, labels, 10), expected)
    by_type = compute_loss_func("cross_entropy", feature_type="text")
    torch.testing.assert_close(by_type({"logits": logits}, labels, 10), expected)


def test_one_number_per_item_may_stand_in_a_column():
    # As models for regression return it, beside labels without a column.
    assert compute_loss_func("mse")({"logits": torch.ones(4, 1)}, torch.zeros(4), 4) == 1


@pytest.mark.parametrize(
    "wrap", [lambda x: x, lambda x: (x, None), lambda x: {"logits": x}, lambda x: OrderedDict(loss=None, logits=x)]
)
def test_outputs_may_be_what_models_return(wrap):
    assert compute_loss_func("mse")(wrap(torch.ones(4)), torch.zeros(4), 4) == 1


def test_it_is_made_of_whatever_names_a_loss(tmp_path):
    path = tmp_path / "losses.yaml"
    path.write_text("output_features: [{name: price, type: number, loss: {type: huber, delta: 0.5}}]")
    sources = [
        {"type": "huber", "delta": 0.5},
        losskit.create_loss("huber", delta=0.5),
        path,
        str(path),
        losskit.load(path),
        losskit.build(path),
        {"output_features": [{"name": "price", "type": "number", "loss": {"type": "huber", "delta": 0.5}}]},
        {"losses": [{"type": "huber", "delta": 0.5}]},
    ]
    functions = [compute_loss_func("huber", delta=0.5), *map(compute_loss_func, sources)]
    # Of a single feature, the name may be that of an output and of the labels, or not.
    values = [function({"logits": torch.full((4,), 2.0)}, torch.zeros(4), 4).item() for function in functions]
    assert values == [0.875] * len(functions)
    assert functions[3]({"price": torch.tensor([2.0])}, {"price": torch.tensor([0.0])}, 1) == 0.875
    assert compute_loss_func("huber", weight=0.1)(torch.tensor([2.0]), torch.zeros(1), 1) == pytest.approx(0.15)
    assert pickle.loads(pickle.dumps(functions[0]))(torch.full((4,), 2.0), torch.zeros(4), 4) == 0.875


def test_a_wrong_name_or_setting_is_told_as_ever():
    with pytest.raises(losskit.ConfigError, match="did you mean `huber`"):
        compute_loss_func("hubr")
    with pytest.raises(losskit.ConfigError, match="must be greater than 0"):
        compute_loss_func("huber", delta=-1)
    with pytest.raises(losskit.ConfigError, match="not for image"):
        compute_loss_func("huber", feature_type="image")
    with pytest.raises(FileNotFoundError):
        compute_loss_func("no/such/file.yaml")
    for source in (losskit.create_loss("huber"), {"losses": ["huber"]}):
        with pytest.raises(TypeError, match="belong to a loss by name"):
            compute_loss_func(source, delta=2.0)


@pytest.mark.parametrize("name", ["dice", "root_mean_squared_error", "nt_xent"])
def test_a_loss_that_is_no_mean_over_items_is_refused_when_it_is_made(name):
    with pytest.raises(ValueError, match=f"^{name}: no mean over items; the Trainer adds up"):
        compute_loss_func(name)


def test_all_losses_of_a_config_must_be_means():
    config = {"output_features": [{"name": "m", "type": "image", "loss": ["focal", "dice", "lovasz_softmax"]}]}
    with pytest.raises(ValueError, match=r"^m/dice, m/lovasz_softmax: no mean over items"):
        compute_loss_func(config)


def test_what_the_trainer_would_neither_train_nor_save_is_refused():
    learned = {"losses": [{"type": "linear_cross_entropy", "in_features": 4, "num_classes": 3}]}
    schedule = {"type": "huber", "weight": {"schedule": "linear", "from": 0.0, "to": 1.0, "steps": 10}}
    for source in (learned, {"losses": [schedule]}, schedule):
        with pytest.raises(ValueError, match=r"have parameters or a schedule.*model.criterion"):
            compute_loss_func(source)
    # What a model holds is its own.
    assert compute_loss_func(losskit.build(learned))({"hidden": torch.randn(2, 4)}, torch.tensor([0, 2]), 2) > 0


def test_labels_of_several_features_are_counted_each_by_its_own_loss():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 5, 4, generator=generator, requires_grad=True)
    scores = torch.randn(6, generator=generator, requires_grad=True)
    labels = {"word": torch.randint(4, (6, 5), generator=generator), "score": torch.randn(6, generator=generator)}
    labels["word"][:3, 1:] = -100
    criterion, loss = losskit.build(text=TWO), compute_loss_func(losskit.build(text=TWO))
    whole = criterion({"word": logits, "score": scores}, labels).total
    expected = torch.autograd.grad(whole, [logits, scores])
    # With class weights and labels that are ignored, no number of labels would be right for all.
    parts = [{name: tensor[i : i + 2] for name, tensor in labels.items()} for i in (0, 2, 4)]
    counts = loss.counts(parts)
    total = sum(
        loss({"word": logits[i : i + 2], "score": scores[i : i + 2], "hidden_states": None}, part, counts)
        for i, part in zip((0, 2, 4), parts, strict=True)
    )
    torch.testing.assert_close(total, whole)
    torch.testing.assert_close(torch.autograd.grad(total, [logits, scores]), expected)
    assert list(loss.parts) == ["word/softmax_cross_entropy", "score/huber", "score/mean_squared_error"]


def test_labels_that_the_trainer_cannot_count_are_an_error_where_it_would_be_wrong():
    loss = compute_loss_func({"losses": ["huber"]})
    labels = {"targets": torch.zeros(2), "mask": torch.tensor([True, False])}
    outputs = torch.full((2,), 3.0, requires_grad=True)
    with pytest.raises(ValueError, match=r"the Trainer cannot count labels that are a dict.*CountsLabels"):
        loss(outputs, labels)
    with pytest.raises(ValueError, match=r"the Trainer passes no labels: .*remove_unused_columns=False"):
        loss(outputs, None)
    with torch.no_grad():  # as in evaluation
        assert loss(outputs, labels) == 2.5
    assert loss(outputs, labels, loss.counts([labels])) == 2.5


def test_tasks_are_balanced_where_that_adds_up_over_micro_batches():
    with pytest.raises(ValueError, match="FAMOBalancing weighs by the losses of the whole batch"):
        compute_loss_func(losskit.build(text=f"loss_balancing: famo\n{TWO}"))
    generator = torch.Generator().manual_seed(0)
    outputs = {"word": torch.randn(4, 5, 4, generator=generator), "score": torch.randn(4, generator=generator)}
    labels = {"word": torch.randint(4, (4, 5), generator=generator), "score": torch.randn(4, generator=generator)}
    criterion = losskit.build(text=f"loss_balancing: uncertainty\n{TWO}")
    loss = compute_loss_func(criterion)
    halves = [{name: tensor[rows] for name, tensor in labels.items()} for rows in (slice(2), slice(2, 4))]
    counts = loss.counts(halves)
    total = sum(
        loss({name: tensor[rows] for name, tensor in outputs.items()}, half, counts)
        for rows, half in zip((slice(2), slice(2, 4)), halves, strict=True)
    )
    torch.testing.assert_close(total, criterion(outputs, labels).total)
    # The number of labels does not say of how many parts the batch consists.
    with pytest.raises(ValueError, match=r"how many micro-batches a step has.*CountsLabels"):
        loss(outputs, labels, 4)


def test_outputs_and_labels_of_several_features_have_their_names():
    loss = compute_loss_func(losskit.build(text=TWO))
    with pytest.raises(ValueError, match="the labels must be a mapping with 'word', 'score', got Tensor"):
        loss({}, torch.zeros(2), 2)
    with pytest.raises(ValueError, match="the model must return a mapping with 'word', 'score', got Tensor"):
        loss(torch.zeros(2), {}, 2)


class FakeTrainer:
    """What the Trainer has of what counting needs."""

    args = SimpleNamespace(average_tokens_across_devices=True)
    accelerator = SimpleNamespace(num_processes=1)

    def __init__(self, loss):
        self.compute_loss_func = loss

    def get_batch_samples(self, epoch_iterator, num_batches, device=None):
        return [next(epoch_iterator) for _ in range(num_batches)], None


def test_a_trainer_that_counts_labels_counts_all_batches_of_a_step():
    class Trainer(CountsLabels, FakeTrainer):
        pass

    trainer = Trainer(compute_loss_func(losskit.build(text=TWO)))
    batches = [
        {"labels": {"word": torch.tensor([[0, 3]]), "score": torch.zeros(2)}},
        {"labels": {"word": torch.tensor([[1, -100]]), "score": torch.zeros(1)}},
    ]
    samples, counts = trainer.get_batch_samples(iter(batches), 2, "cpu")
    assert samples == batches
    assert {key: count.item() for key, count in counts.items()} == {
        "word/softmax_cross_entropy": 7,
        "score/huber": 3,
        "score/mean_squared_error": 3,
    }
    assert counts.num_batches == 2
