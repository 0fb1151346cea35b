"""The weighted sum of losses, and what is told when something is missing or too much."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import losskit
from losskit import LossOutput, MultiTaskLoss, register_loss
from losskit.registry import RegistrationError

CONFIG = """
output_features:
  - {name: price, type: number, loss: [huber, {type: mse, weight: 0.5, name: square}]}
  - {name: species, type: category, loss: {type: cross_entropy, weight: 2}}
  - {name: face, type: vector, loss: {type: triplet_margin, inputs: {anchor: query, positive: caption.embedding}}}
  - {name: demand, type: timeseries}
"""


@pytest.fixture
def criterion():
    return losskit.build(text=CONFIG)


@pytest.fixture
def batch():
    torch.manual_seed(0)
    predictions = {
        "price": torch.randn(4, requires_grad=True),
        "species": {"logits": torch.randn(4, 3, requires_grad=True), "probabilities": None},
        "face": {"query": torch.randn(4, 8, requires_grad=True), "negative": torch.randn(4, 8)},
        "caption": {"embedding": torch.randn(4, 8)},
        "demand": torch.randn(4, 7),
    }
    targets = {"price": torch.randn(4), "species": torch.tensor([0, 1, 2, 0]), "demand": {"targets": torch.randn(4, 7)}}
    return predictions, targets


def test_total_is_the_weighted_sum_and_parts_are_unweighted(criterion, batch):
    predictions, targets = batch
    output = criterion(predictions, targets)
    expected = {
        "price/huber": F.huber_loss(predictions["price"], targets["price"]),
        "price/square": F.mse_loss(predictions["price"], targets["price"]),
        "species/softmax_cross_entropy": F.cross_entropy(predictions["species"]["logits"], targets["species"]),
        "face/triplet_margin": F.triplet_margin_loss(
            predictions["face"]["query"], predictions["caption"]["embedding"], predictions["face"]["negative"]
        ),
        "demand/huber": F.huber_loss(predictions["demand"], targets["demand"]["targets"]),
    }
    assert isinstance(output, LossOutput)
    assert list(output.parts) == list(expected)
    torch.testing.assert_close(output.parts, {key: value.detach() for key, value in expected.items()})
    weights = [1, 0.5, 2, 1, 1]
    torch.testing.assert_close(output.total, sum(w * v for w, v in zip(weights, expected.values())))
    assert not any(part.requires_grad for part in output.parts.values())
    output.total.backward()
    assert predictions["face"]["query"].grad.abs().sum() > 0


MISTAKES = {
    "missing prediction": (
        lambda p, t: p.pop("price"),
        "price/huber: the predictions of the feature 'price' are missing",
    ),
    "superfluous prediction": (lambda p, t: p.update(prize=p["price"]), "predictions hold 'prize', but the features"),
    "superfluous target": (lambda p, t: t.update(caption=p["price"]), "targets hold 'caption', but the features"),
    "missing role": (
        lambda p, t: p["face"].pop("negative"),
        "face/triplet_margin: nothing fills its input 'negative'; the predictions of 'face' are a mapping with 'query'",
    ),
    "missing renamed role": (
        lambda p, t: p["face"].pop("query"),
        r"nothing fills its input 'anchor' \(`inputs` says 'query'\)",
    ),
    "missing other feature": (
        lambda p, t: p.pop("caption"),
        r"nothing fills its input 'positive' \(`inputs` says 'caption.embedding'\); .* those of 'caption' are missing",
    ),
    "tensor for several roles": (
        lambda p, t: p.update(face=p["price"]),
        "the predictions of 'face' are a single tensor",
    ),
    "missing logits": (lambda p, t: p["species"].pop("logits"), "nothing fills its input 'logits'; .*'probabilities'"),
    "missing key of targets": (
        lambda p, t: t.update(demand={"labels": p["demand"]}),
        "demand/huber: nothing fills its target 'targets'; the targets of 'demand' are a mapping with 'labels'",
    ),
    "wrong shape": (
        lambda p, t: p.update(price=p["price"].unsqueeze(-1)),
        r"price/huber: predictions \(4, 1\) and targets \(4,\) differ in shape .*squeeze\(-1\)",
    ),
    "class out of range": (
        lambda p, t: t.update(species=t["species"] + 1),
        r"species/softmax_cross_entropy: targets hold the class id 3 at index \(2,\), but the logits .* have 3 classes",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_names_the_feature(criterion, batch, mistake):
    predictions, targets = batch
    change, message = MISTAKES[mistake]
    change(predictions, targets)
    with pytest.raises(ValueError, match=message):
        criterion(predictions, targets)


def test_mappings_are_asked_for(criterion):
    with pytest.raises(TypeError, match="predictions must be a mapping from feature to tensor, got Tensor"):
        criterion(torch.randn(3), {})
    with pytest.raises(TypeError, match="targets must be a mapping"):
        criterion({}, torch.randn(3))


def test_wrong_dtype_names_the_feature(criterion, batch):
    predictions, targets = batch
    predictions["price"] = torch.arange(4)
    with pytest.raises(TypeError, match=r"price/huber: predictions are int64, .*predictions.float\(\)"):
        criterion(predictions, targets)


@pytest.mark.parametrize("name", ["type", "items", "a.b", "a/b", "forward", "training", ""])
def test_features_may_have_any_name(name):
    if not name:
        assert losskit.validate({"output_features": [{"name": name, "type": "number"}]})
        return
    criterion = losskit.build({"output_features": [{"name": name, "type": "number"}]})
    assert criterion({name: torch.ones(2)}, {name: torch.zeros(2)}).parts == {f"{name}/mean_squared_error": 1.0}


def test_inputs_may_come_from_a_feature_with_dots_in_its_name():
    loss = {"type": "huber", "inputs": {"logits": "a.b.mean"}}
    criterion = losskit.build({"output_features": [{"name": "p", "type": "number", "loss": loss}]})
    output = criterion({"a.b": {"mean": torch.ones(2)}}, {"p": torch.zeros(2)})
    assert output.total == 0.5


def test_a_tensor_of_another_feature_is_its_logits():
    loss = {"type": "huber", "inputs": {"logits": "b.logits"}}
    criterion = losskit.build({"output_features": [{"name": "p", "type": "number", "loss": loss}]})
    assert criterion({"b": torch.ones(2)}, {"p": torch.zeros(2)}).total == 0.5


def test_losses_of_one_type_have_distinct_keys():
    loss = ["huber", {"type": "huber", "delta": 2}, {"type": "mse", "name": "huber_2"}, "huber"]
    criterion = losskit.build({"output_features": [{"name": "p", "type": "number", "loss": loss}]})
    assert len(set(criterion.keys)) == 4
    assert criterion.keys[0] == "p/huber"
    assert "p/huber_2" in criterion.keys


def test_losses_without_a_feature_take_tensors_or_mappings():
    criterion = losskit.build(text="losses: [cross_entropy, {type: focal, weight: 0.5}]")
    logits, targets = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    output = criterion(logits, targets)
    assert list(output.parts) == ["softmax_cross_entropy", "focal"]
    assert criterion({"logits": logits}, {"targets": targets}).total == output.total
    criterion = losskit.build(text="losses: [triplet_margin]")
    roles = {role: torch.randn(4, 3) for role in ("anchor", "positive", "negative")}
    assert criterion(roles).total > 0


def test_images_without_a_class_axis_are_refused():
    criterion = losskit.build({"output_features": [{"name": "m", "type": "image"}]})
    with pytest.raises(ValueError, match=r"m/softmax_cross_entropy: logits \(4, 8, 8\) of an image .*dice, focal"):
        criterion({"m": torch.randn(4, 8, 8)}, {"m": torch.rand(4, 8, 8)})


def test_sequences_have_their_classes_last():
    # As many steps as classes, so that only the feature type says which axis is which.
    criterion = losskit.build({"output_features": [{"name": "s", "type": "sequence", "loss": "cross_entropy"}]})
    logits, targets = torch.randn(2, 3, 3), torch.randint(3, (2, 3))
    expected = F.cross_entropy(logits.movedim(-1, 1), targets)
    torch.testing.assert_close(criterion({"s": logits}, {"s": targets}).total, expected)


def test_class_weights_by_name_follow_the_order_of_the_classes():
    feature = {"name": "c", "type": "category", "classes": ["x", "y"]}
    by_name = losskit.build(
        {"output_features": [{**feature, "loss": {"type": "cross_entropy", "class_weights": {"y": 3, "x": 1}}}]}
    )
    by_list = losskit.build(
        {"output_features": [{**feature, "loss": {"type": "cross_entropy", "class_weights": [1, 3]}}]}
    )
    logits, targets = torch.randn(6, 2), torch.randint(2, (6,))
    assert by_name({"c": logits}, {"c": targets}).total == by_list({"c": logits}, {"c": targets}).total


def test_criterion_is_one_graph_under_compile(criterion, batch):
    predictions, targets = batch
    torch._dynamo.reset()
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    output = compiled(predictions, targets)
    torch.testing.assert_close(output.total, criterion(predictions, targets).total)
    output.total.backward()


def test_criterion_is_copied_pickled_and_saved(criterion, batch):
    expected = criterion(*batch).total
    for other in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        assert other(*batch).total == expected
    assert criterion.state_dict() == {}


@pytest.mark.usefixtures("losses")
def test_parameters_of_losses_are_those_of_the_criterion():
    @register_loss("learned_scale", ["number"])
    class LearnedScale(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, predictions, targets):
            return (self.scale * predictions - targets).square().mean()

    criterion = losskit.build(text="losses: [learned_scale]")
    assert isinstance(criterion, MultiTaskLoss)
    assert [name for name, _ in criterion.named_parameters()] == ["losses.0.scale"]


@pytest.mark.usefixtures("losses")
@pytest.mark.parametrize(
    ("result", "message"),
    [(lambda p: 3.0, "returned float"), (lambda p: p, r"returned a tensor of shape \(2,\)")],
)
def test_losses_that_return_no_scalar_are_named(result, message):
    register_loss("odd", ["number"])(lambda predictions, targets: result(predictions))
    criterion = losskit.build({"output_features": [{"name": "p", "type": "number", "loss": "odd"}]})
    with pytest.raises(TypeError, match=f"p/odd: the loss {message}"):
        criterion({"p": torch.ones(2)}, {"p": torch.ones(2)})


def test_config_objects_are_checked_too():
    from losskit.schema import HuberLossConfig

    assert losskit.create_loss(HuberLossConfig(delta=2.0)).delta == 2.0
    assert losskit.create_loss(HuberLossConfig(), delta=5.0).delta == 5.0
    with pytest.raises(losskit.ConfigError, match="greater than 0"):
        losskit.create_loss(HuberLossConfig(delta=-1.0))
    with pytest.raises(losskit.ConfigError, match="not for image"):
        losskit.create_loss(HuberLossConfig(), feature_type="image")
    with pytest.raises(TypeError, match="a name, a mapping with `type` or a config, got NoneType"):
        losskit.create_loss(None)


@pytest.mark.usefixtures("losses")
def test_errors_of_torch_name_the_feature_too():
    register_loss("torch_ce", ["category"])(nn.CrossEntropyLoss)
    criterion = losskit.build({"output_features": [{"name": "c", "type": "category", "loss": "torch_ce"}]})
    with pytest.raises(IndexError, match="c/torch_ce: Target 7 is out of bounds"):
        criterion({"c": torch.randn(2, 3)}, {"c": torch.tensor([0, 7])})


def test_a_loss_is_named_once():
    with pytest.raises(TypeError, match="named by the first argument"):
        losskit.create_loss("huber", type="mse")


def test_a_loss_may_be_named_by_its_type_alone():
    # Hydra and skorch pass on the keys of a config as keywords.
    assert losskit.create_loss(type="huber", delta=0.5).delta == 0.5
    with pytest.raises(losskit.ConfigError, match='no loss named "hubr"'):
        losskit.create_loss(type="hubr")
    with pytest.raises(losskit.ConfigError, match="`type` must be the name of a loss, got 5"):
        losskit.create_loss(type=5)


class WeighedError(torch.nn.Module):
    """Takes a scale and a mask where they are there."""

    @classmethod
    def get_loss_inputs(cls):
        return "predictions"

    @classmethod
    def get_optional_loss_inputs(cls):
        return "scale"

    @classmethod
    def get_optional_loss_targets(cls):
        return ("mask",)

    def forward(self, predictions, targets, *, scale=1.0, mask=1.0):
        return (scale * mask * (predictions - targets).abs()).sum()


@pytest.mark.usefixtures("losses")
def test_optional_roles_are_taken_where_they_are_there():
    losskit.register_loss("weighed_error", ["number"])(WeighedError)
    feature = {"name": "x", "type": "number", "loss": "weighed_error"}
    criterion = losskit.build({"output_features": [feature]})
    ones, zeros = torch.ones(2), torch.zeros(2)
    assert criterion({"x": ones}, {"x": zeros}).total == 2
    mask = torch.tensor([1.0, 0.0])
    assert criterion({"x": {"predictions": ones, "scale": 3.0}}, {"x": {"targets": zeros, "mask": mask}}).total == 3
    feature["loss"] = {"type": "weighed_error", "inputs": {"scale": "y.size"}}
    criterion = losskit.build({"output_features": [feature, {"name": "y", "type": "number", "loss": "mse"}]})
    predictions = {"x": ones, "y": {"logits": ones, "size": 5.0}}
    assert criterion(predictions, {"x": zeros, "y": ones}).total == 10
    with pytest.raises(ValueError, match="nothing fills its input 'scale'"):
        criterion({"x": ones, "y": ones}, {"x": zeros, "y": ones})


@pytest.mark.usefixtures("losses")
def test_optional_roles_must_be_parameters_of_forward():
    class Forgetful(WeighedError):
        def forward(self, predictions, targets, *, scale=1.0):
            return (scale * (predictions - targets).abs()).sum()

    with pytest.raises(RegistrationError, match=r"get_optional_loss_targets\(\) names 'mask'"):
        losskit.register_loss("forgetful", ["number"])(Forgetful)


def test_multi_is_a_list_of_losses_with_weights():
    losses = [{"type": "mse", "weight": 0.3, "params": {}}, {"type": "huber", "weight": 0.7}]
    one, other = losskit.build({"losses": [{"type": "multi", "params": losses}]}), losskit.build({"losses": losses})
    x, y = torch.randn(4), torch.randn(4)
    assert one(x, y) == other(x, y)
    assert list(one(x, y).parts) == ["mean_squared_error", "huber"]


def test_targets_may_be_called_otherwise():
    loss = {"type": "m4c_decoding_bce_with_mask", "inputs": {"mask": "train_loss_mask", "targets": "answers"}}
    criterion = losskit.build({"output_features": [{"name": "x", "type": "set", "loss": loss}]})
    logits, answers, mask = torch.randn(4, 3), torch.rand(4, 3), torch.tensor([1.0, 0.0, 1.0, 0.0])
    total, _ = criterion({"x": logits}, {"x": {"answers": answers, "train_loss_mask": mask}})
    expected = F.binary_cross_entropy_with_logits(logits[::2], answers[::2], reduction="sum") / 2
    torch.testing.assert_close(total, expected)
    with pytest.raises(ValueError, match=r"nothing fills its target 'mask' \(`inputs` says 'train_loss_mask'\)"):
        criterion({"x": logits}, {"x": {"answers": answers}})
    (problem,) = losskit.validate({"losses": [{"type": "mse", "inputs": {"mask": "m"}}]})
    assert problem.help == "`mean_squared_error` takes logits, targets"


def test_settings_without_a_type_are_those_of_the_default_loss():
    feature = {"name": "x", "type": "timeseries", "loss": {"weight": 2, "delta": 0.5}}
    criterion = losskit.build({"output_features": [feature]})
    total, parts = criterion({"x": torch.tensor([[3.0]])}, {"x": torch.zeros(1, 1)})
    assert parts == {"x/huber": F.huber_loss(torch.tensor(3.0), torch.tensor(0.0), delta=0.5)}
    assert total == 2 * parts["x/huber"]


def test_targets_may_be_those_of_what_is_no_feature():
    text = "output_features: [{name: a, type: number, loss: {type: huber, inputs: {targets: b.c}}}]"
    total, _ = losskit.build(text=text)({"a": torch.zeros(2)}, {"b": {"c": torch.ones(2)}})
    assert total == 0.5
