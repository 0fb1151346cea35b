"""Registering losses in every form, looking them up, and what goes wrong."""

from typing import Literal, Optional

import pytest
import torch
from torch import nn

import losskit
from losskit import get_loss_classes, get_loss_cls, register_loss
from losskit.constants import CATEGORY, FEATURE_TYPES, LOGITS, NUMBER, TIMESERIES, VECTOR
from losskit.modules import LogitsInputsMixin
from losskit.registry import RegistrationError, UnknownLossError
from losskit.schema import BaseLossConfig, dataclass
from losskit.schema import fields as schema_utils

pytestmark = pytest.mark.usefixtures("losses")


def config(loss, feature_type="number"):
    return {"output_features": [{"name": "f", "type": feature_type, "loss": loss}]}


def value(loss, predictions, targets, feature_type="number"):
    criterion = losskit.build(config(loss, feature_type))
    return criterion({"f": torch.tensor(predictions)}, {"f": torch.tensor(targets)}).total.item()


# The forms


def test_trivial_subclass_of_a_torch_loss():
    @register_loss("my_mae", [NUMBER, TIMESERIES, VECTOR])
    class MAELoss(torch.nn.L1Loss, LogitsInputsMixin):
        def __init__(self, **kwargs):
            super().__init__()

    assert get_loss_cls(NUMBER, "my_mae") is MAELoss
    assert value({"type": "my_mae", "weight": 2.0}, [1.0, 2.0], [0.0, 0.0]) == 3.0
    (problem,) = losskit.validate(config({"type": "my_mae", "delta": 1}))
    assert problem.code == "LK201"


def test_module_with_settings_in_its_signature():
    @register_loss("my_tempered", [CATEGORY])
    class Tempered(torch.nn.Module, LogitsInputsMixin):
        def __init__(self, t1: float = 1.0, t2: float = 1.0, **kwargs):
            super().__init__()
            self.t1, self.t2 = t1, t2

        def forward(self, logits, target):
            return self.t1 * self.t2 * nn.functional.cross_entropy(logits, target.long())

    plain = value("my_tempered", [[1.0, 0.0]], [0], "category")
    assert value({"type": "my_tempered", "t1": 3, "t2": 0.5}, [[1.0, 0.0]], [0], "category") == pytest.approx(
        1.5 * plain
    )
    (problem,) = losskit.validate(config({"type": "my_tempered", "t1": "3"}, "category"))
    assert "must be a number" in problem.message


def test_module_with_get_schema_cls():
    @dataclass
    class MyMAELossConfig(BaseLossConfig):
        type: str = schema_utils.StringOptions(options=["my_mae"], description="Type of loss.")
        weight: float = schema_utils.NonNegativeFloat(default=1.0, description="Weight of the loss.")

    @register_loss("my_mae", [NUMBER])
    class MAELoss(torch.nn.L1Loss, LogitsInputsMixin):
        def __init__(self, **kwargs):
            super().__init__()

        @staticmethod
        def get_schema_cls():
            return MyMAELossConfig

    loaded = losskit.load(config({"type": "my_mae", "weight": 0.5})).features[0].losses[0]
    assert isinstance(loaded, MyMAELossConfig)
    assert (loaded.type, loaded.weight) == ("my_mae", 0.5)
    assert losskit.validate(config({"type": "my_mae", "weight": -1}))[0].code == "LK203"


def test_module_with_schema_argument():
    @dataclass
    class ScaledConfig(BaseLossConfig):
        scale: float = schema_utils.PositiveFloat(default=2.0, description="A factor.")

    @register_loss("scaled", NUMBER, schema=ScaledConfig)
    class Scaled(nn.Module):
        def __init__(self, *, scale: float = 2.0):
            super().__init__()
            self.scale = scale

        def forward(self, predictions, targets):
            return self.scale * (predictions - targets).abs().mean()

    assert value("scaled", [1.0], [0.0]) == 2.0
    assert value({"type": "scaled", "scale": 3.0}, [1.0], [0.0]) == 3.0
    assert ScaledConfig().type == "scaled"


def test_class_one_does_not_own():
    register_loss("my_huber", [NUMBER], aliases=["mh"])(nn.HuberLoss)
    entry = losskit.registry.registry.get("mh")
    assert entry.name == "my_huber"
    assert set(entry.schema["properties"]) == {"type", "reduction", "delta", "weight", "name", "inputs"}
    assert entry.schema["properties"]["reduction"]["enum"] == ["mean", "sum"]
    assert value({"type": "mh", "delta": 0.5, "reduction": "sum"}, [1.0, 1.0], [0.0, 0.0]) == 0.75

    register_loss("my_ce", [CATEGORY])(nn.CrossEntropyLoss)
    entry = losskit.registry.registry.get("my_ce")
    assert entry.left_out == ("weight", "size_average", "reduce")
    assert value({"type": "my_ce", "label_smoothing": 0.1}, [[1.0, 0.0]], [0], "category") > 0

    register_loss("my_triplet", [VECTOR])(nn.TripletMarginLoss)
    entry = losskit.registry.registry.get("my_triplet")
    assert (entry.inputs, entry.targets) == (("anchor", "positive", "negative"), ())

    register_loss("my_cosine", [VECTOR])(nn.CosineEmbeddingLoss)
    entry = losskit.registry.registry.get("my_cosine")
    assert (entry.inputs, entry.targets) == (("input1", "input2"), ("targets",))


@register_loss("module_level", NUMBER, registry=losskit.registry.Registry())
def scaled_error(predictions, targets, *, scale: float = 1.0, power: int = 1):
    """The error, scaled. More text."""
    return scale * (predictions - targets).abs().pow(power).mean()


def test_plain_function():
    register_loss("scaled_error", [NUMBER])(scaled_error)
    assert value("scaled_error", [2.0], [0.0]) == 2.0
    assert value({"type": "scaled_error", "scale": 0.5, "power": 2}, [2.0], [0.0]) == 2.0
    assert losskit.registry.registry.get("scaled_error").summary == "The error, scaled"
    import pickle

    module = losskit.create_loss("scaled_error", scale=3.0)
    assert "scale=3.0" in repr(module)
    assert pickle.loads(pickle.dumps(module))(torch.tensor([1.0]), torch.tensor([0.0])) == 3.0
    assert scaled_error(torch.tensor([1.0]), torch.tensor([0.0])) == 1.0, "the function stays as it is"


def test_signature_with_every_kind_of_setting():
    class Everything(nn.Module):
        def __init__(
            self,
            flag: bool = False,
            count: int = 3,
            share=0.5,
            mode: Literal["a", "b"] = "a",
            limit: Optional[float] = None,  # noqa: UP045
            sizes: list[int] = [1, 2],  # noqa: B006
            table: dict[str, float] = {},  # noqa: B006
            either: "int | str" = 1,
            tensor: torch.Tensor = None,
            function=abs,
            **kwargs,
        ):
            super().__init__()

        def forward(self, predictions, targets):
            return predictions.sum()

    register_loss("everything")(Everything)
    entry = losskit.registry.registry.get("everything")
    properties = entry.schema["properties"]
    assert entry.feature_types == FEATURE_TYPES
    assert entry.left_out == ("tensor", "function")
    assert properties["flag"]["type"] == "boolean"
    assert properties["count"]["type"] == "integer"
    assert properties["share"] == {
        "type": "number",
        "default": 0.5,
        "markdownDescription": properties["share"]["markdownDescription"],
    }
    assert properties["mode"]["enum"] == ["a", "b"]
    assert properties["limit"]["type"] == ["number", "null"]
    assert properties["sizes"]["items"] == {"type": "integer"}
    assert properties["table"]["additionalProperties"] == {"type": "number"}
    assert properties["either"]["anyOf"] == [{"type": "integer"}, {"type": "string"}]
    good = {"type": "everything", "count": 5, "mode": "b", "limit": 1, "sizes": [], "either": "x", "table": {"k": 1}}
    assert losskit.validate({"losses": [good]}) == []
    loaded = losskit.load({"losses": [good]}).features[0].losses[0]
    assert (loaded.count, loaded.mode, loaded.limit, loaded.either) == (5, "b", 1.0, "x")
    bad = {"type": "everything", "count": 2.5, "mode": "c", "limit": "1", "sizes": [1.5], "either": 2.5, "flag": 1}
    assert len(losskit.validate({"losses": [bad]})) == 6


def test_losses_that_return_several_values():
    @register_loss("two", [NUMBER])
    class Two(nn.Module):
        def forward(self, predictions, targets):
            return {"near": (predictions - targets).abs().mean(), "far": predictions.abs().mean()}

    criterion = losskit.build(config({"type": "two", "weight": 2.0}))
    total, parts = criterion({"f": torch.tensor([1.0])}, {"f": torch.tensor([3.0])})
    assert total == 6.0
    assert parts == {"f/two/near": 2.0, "f/two/far": 1.0}


# Conflicts and mistakes


def test_name_that_is_taken_names_both_sides():
    with pytest.raises(RegistrationError, match=r"'huber' of .*Mine is taken by losskit.modules.regression:HuberLoss"):

        @register_loss("huber", NUMBER)
        class Mine(nn.Module):
            pass

    with pytest.raises(RegistrationError, match="'mse'"):
        register_loss("mine", NUMBER, aliases=["mse"])(nn.L1Loss)
    assert losskit.create_loss("huber").delta == 1.0
    assert "mine" not in losskit.losses()


def test_running_a_cell_again_is_no_conflict():
    def cell(default):
        class Cell(nn.Module):
            def __init__(self, scale: float = default):
                super().__init__()

            def forward(self, predictions, targets):
                return predictions.sum()

        return register_loss("cell", [NUMBER], aliases=["c"] if default == 1.0 else [])(Cell)

    cell(1.0)
    second = cell(2.0)
    assert get_loss_cls(NUMBER, "cell") is second
    assert losskit.registry.registry.get("cell").schema["properties"]["scale"]["default"] == 2.0
    with pytest.raises(UnknownLossError):
        get_loss_cls(NUMBER, "c")


class NoDefault(nn.Module):
    def __init__(self, classes: int):
        super().__init__()


class NoDefaultTensor(nn.Module):
    def __init__(self, prior: torch.Tensor):
        super().__init__()


@dataclass
class OtherNameConfig(BaseLossConfig):
    type: str = schema_utils.StringOptions(options=["another"])


@dataclass
class ExtraSettingConfig(BaseLossConfig):
    extra: float = schema_utils.Float(default=1.0)


class UndecoratedConfig(BaseLossConfig):
    extra: float = 1.0


class Strict(nn.Module):
    def __init__(self):
        super().__init__()


MISTAKES = {
    "unknown feature type": (lambda: register_loss("x", ["numbr"]), "no feature type 'numbr'; did you mean 'number'"),
    "no feature type": (lambda: register_loss("x", []), "at least one feature type"),
    "no module": (lambda: register_loss("x")(dict), "dict is no torch.nn.Module"),
    "no function": (lambda: register_loss("x")(3), "must be an nn.Module class or a function, got 3"),
    "no name": (lambda: register_loss("")(nn.L1Loss), "must be text"),
    "no default": (lambda: register_loss("x")(NoDefault), "'classes' of type int has no default; give it one"),
    "no default, no YAML": (
        lambda: register_loss("x")(NoDefaultTensor),
        r"'prior' of type Tensor has no default and YAML cannot hold it; give it .*schema=.*get_schema_cls",
    ),
    "other type": (lambda: register_loss("x", schema=OtherNameConfig)(nn.L1Loss), "allows 'another', not 'x'"),
    "setting that is not taken": (
        lambda: register_loss("x", schema=ExtraSettingConfig)(Strict),
        "does not take the setting 'extra' of ExtraSettingConfig",
    ),
    "undecorated config": (
        lambda: register_loss("x", schema=UndecoratedConfig)(nn.L1Loss),
        "not decorated with @dataclass",
    ),
    "no config": (lambda: register_loss("x", schema=dict)(nn.L1Loss), "no subclass of losskit.schema.BaseLossConfig"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_an_error_when_registering(mistake):
    register, message = MISTAKES[mistake]
    with pytest.raises(RegistrationError, match=message):
        register()
    assert "x" not in losskit.losses()


def test_targets_that_come_before_predictions_are_refused():
    with pytest.raises(RegistrationError, match=r"targets before predictions \(input, target, var\); wrap it"):
        register_loss("gaussian", NUMBER)(nn.GaussianNLLLoss)
    with pytest.raises(RegistrationError, match="targets before predictions"):
        register_loss("keras", NUMBER)(lambda y_true, y_pred: (y_pred - y_true).mean())


def test_two_functions_without_a_name_are_two_losses():
    register_loss("nameless", NUMBER)(lambda p, t: (p - t).mean())
    with pytest.raises(RegistrationError, match="'nameless'"):
        register_loss("nameless", NUMBER)(lambda p, t: (p + t).mean())


def test_a_single_alias_may_be_text():
    register_loss("with_alias", NUMBER, aliases="abc")(nn.L1Loss)
    assert losskit.registry.registry.get("abc").aliases == ("abc",)


def test_a_refused_registration_leaves_no_trace():
    @dataclass
    class TraceLossConfig(BaseLossConfig):
        scale: float = schema_utils.Float(default=1.0, description="A factor.")

    class Trace(nn.Module):
        def __init__(self, scale: float = 1.0):
            super().__init__()
            self.scale = scale

        def forward(self, predictions, targets):
            return self.scale * predictions.sum()

    with pytest.raises(RegistrationError):
        register_loss("huber", NUMBER, schema=TraceLossConfig)(Trace)
    register_loss("trace", NUMBER, schema=TraceLossConfig)(Trace)
    assert TraceLossConfig().type == "trace"
    assert losskit.create_loss(TraceLossConfig(scale=2.0)).scale == 2.0


def test_a_class_of_ours_under_another_name_is_a_loss_of_its_own():
    from losskit.modules import FocalLoss
    from losskit.schema import FocalLossConfig

    register_loss("my_focal", "binary", schema=FocalLossConfig)(FocalLoss)
    entry = losskit.registry.registry.get("my_focal")
    assert not entry.is_built_in
    assert entry.schema["title"] == "my_focal"
    assert losskit.registry.registry.get("focal").is_built_in


# Looking up


def test_lookups():
    assert get_loss_classes(NUMBER)["huber"] is get_loss_cls(NUMBER, "huber")
    assert "dice" not in losskit.losses(NUMBER)
    assert losskit.losses() == sorted(losskit.losses())
    assert get_loss_cls(NUMBER, "mse") is get_loss_cls(NUMBER, "mean_squared_error")
    assert get_loss_cls(NUMBER, "huber").get_loss_inputs() == LOGITS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("number", "hubr"), "no loss named 'hubr'; did you mean huber"),
        (("number", "HuberLoss"), "did you mean huber"),
        (("number", "dice"), "'dice' is a loss for image, not for number, which takes mean_squared_error"),
        (("category", "xyzzy"), "no loss named 'xyzzy'$"),
    ],
)
def test_unknown_losses(arguments, message):
    with pytest.raises(UnknownLossError, match=message):
        get_loss_cls(*arguments)


def test_unknown_feature_type():
    with pytest.raises(UnknownLossError, match="did you mean 'number'"):
        losskit.losses("numbers")


def test_what_others_call_a_loss_is_suggested():
    from losskit.registry import CALLED_ELSEWHERE, registry

    for name, ours in CALLED_ELSEWHERE.items():
        assert registry.find(name) is None, name
        assert registry.suggest(name) == [ours]
        assert registry.meant(name) is None, "losses of other names may differ, so nothing is changed"
