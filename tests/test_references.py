"""Every loss, with every setting, agrees with its textbook form in float64."""

from itertools import combinations

import numpy as np
import pytest
import torch

from losskit.constants import SEQUENCE, TEXT
from losskit.modules.batches import Batch, cast
from losskit.modules.contract import alternatives, subject_of, total_of
from losskit.registry import registry
from losskit.schema.base import FeatureContext
from tests.references import references

REFERENCES = references()


def variants(subject, feature_type):
    """The default settings, each setting changed alone, and each beside another one that it may need."""
    properties = subject.entry.schema["properties"]
    names = [f.name for f in subject.config.setting_fields() if f.name not in subject.config.example_settings]
    changes = [{name: value} for name in names for value in alternatives(properties[name])]
    pairs = [{**one, **other} for one, other in combinations(changes, 2) if not one.keys() & other.keys()]
    context = FeatureContext(feature_type, 3)
    for settings in [{}, *changes, *pairs]:
        config = subject.config(**{**subject.config.example_settings, **settings})
        if not any(problem.severity == "error" for problem in config.problems(context)):
            yield settings


@pytest.mark.parametrize("name", registry.names())
def test_value_is_that_of_the_textbook_form(name):
    subject = subject_of(name)
    compared = refused = 0
    for feature_type in subject.entry.feature_types:
        given = cast(subject.batch(feature_type), torch.float64)
        for settings in variants(subject, feature_type):
            config = subject.config(**{**subject.config.example_settings, **settings})
            batch = given
            if settings.get("activation") == "none":
                batch = Batch((given.inputs[0].softmax(1),), given.targets)
            arrays = [tensor.numpy() for tensor in (*batch.inputs, *batch.targets)]
            if feature_type in (SEQUENCE, TEXT):
                arrays[0] = np.moveaxis(arrays[0], -1, 1)
            own = set(config.settings()) - set(getattr(subject.entry.module.load(), "distributed_settings", ()))
            rest = {setting: value for setting, value in config.settings().items() if setting in own}
            reduction = rest.pop("reduction", "mean")
            module = subject.build(feature_type, **config.settings()).double()
            rest |= {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}
            try:
                value = module(*batch.inputs, *batch.targets)
            except (TypeError, ValueError):
                # Settings such as `activation: none` and a softmax over a single mask, which the loss refuses.
                refused += 1
                continue
            found = REFERENCES[name](*arrays, **_for_feature(rest, feature_type))
            values, count = found if isinstance(found, tuple) else (found, found.size)
            count = len(arrays[0]) if reduction == "batchmean" else count
            expected = values.sum() if reduction == "sum" else values.sum() / count if count else 0.0
            value = total_of(value)
            assert value.item() == pytest.approx(expected, rel=1e-10, abs=1e-13), (feature_type, settings)
            compared += 1
    assert compared > refused


def _for_feature(settings, feature_type):
    """What `auto` stands for is the feature's affair, and no part of the formula."""
    if settings.get("activation") == "auto":
        return {**settings, "activation": "sigmoid" if feature_type in ("binary", "set") else "softmax"}
    return settings


def test_every_loss_has_a_reference():
    missing = set(registry.names()) - REFERENCES.keys()
    assert not missing, f"write a reference of the same name in tests/references/ for {sorted(missing)}"
