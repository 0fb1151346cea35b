"""What the editor shows for what is under the cursor."""

import pytest

from losskit.registry import registry
from losskit.schema.describe import describe
from losskit.strategies import strategies

pytestmark = pytest.mark.xdist_group("editor")


def loss(feature_type, line):
    return f"output_features:\n  - name: f\n    type: {feature_type}\n    {line}\n"


def parts(loss, setting):
    """The description, the limits and the default of a setting, in this order."""
    schema = registry.get(loss).schema["properties"][setting]
    return [f"#### {setting}", schema["description"], describe(schema), f"Default: `{schema['default']}`"]


def summary(name):
    return registry.get(name).summary


PROBES = {
    "the list of features": ("output_feat|ures: []", ["#### output features", "What the model predicts"]),
    "the list of losses": ("loss|es: [mse]", ["#### any losses", "weighted sum"]),
    "a feature's name": ("output_features: [{na|me: f}]", ["#### feature name", "What the feature is called."]),
    "a feature type, of which the chosen one stands first": (
        loss("nu|mber", ""),
        ["#### feature type", "decides which losses are allowed", "Allowed Values:", "* `number`", "* `anomaly`"],
    ),
    "the number of classes": (loss("category", "num_cl|asses: 3"), ["#### number of classes", "How many classes"]),
    "the key of a loss": (loss("number", "lo|ss: huber"), ["A loss, or a list of losses", summary("huber")]),
    "the name of a loss, of which the chosen one stands first": (
        loss("number", "loss: hu|ber"),
        ["#### loss name", f"* `huber`: {summary('huber')}", "* `gaussian"],
    ),
    "the name of a loss in a list": (
        loss("image", "loss: [fo|cal, dice]"),
        [f"* `focal`: {summary('focal')}", f"* `dice`: {summary('dice')}"],
    ),
    "the type of a loss begins with what it does": (
        loss("number", "loss: {type: hu|ber}"),
        ["#### loss name", f"`huber`: {summary('huber')}", "Allowed Values:", "* `huber`", "* `gaussian"],
    ),
    "the type of a loss by its other name": (
        loss("category", "loss: {type: cross_ent|ropy}"),
        [
            f"`softmax_cross_entropy`: {summary('cross_entropy')[:40]}",
            "Allowed Values:",
            "* `cross_entropy`",
            "* `adap",
        ],
    ),
    "a setting says what it does, its limits and its default": (
        loss("number", "loss: {type: huber, del|ta: 1}"),
        parts("huber", "delta"),
    ),
    "a setting says the same at its value": (loss("number", "loss: {type: huber, delta: |1}"), parts("huber", "delta")),
    "a setting under params": (
        loss("number", "loss: {type: huber, params: {del|ta: 1}}"),
        parts("huber", "delta"),
    ),
    "a setting of a feature type's default loss": (loss("anomaly", "loss: {n|u: 0.5}"), parts("deep_svdd", "nu")),
    "a setting of MMF's list": ("losses:\n  - type: huber\n    del|ta: 1", parts("huber", "delta")),
    "a setting that all losses have": (
        loss("number", "loss: {type: huber, wei|ght: 2}"),
        [*parts("huber", "weight"), "Example:", "0.5"],
    ),
    "a key of a schedule": (
        loss("number", "loss: {type: huber, weight: {schedule: linear, ste|ps: 3}}"),
        ["#### steps", "How many steps of the optimizer"],
    ),
    "a key of a schedule with its limits and its default": (
        loss("number", "loss: {type: huber, weight: {schedule: linear, ra|tio: 0.3}}"),
        ["#### ratio", "a cyclical weight changes", "a number greater than 0 and at most 1", "Default: `0.5`"],
    ),
    "the kind of a schedule": (
        loss("number", "loss: {type: huber, weight: {schedule: lin|ear, steps: 3}}"),
        ["#### schedule", "How the weight changes", "* `linear`", "* `cosine`", "* `step`", "* `cyclical`"],
    ),
    "what is to be done about missing labels": (
        loss("number", "mis|sing: mask"),
        ["#### missing labels", "targets that are NaN are missing labels"],
    ),
    "a setting with options shows them, the chosen one first": (
        loss("number", "loss: {type: huber, reduc|tion: sum}"),
        [*parts("huber", "reduction"), "Allowed Values:", "* `sum`", "* `mean`"],
    ),
    "what may be several things": (
        loss("category", "loss: {type: cross_entropy, class_we|ights: [1, 2]}"),
        ["How much each class counts", "a list of numbers at least 0, a mapping", "Default: `null`"],
    ),
    "how losses are balanced": (
        "loss_bal|ancing: famo",
        ["#### loss balancing", "one value to minimise", "without it, their weighted sum"],
    ),
    "a way to balance losses, of which the chosen one stands first": (
        "loss_balancing: fa|mo",
        ["#### strategy", f"* `famo`: {strategies.get('famo').summary}", "* `dwa`"],
    ),
    "a setting of a way to balance losses": (
        "loss_balancing: {type: famo, gam|ma: 0.1}",
        ["#### gamma", "drawn back to equal ones", "a number at least 0 and at most 1", "Default: `0.01`"],
    ),
    "params": (loss("number", "loss: {type: huber, par|ams: {}}"), ["#### settings of huber"]),
}


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_shows(editor, probe):
    text, expected = probe
    shown = editor.shows(text).replace("\\_", "_")
    places = [shown.find(part) for part in expected]
    assert -1 not in places, shown
    assert places == sorted(places), shown


@pytest.mark.parametrize(
    "text",
    [
        loss("number", "deco|der: {type: regressor}"),
        "model_ty|pe: ecd\n" + loss("number", ""),
        loss("number", "loss: {type: huber, det|la: 1}"),
        loss("number", "loss: {type: huber, gam|ma: 1}"),
    ],
    ids=["a feature's key of others", "a top-level key of others", "a misspelt setting", "a setting of another loss"],
)
def test_shows_nothing_for(editor, text):
    assert editor.shows(text).strip() == ""
