"""Old names of losses and settings: they work, with a warning that can be cured."""

from typing import ClassVar

import jsonschema
import pytest
import torch

import losskit
from losskit import create_loss, register_loss
from losskit.fixing import fix
from losskit.registry import RegistrationError, registry
from losskit.schema import BaseLossConfig, dataclass
from losskit.schema import fields as schema_utils
from losskit.schema.document import LossRow, config_schema

TEXT = "output_features:\n  - {name: a, type: number, loss: {type: tilted, tau: 0.9}}  # ours\n"


@pytest.fixture
def tilted_error(losses):
    @dataclass
    class TiltedErrorLossConfig(BaseLossConfig):
        renamed_settings: ClassVar[dict[str, str]] = {"tau": "quantile"}

        quantile: float = schema_utils.FloatRange(default=0.5, min=0, max=1, description="Which quantile it is.")

    @register_loss("tilted_error", ["number"], schema=TiltedErrorLossConfig, deprecated_aliases="tilted")
    def tilted_error_loss(predictions, targets, *, quantile: float = 0.5):
        """The absolute error, tilted."""
        errors = targets - predictions
        return torch.maximum(quantile * errors, (quantile - 1) * errors).mean()


def found(text):
    return [(d.code, d.severity, d.column, d.message, d.suggestion) for d in losskit.validate(text=text)]


def test_old_names_work_with_a_warning(tilted_error):
    assert found(TEXT) == [
        ("LK301", "warning", 42, '"tilted" is an old name of `tilted_error` and will go away', "tilted_error"),
        ("LK301", "warning", 50, "`tau` is the old name of `quantile` and will go away", "quantile"),
    ]
    assert create_loss({"type": "tilted", "tau": 0.9}).settings == {"quantile": 0.9}
    total = losskit.build(text=TEXT)({"a": torch.zeros(1)}, {"a": torch.ones(1)}).total
    torch.testing.assert_close(total, torch.tensor(0.9))


def test_old_names_are_cured(tilted_error):
    fixed = fix(TEXT, "a.yaml")
    assert fixed.text == TEXT.replace("tilted, tau", "tilted_error, quantile")
    assert fixed.cured == 2
    assert found(fixed.text) == []


def test_old_and_new_name_of_a_setting_do_not_stand_together(tilted_error):
    text = "losses: [{type: tilted_error, tau: 0.9, quantile: 0.5}]"
    assert found(text) == [("LK002", "error", 31, "`tau` and `quantile` are the same setting", None)]
    assert fix(text, None).text == text


def test_values_under_old_names_have_their_limits(tilted_error):
    assert [code for code, *_ in found("losses: [{type: tilted_error, tau: 2}]")] == ["LK301", "LK203"]


def test_old_names_are_not_suggested_or_shown(tilted_error, capsys):
    assert registry.suggest("tilted_err") == ["tilted_error"]
    (problem,) = losskit.validate(text="losses: [{type: tilted_error, ta: 1}]")
    assert (problem.suggestion, problem.help) == (None, "settings of `tilted_error`: quantile, weight")
    from losskit.cli import main

    assert main(["show", "tilted_error"]) == 0
    assert "tau" not in capsys.readouterr().out


def test_the_schema_of_editors_accepts_them(tilted_error):
    schema = config_schema(LossRow(e.names, e.feature_types, e.summary, e.schema) for e in registry.entries())
    validator = jsonschema.Draft7Validator(schema)
    assert validator.is_valid({"output_features": [{"name": "a", "type": "number", "loss": "tilted"}]})
    assert validator.is_valid({"losses": [{"type": "tilted", "tau": 0.1}]})
    assert not validator.is_valid({"losses": [{"type": "tilted", "tau": 2}]})
    assert schema["definitions"]["loss_tilted_error"]["properties"]["tau"]["deprecated"] is True


@pytest.mark.parametrize("renamed", [{"tau": "nothing"}, {"quantile": "weight"}])
def test_mistakes_in_renamed_settings(losses, renamed):
    @dataclass
    class WrongLossConfig(BaseLossConfig):
        renamed_settings: ClassVar[dict[str, str]] = renamed

        quantile: float = schema_utils.FloatRange(default=0.5, min=0, max=1, description="Which quantile it is.")

    with pytest.raises(RegistrationError, match="must be no setting"):

        @register_loss("wrong", ["number"], schema=WrongLossConfig)
        def wrong_loss(predictions, targets, *, quantile: float = 0.5):
            """An error."""
            return predictions.sum()
