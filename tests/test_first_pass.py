"""The first look at a config: where it finds one right, the full check has nothing to say."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from losskit import first_pass
from losskit.config import read
from losskit.constants import FEATURE_TYPES
from losskit.registry import registry
from losskit.strategies import strategies
from losskit.validation import Validation
from scripts.rules import ruled_settings

NAMES = registry.names()
CONFIGS = sorted((Path(__file__).parent / "configs").glob("*/*.*"))
ODD = [0, 1, -1, 2, 0.5, 1e300, 10**400, True, False, None, "", "x", "1e-3", [], [0], [1, 2], [0.5, 0.25, 0.25], {}]
SCHEDULES = [
    {"schedule": "linear", "steps": 10, "to": 0.1},
    {"schedule": "cyclical", "steps": 3.0, "ratio": 0.5},
    {"schedule": "step", "steps": 3, "ratio": 0.5},
    {"schedule": "cyclical", "steps": 1},
    {"schedule": "step", "steps": 3, "to": 0},
    {"schedule": "step"},
]
CLASSES = ["a", "b", "c"]


def verdicts(text):
    document = read(text, "c.yaml")
    return first_pass.is_right(document), Validation(read(text, "c.yaml")).diagnostics


@st.composite
def losses(draw, feature_type):
    """A loss that is mostly right: for the feature type, with settings from its own examples, or odd ones."""
    names = [name for e in registry.entries() if feature_type in (None, *e.feature_types) for name in e.names]
    name = draw(st.sampled_from(names or NAMES) | st.sampled_from(NAMES))
    if draw(st.integers(0, 3)) == 0:
        return name
    loss = {"type": name}
    properties = registry.get(name).schema["properties"]
    for setting in draw(st.lists(st.sampled_from(sorted(properties)), max_size=3, unique=True)):
        schema = properties[setting]
        values = [schema.get("default"), *schema.get("examples", ()), *schema.get("enum", ())]
        usual = st.sampled_from(values) | st.sampled_from([0.5, 1, 2, [1, 2, 3], {"a": 1, "b": 2, "c": 0}])
        usual = st.sampled_from(SCHEDULES) | usual if setting == "weight" else usual
        loss[setting] = draw(usual | usual | st.sampled_from(ODD))
    if draw(st.integers(0, 5)) == 0:
        loss = {"type": name, "params": {key: value for key, value in loss.items() if key != "type"}}
    return loss


@st.composite
def features(draw, index):
    kind = draw(st.sampled_from(FEATURE_TYPES))
    feature = {"name": f"f{index}", "type": kind}
    if draw(st.booleans()):
        feature["loss"] = draw(losses(kind) | st.lists(losses(kind), min_size=1, max_size=2))
    if draw(st.booleans()):
        feature["num_classes"] = draw(st.sampled_from([3, 3, 3, 2, 1, 1000, 3.0, 0, True]))
    if draw(st.booleans()):
        feature["classes"] = draw(st.sampled_from([CLASSES, CLASSES, ["a"], ["a", "a"], [], [1]]))
    if draw(st.integers(0, 3)) == 0:
        feature["missing"] = draw(st.sampled_from(["mask", "mask", "Mask", True, None, ["mask"]]))
    if draw(st.integers(0, 9)) == 0:
        feature[draw(st.sampled_from(["los", "column", "nam", "decoder", "num_clases"]))] = 1
    return feature


@st.composite
def configs(draw):
    if draw(st.integers(0, 4)) == 0:
        config = {"losses": draw(st.lists(losses(None), max_size=2))}
    else:
        config = {"output_features": [draw(features(i)) for i in range(draw(st.integers(0, 2)))]}
    if draw(st.integers(0, 2)) == 0:
        odd = st.sampled_from([None, 1, [], {}, "fam", ["famo"], {"type": "famo"}, {"type": "dwa", "period": 0}])
        config["loss_balancing"] = draw(st.sampled_from(strategies.names()) | odd)
    if draw(st.integers(0, 9)) == 0:
        config[
            draw(st.sampled_from(["output_feature", "losses", "loss_balance", "loss", "trainer", "input_features"]))
        ] = []
    return config


@settings(max_examples=800, deadline=None)
@given(configs())
def test_what_it_finds_right_the_full_check_does_too(config):
    is_right, diagnostics = verdicts(json.dumps(config))
    assert not (is_right and diagnostics), diagnostics


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_it_agrees_on_whole_configs(path):
    is_right, diagnostics = verdicts(path.read_bytes())
    assert not (is_right and diagnostics)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_sure_of_every_loss_with_its_defaults(name):
    entry = registry.get(name)
    assert bool(entry.config.load().example_settings) or all(
        verdicts(json.dumps({"output_features": [{"name": "a", "type": kind, "num_classes": 3, "loss": loss}]}))
        == (True, [])
        for kind in entry.feature_types
        for loss in (name, {"type": name, "weight": 0.5, "reduction": "mean"})
        if isinstance(loss, str) or "mean" in entry.schema["properties"].get("reduction", {}).get("enum", ())
    )


@pytest.mark.parametrize("name", strategies.names())
def test_it_is_sure_of_every_way_to_balance_losses(name):
    config = {"losses": ["mse", "huber"], "loss_balancing": name}
    assert verdicts(json.dumps(config)) == (True, [])
    assert verdicts(json.dumps({**config, "loss_balancing": {"type": name}})) == (False, [])


# What stands where the table of losses has no say: each is right but for one thing.
NOT_SURE = {
    "a number that PyYAML reads as text": "{name: a, type: number, loss: {type: huber, delta: 1e-3}}",
    "one in a list": "{name: a, type: category, loss: {type: cross_entropy, class_weights: [1, 1e1]}}",
    "one in params": "{name: a, type: number, loss: {type: huber, params: {delta: 1e-3}}}",
    "one behind an alias": "{name: a, type: number, x: &x 1e-3, loss: {type: huber, delta: *x}}",
    "one that is merged": "{name: a, type: number, x: &x {delta: 1e-3}, loss: {type: huber, <<: *x}}",
    "names of losses twice": "{name: a, type: number, loss: [{type: mse, name: x}, {type: huber, name: x}]}",
    "a name in params": "{name: a, type: number, loss: {type: huber, params: {name: x}}}",
    "an unknown role": "{name: a, type: number, loss: {type: huber, inputs: {x: y}}}",
    "weights of other classes": "{name: a, type: category, classes: [a, b], "
    "loss: {type: cross_entropy, class_weights: {a: 1, c: 1}}}",
    "weights of zero": "{name: a, type: category, loss: {type: cross_entropy, class_weights: [0, 0]}}",
    "a schedule that never changes": "{name: a, type: number, loss: {type: mse, "
    "weight: {schedule: step, steps: 2, to: 0}}}",
    "cycles of a single step": "{name: a, type: number, loss: {type: mse, weight: {schedule: cyclical, steps: 1}}}",
    "a schedule without cycles that has a ratio": "{name: a, type: number, loss: {type: mse, "
    "weight: {schedule: step, steps: 2, ratio: 1}}}",
    "a schedule with a number that PyYAML reads as text": "{name: a, type: number, loss: {type: mse, "
    "weight: {schedule: step, steps: 2e1}}}",
    "what is missing, misspelt": "{name: a, type: number, missing: maks}",
    "a rule": "{name: a, type: category, loss: {type: focal, alpha: 0.5}}",
    "what belongs to the whole config": "{name: a, type: number, loss_balancing: famo}",
}


@pytest.mark.parametrize("case", NOT_SURE)
def test_it_leaves_to_the_full_check_what_it_is_not_sure_of(case):
    is_right, diagnostics = verdicts(f"output_features: [{NOT_SURE[case]}]")
    assert (is_right, bool(diagnostics)) == (False, True)


def test_files_of_others_are_known_without_the_full_check():
    assert first_pass.has_no_losses(read("services:\n  web: {image: nginx}\n"))
    for ours in (
        "output_features: 3",
        "losses: 3",
        "output_feature: []",
        "a: {output_features: []}",
        "[1]",
        "a: [",
        "",
    ):
        assert not first_pass.has_no_losses(read(ours)), ours


def test_settings_with_rules_are_found_in_the_source():
    focal = registry.get("focal").config.load()
    assert ruled_settings(focal) == {"alpha", "activation", "average_classes", "normalize_by"}
    # It hands itself on, so all of its settings may be looked at.
    assert "label_smoothing" in ruled_settings(registry.get("bce_with_logits").config.load())
    assert ruled_settings(registry.get("huber").config.load()) == set()
