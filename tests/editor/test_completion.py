"""What the editor offers while one writes, asked of the language server that editors run."""

import statistics
import time

import pytest

from losskit.constants import FEATURE_TYPES
from losskit.registry import registry
from losskit.schema.document import LossRow, config_schema, dump
from losskit.schema.schedules import KINDS
from losskit.strategies import strategies
from tests.editor.conftest import MODELINE

pytestmark = pytest.mark.xdist_group("editor")

TOP = ["output_features", "losses", "loss_balancing"]
FEATURE_KEYS = ["classes", "loss", "missing", "name", "num_classes", "type"]
SCHEDULE_KEYS = ["schedule", "steps", "from", "to", "warmup", "ratio"]
# Where a mapping may begin, the server also offers to write its required keys at once, under the mapping's title.
SKELETON = ["output feature"]


def names(feature_type=None):
    """Every name by which a loss for the feature type can be called."""
    return [n for e in registry.entries() if feature_type is None or feature_type in e.feature_types for n in e.names]


def settings(loss, *, without=()):
    """What stands beside the type of a loss."""
    known = [*registry.get(loss).schema["properties"], "params"]
    return [name for name in known if name not in ("type", *without)]


def own(loss):
    """What may stand under `params`."""
    return settings(loss, without=("weight", "name", "inputs", "params"))


def feature(feature_type, *lines):
    return "\n".join(
        ["output_features:", "  - name: f", f"    type: {feature_type}", *(f"    {line}" for line in lines)]
    )


def block(feature_type, *lines):
    return feature(feature_type, "loss:", *(f"  {line}" for line in lines))


def listed(feature_type):
    """What is offered where an item of a list of losses begins."""
    return [*names(feature_type), "type", "weight", f"{feature_type} loss"]


PROBES = {
    # The top of the file
    "an empty file takes features or losses": ("|", TOP),
    "a key that is begun is one of the top": ("outp|", TOP),
    "between the keys of a larger config ours are offered": (
        "model_type: ecd\ninput_features: []\n|\ntrainer: {epochs: 3}\n",
        TOP,
    ),
    "where there are features a list of losses would be too much, but others' keys are not ours to offer": (
        feature("number", "loss: huber") + "\n|",
        ["losses", "loss_balancing"],
    ),
    # How losses are balanced
    "a way to balance losses": ("loss_balancing: |", strategies.names()),
    "a way that is begun": ("loss_balancing: un|", strategies.names()),
    "a way to balance losses with settings": ("loss_balancing:\n  type: |", strategies.names()),
    "the settings of a way": ("loss_balancing:\n  type: pareto_mtl\n  |", ["preference_vector", "tchebycheff_weight"]),
    "the settings of a way in braces": ("loss_balancing: {type: famo, g|}", ["gamma", "min_losses"]),
    "the settings of a way without any": ("loss_balancing:\n  type: none\n  |", []),
    # Features
    "a feature begins with its name or its type": ("output_features:\n  - |", [*FEATURE_KEYS, *SKELETON], {"loss"}),
    "a feature that has a name takes what it lacks": (
        "output_features:\n  - name: f\n    |",
        ["type", "num_classes", "classes", "missing", *SKELETON],
    ),
    "a feature that has a type takes a loss": (feature("number", "|"), ["loss", "num_classes", "classes", "missing"]),
    "what is to be done about missing labels": (feature("number", "missing: |"), ["mask"]),
    "a feature type is one of twelve": ("output_features:\n  - name: f\n    type: |", FEATURE_TYPES),
    "a feature type that is begun is one of twelve": ("output_features:\n  - name: f\n    type: num|", FEATURE_TYPES),
    "a feature type in a mapping in braces": ("output_features: [{name: f, type: |}]", FEATURE_TYPES),
    # Names of losses
    "a loss of an anomaly feature": (feature("anomaly", "loss: |"), names("anomaly")),
    "a loss of a number feature": (feature("number", "loss: |"), names("number")),
    "a loss of an image feature": (feature("image", "loss: |"), names("image")),
    "a loss of a feature type without a default loss": (feature("audio", "loss: |"), names("audio")),
    "a loss whose name is begun": (feature("number", "loss: hu|"), names("number")),
    "a loss in a Ludwig config": (
        "model_type: ecd\n"
        + feature("category", "top_k: 3", "loss: |", "decoder: {type: classifier}")
        + "\ntrainer: {}",
        names("category"),
    ),
    "an item of a list of losses": (block("anomaly", "- |"), listed("anomaly")),
    "an item that follows another": (block("anomaly", "- drocc", "- |"), listed("anomaly")),
    "an item that is begun": (block("anomaly", "- dr|"), listed("anomaly")),
    "an item of a list in brackets": (
        feature("anomaly", "loss: [drocc, |]"),
        # What the server adds for items of all lists whose items can be several things.
        [*names("anomaly"), "- (array item) loss name", "- (array item) anomaly loss"],
    ),
    "the type of a loss": (block("anomaly", "type: |"), [*names("anomaly"), "multi"]),
    "the type of a loss in braces": (feature("anomaly", "loss: {type: |}"), [*names("anomaly"), "multi"]),
    "the type of a loss that is begun": (block("anomaly", "type: dee|"), [*names("anomaly"), "multi"]),
    "the type of a loss in a list": (block("anomaly", "- type: |"), [*names("anomaly"), "multi"]),
    "the type of a loss in braces in a list": (feature("anomaly", "loss: [{type: |}]"), [*names("anomaly"), "multi"]),
    "an item of MMF's list": ("losses:\n  - |", [*names(), "type", "weight", "any loss"]),
    "the type of a loss of MMF's list": ("losses:\n  - type: |", [*names(), "multi"]),
    "a loss in MMF's loss of losses": (block("anomaly", "type: multi", "params:", "  - |"), listed("anomaly")),
    # Settings
    "the settings of a loss": (block("number", "type: huber", "|"), settings("huber")),
    "the settings of a loss by its other name": (
        block("category", "type: cross_entropy", "|"),
        settings("softmax_cross_entropy"),
    ),
    "the settings of a loss with which another's name begins": (block("category", "type: nll", "|"), settings("nll")),
    "the settings that are not there yet": (
        block("number", "type: huber", "delta: 1", "weight: 2", "|"),
        settings("huber", without=("delta", "weight")),
    ),
    "a setting above others": (block("number", "type: huber", "|", "delta: 1"), settings("huber", without=["delta"])),
    "a setting that is begun": (block("number", "type: huber", "de|"), settings("huber")),
    "a setting in braces that is begun": (feature("image", "loss: {type: focal, g|}"), settings("focal")),
    "a setting of a loss in a list": (block("image", "- dice", "- type: focal", "  |"), settings("focal")),
    "a setting of a loss of MMF's list": ("losses:\n  - type: focal\n    |", settings("focal")),
    "settings under params": (block("number", "type: huber", "params:", "  |"), own("huber")),
    "settings under params in MMF's list": ("losses:\n  - type: focal\n    params:\n      |", own("focal")),
    "settings without a type are those of the feature type's default loss": (
        block("anomaly", "|"),
        ["type", *settings("deep_svdd")],
    ),
    "a setting without a type that is begun": (block("anomaly", "n|"), ["type", *settings("deep_svdd")]),
    "without a type there are no settings where there is no default loss": (
        block("audio", "|"),
        ["type", "weight", "audio loss"],
    ),
    "the settings of a loss that is not for this feature type": (block("number", "type: drocc", "|"), ["weight"]),
    "what a loss takes can be renamed": (
        block("vector", "type: triplet_margin", "inputs:", "  |"),
        registry.get("triplet_margin").roles,
    ),
    # Values
    "one of the options of a setting": (block("number", "type: huber", "reduction: |"), ["mean", "sum"]),
    "one of the options in braces": (feature("number", "loss: {type: huber, reduction: |}"), ["mean", "sum"]),
    "one of the options under params": (block("number", "type: huber", "params:", "  reduction: |"), ["mean", "sum"]),
    "yes or no": (block("vector", "type: triplet_margin", "swap: |"), ["true", "false"]),
    # Weights that change
    "the keys of a schedule": (block("number", "type: huber", "weight:", "  |"), SCHEDULE_KEYS),
    "a key of a schedule that is begun": (block("number", "type: huber", "weight:", "  st|"), SCHEDULE_KEYS),
    "a key of a schedule in braces that is begun": (
        feature("number", "loss: {type: huber, weight: {s|}}"),
        SCHEDULE_KEYS,
    ),
    "the keys of a schedule that are not there yet": (
        block("number", "type: huber", "weight:", "  schedule: linear", "  steps: 3", "  |"),
        SCHEDULE_KEYS,
        {"schedule", "steps"},
    ),
    "the keys of a schedule of a default loss": (block("anomaly", "weight:", "  |"), SCHEDULE_KEYS),
    "the kind of a schedule": (block("number", "type: huber", "weight:", "  schedule: |"), KINDS),
    "the kind of a schedule that is begun": (block("number", "type: huber", "weight:", "  schedule: cy|"), KINDS),
    "the kind of a schedule in braces": (feature("number", "loss: {type: huber, weight: {schedule: |}}"), KINDS),
    "a number as its default and its examples": (block("number", "type: huber", "weight: |"), ["1", "0.5"]),
}


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_offers_exactly(editor, probe):
    text, expected, *without = probe
    offered = [item["label"] for item in editor.offers(text)]
    assert sorted(offered) == sorted(set(expected) - set().union(*without))


def test_other_names_of_a_loss_are_offered_and_explained(editor):
    summaries = {item["label"]: item["documentation"] for item in editor.offers(feature("number", "loss: |"))}
    assert summaries["mae"] == summaries["mean_absolute_error"] == registry.get("mae").summary


def test_a_setting_is_offered_with_what_it_does_its_limits_and_its_default(editor):
    (delta,) = [item for item in editor.offers(block("number", "type: huber", "|")) if item["label"] == "delta"]
    schema = registry.get("huber").schema["properties"]["delta"]
    assert delta["documentation"]["value"] == f"{schema['description']}\n\na number greater than 0\n\nDefault: `1.0`"
    assert delta["insertText"] == "delta: ${1:1}"


@pytest.mark.parametrize(
    "text", ["output_features:\n  - |", feature("number", "|"), block("number", "|"), block("number", "- |")]
)
def test_a_key_is_written_with_its_colon(editor, text):
    written = [item["insertText"] for item in editor.offers(text) if item["kind"] == 10]
    assert written
    assert all(":" in insert for insert in written), written


def test_the_modeline_of_the_documentation_leads_to_the_same(editor):
    text = MODELINE + feature("anomaly", "loss: |")
    assert sorted(item["label"] for item in editor.offers(text, "config.yaml")) == sorted(names("anomaly"))


def test_two_hundred_losses_are_offered_without_delay(editor):
    rows = [LossRow(e.names, e.feature_types, e.summary, e.schema) for e in registry.entries()]
    more = [row._replace(names=[f"{name}_{i}" for name in row.names]) for i in range(3) for row in rows]
    (editor.folder / "large.schema.json").write_text(dump(config_schema((rows + more)[:200])), "utf-8")
    text = MODELINE.replace("losskit.", "large.") + "losses:\n  - type: focal\n    |"
    assert len(editor.offers(text, "config.yaml")) == len(settings("focal"))  # reads the schema
    taken = []
    for _ in range(9):
        start = time.perf_counter()
        editor.offers(text, "config.yaml")
        taken.append(time.perf_counter() - start)
    # It takes 5 ms, of which a person sees nothing; the limit is for slow machines.
    assert statistics.median(taken) < 0.1
