"""What is special to losses that hold the model's output layer."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import losskit
from losskit import create_loss, get_loss_cls

EXACT = {"rtol": 3e-7, "atol": 1e-8}


def gradients(value, module, hidden):
    return torch.autograd.grad(value.sum(), [hidden, *module.parameters()])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"bias": True, "reduction": "sum"},
        {"label_smoothing": 0.2, "reduction": "none"},
        {"ignore_index": 3, "class_weights": [1.0, 2.0, 0.5, 1.0, 3.0, 1.0, 0.1]},
    ],
)
def test_linear_cross_entropy_is_torchs_in_values_gradients_and_initialisation(settings):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(20, 4, generator=generator).requires_grad_()
    ids = torch.randint(7, (20,), generator=generator)
    torch.manual_seed(1)
    ours = get_loss_cls("category", "linear_cross_entropy")(in_features=4, num_classes=7, **settings)
    torch.manual_seed(1)
    others = {"weight" if k == "class_weights" else k: v for k, v in settings.items()}
    if "weight" in others:
        others["weight"] = torch.tensor(others["weight"])
    theirs = nn.LinearCrossEntropyLoss(4, 7, **others)
    mine = {name: p.detach().clone() for name, p in ours.named_parameters()}
    torch.testing.assert_close(mine, {name: p.detach() for name, p in theirs.named_parameters()}, rtol=0, atol=0)
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if k != "weight"})
    for targets in (ids, torch.rand(20, 7, generator=generator).softmax(1)):
        if targets is not ids and "ignore_index" in settings:
            continue  # torch refuses the one beside the other
        found, expected = ours(hidden, targets), theirs(hidden, targets)
        torch.testing.assert_close(found, expected, **EXACT)
        for one, other in zip(gradients(found, ours, hidden), gradients(expected, theirs, hidden)):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_a_tied_head_is_that_of_the_model():
    decoder = nn.Linear(5, 3)
    hidden, ids = torch.randn(6, 4, 5), torch.randint(3, (6, 4))
    expected = nn.functional.cross_entropy(decoder(hidden).flatten(0, 1), ids.flatten())
    loss = {"type": "linear_cross_entropy", "inputs": {"weight": "lm_head", "bias": "lm_bias"}}
    criterion = losskit.build({"output_features": [{"name": "next", "type": "text", "loss": loss}]})
    given = {"hidden": hidden, "lm_head": decoder.weight, "lm_bias": decoder.bias}
    total, _ = criterion({"next": given}, {"next": ids})
    torch.testing.assert_close(total, expected)
    total.backward()
    assert decoder.weight.grad.abs().sum() > 0
    assert not list(criterion.parameters())


def test_the_feature_says_how_many_classes_there_are():
    for loss in (
        {"type": "linear_cross_entropy", "in_features": 5},
        {"type": "adaptive_log_softmax", "in_features": 5, "cutoffs": [2]},
    ):
        feature = {"name": "kind", "type": "category", "num_classes": 4, "loss": loss}
        criterion = losskit.build({"output_features": [feature]})
        total, _ = criterion({"kind": {"hidden": torch.zeros(2, 5)}}, {"kind": torch.tensor([0, 1])})
        assert total.item() == pytest.approx(torch.tensor(4.0 if loss["type"][0] == "l" else 3.0).log().item())


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "linear_cross_entropy",
            {"num_classes": 3},
            "needs `in_features` and `num_classes`, or neither for a layer that the model has",
        ),
        ("linear_cross_entropy", {"in_features": 5}, "`num_classes` .* is missing, and the feature does not say it"),
        ("linear_cross_entropy", {"inputs": {"weight": "w"}, "num_classes": 3}, "no effect: `inputs` names a `weight`"),
        ("linear_cross_entropy", {"inputs": {"weight": "w"}, "bias": True}, "has no effect on the model's own layer"),
        ("linear_cross_entropy", {"in_features": 5, "num_classes": 3, "inputs": {"bias": "b"}}, "but no `weight`"),
        ("adaptive_log_softmax", {"in_features": 5, "num_classes": 3}, "`cutoffs` .* is missing"),
        ("adaptive_log_softmax", {"in_features": 5, "num_classes": 3, "cutoffs": [2, 1]}, "must grow"),
        ("adaptive_log_softmax", {"in_features": 5, "num_classes": 3, "cutoffs": [3]}, "leaves none of 3 classes"),
        (
            "adaptive_log_softmax",
            {"in_features": 5, "num_classes": 3, "cutoffs": [1, 2]},
            "leaves nothing of 5 features",
        ),
    ],
)
def test_configs_that_cannot_be_built_say_what_is_missing(name, settings, message):
    with pytest.raises(losskit.ConfigError, match=message):
        create_loss(name, **settings)


@pytest.mark.parametrize("head_bias", [False, True])
@pytest.mark.parametrize("div_value", [4.0, 2.0])
def test_adaptive_log_softmax_is_torchs_in_values_gradients_and_initialisation(head_bias, div_value):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(50, 64, generator=generator).requires_grad_()
    ids = torch.randint(100, (50,), generator=generator)
    ids[:5] = torch.tensor([0, 9, 10, 29, 30])  # both sides of each cut
    sizes = {"cutoffs": [10, 30, 60], "div_value": div_value, "head_bias": head_bias}
    torch.manual_seed(1)
    theirs = nn.AdaptiveLogSoftmaxWithLoss(64, 100, **sizes)
    torch.manual_seed(1)
    ours = get_loss_cls("text", "adaptive_log_softmax")(in_features=64, num_classes=100, **sizes)
    torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()), rtol=0, atol=0)
    ours.load_state_dict(theirs.state_dict())
    found, expected = ours(hidden, ids.int()), theirs(hidden, ids).loss
    torch.testing.assert_close(found, expected, **EXACT)
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")(hidden, ids)
    for value in (found, compiled):
        for one, other in zip(gradients(value, ours, hidden), gradients(theirs(hidden, ids).loss, theirs, hidden)):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
    steps = ours(hidden.reshape(5, 10, 64), torch.where(ids < 60, ids, -100).reshape(5, 10))
    torch.testing.assert_close(steps, ours(hidden[ids < 60], ids[ids < 60]))


def test_adaptive_log_softmax_of_each_sample_under_vmap():
    loss = create_loss("adaptive_log_softmax", in_features=8, num_classes=6, cutoffs=[2])
    hidden, ids = torch.randn(5, 8), torch.tensor([0, 1, 2, 4, 5])
    each = torch.func.vmap(torch.func.grad(lambda h, y: loss(h.unsqueeze(0), y.unsqueeze(0))))(hidden, ids)
    (whole,) = torch.autograd.grad(loss(given := hidden.clone().requires_grad_(), ids) * 5, given)
    torch.testing.assert_close(each, whole)


def test_what_does_not_fit_the_layer_is_refused():
    hidden, ids = torch.randn(6, 4), torch.zeros(6, dtype=torch.long)
    linear = create_loss("linear_cross_entropy", in_features=5, num_classes=3)
    adaptive = create_loss("adaptive_log_softmax", in_features=5, num_classes=3, cutoffs=[1])
    with pytest.raises(ValueError, match=r"hidden \(6, 4\) and weight \(3, 5\) do not fit"):
        linear(hidden, ids)
    with pytest.raises(ValueError, match=r"hidden \(6, 4\) and the head's weight \(2, 5\) do not fit"):
        adaptive(hidden, ids)
    hidden = torch.randn(6, 5)
    with pytest.raises(ValueError, match=r"hidden \(6, 5\) and targets \(6, 1\) do not fit.*\(6,\)"):
        adaptive(hidden, ids.unsqueeze(1))
    with pytest.raises(
        ValueError, match=r"targets hold the class id 3 at index \(.*\), but there are 3 classes: 0 to 2"
    ):
        adaptive(hidden, ids + 3)
    with pytest.raises(TypeError, match="targets are float32, but class ids must be integers"):
        adaptive(hidden, ids.float())
    with pytest.raises(ValueError, match="has a layer of its own"):
        linear(hidden, ids, weight=torch.zeros(3, 5))
    tied = get_loss_cls("category", "linear_cross_entropy")()
    with pytest.raises(ValueError, match="has no layer of its own: give weight="):
        tied(hidden, ids)
    with pytest.raises(ValueError, match=r"bias \(2,\) and weight \(3, 5\)"):
        tied(hidden, ids, weight=torch.zeros(3, 5), bias=torch.zeros(2))


def test_a_head_of_the_model_comes_with_its_predictions():
    criterion = losskit.build(
        {"output_features": [{"name": "word", "type": "category", "loss": "linear_cross_entropy"}]}
    )
    hidden, weight, ids = torch.randn(4, 5), torch.randn(3, 5), torch.tensor([0, 1, 2, 0])
    total, _ = criterion({"word": {"hidden": hidden, "weight": weight}}, {"word": ids})
    torch.testing.assert_close(total, F.cross_entropy(hidden @ weight.T, ids))
    with pytest.raises(ValueError, match="word/linear_cross_entropy: the loss has no layer of its own: give weight="):
        criterion({"word": hidden}, {"word": ids})
