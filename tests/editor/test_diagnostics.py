"""What the editor marks: each mistake once, where it is, and nothing in a right config."""

import re
from pathlib import Path

import pytest

import losskit
from tests.editor.conftest import ASSOCIATED

pytestmark = pytest.mark.xdist_group("editor")

ROOT = Path(__file__).parent.parent.parent
MARK = re.compile("«(.*?)»", re.DOTALL)
YAML_BLOCK = re.compile(r"```yaml\n(.*?)```", re.DOTALL)

NUMBER_LOSSES = "not a loss for number; one of gaussian_nll, hinge_embedding, huber, "
NO_STRATEGY = "no way to balance losses; one of dwa, famo, "
UNKNOWN_TYPE = "no feature type; one of anomaly, audio, "
KEEP_ONE = "`losses` and `output_features` stand in one config; keep one of them"


def feature(feature_type, *lines):
    return "\n".join(
        ["output_features:", "  - name: f", f"    type: {feature_type}", *(f"    {line}" for line in lines)]
    )


def number(settings):
    return feature("number", f"loss: {{type: huber, {settings}}}")


def balanced(value):
    return f"loss_balancing: {value}\nlosses: [mse, huber]"


# What is marked stands between « and »; the messages are those of the marks, in order, or what they begin with.
PROBES = {
    # Names
    "a misspelt loss": (feature("number", "loss: «hubr»"), NUMBER_LOSSES),
    "a loss that is not for this feature type": (feature("number", "loss: «dice»"), NUMBER_LOSSES),
    "a loss that is a number": (feature("number", "loss: «5»"), NUMBER_LOSSES),
    "a loss that is a list in a list": (feature("number", "loss: [«[huber]»]"), NUMBER_LOSSES),
    "a loss that is missing behind its key": (feature("number", "loss:«»"), NUMBER_LOSSES),
    "MMF's list of losses without its losses": (feature("number", "loss: «multi»"), NUMBER_LOSSES),
    "a misspelt type": (feature("number", "loss:", "  type: «hubr»", "  delta: 1"), NUMBER_LOSSES),
    "a type that is a number": (feature("number", "loss: {type: «5»}"), NUMBER_LOSSES),
    "a type that is not for this feature type": (feature("number", "loss: {type: «drocc»}"), NUMBER_LOSSES),
    "a misspelt loss in a list": (feature("number", "loss: [huber, «hubr»]"), NUMBER_LOSSES),
    "a misspelt type in a list": (feature("number", "loss:", "  - huber", "  - type: «hubr»"), NUMBER_LOSSES),
    "a misspelt loss in MMF's list": ("losses: [«hubr»]", "no loss has this name"),
    "a misspelt loss in MMF's loss of losses": (
        feature("number", "loss: {type: multi, params: [«hubr»]}"),
        NUMBER_LOSSES,
    ),
    "a misspelt feature type": ("output_features: [{name: f, type: «numbr»}]", UNKNOWN_TYPE),
    "a feature type that is a number": ("output_features: [{name: f, type: «5»}]", UNKNOWN_TYPE),
    # What is missing
    "a feature without a name": ("output_features:\n  - «t»ype: number", 'Missing property "name".'),
    "a feature without a type": ("output_features:\n  - «n»ame: f", 'Missing property "type".'),
    "an empty name": ('output_features: [{name: «""», type: number}]', "String is shorter than the minimum length"),
    "a name that is a number": ("output_features: [{name: «5», type: number}]", 'Incorrect type. Expected "string".'),
    "a feature that is no mapping": ("output_features: [«huber»]", 'Incorrect type. Expected "output feature".'),
    "a loss without a type": (feature("number", "loss: [«{»weight: 1}]"), 'Missing property "type".'),
    "a loss without a type in MMF's list": ("losses:\n  - «w»eight: 1", 'Missing property "type".'),
    "settings that the default loss lacks": (feature("number", "«loss»: {delta: 1}"), 'Missing property "type".'),
    "a misspelt key of the type": (feature("number", "«loss»: {tpye: huber, delta: 1}"), 'Missing property "type".'),
    "settings without a type and without a default loss": (
        feature("audio", "«loss»: {weight: 1}"),
        'Missing property "type".',
    ),
    "a feature type without a default loss": (
        "output_features: [«{»name: f, type: audio}]",
        'Missing property "loss".',
    ),
    "MMF's loss of losses without losses": (feature("number", "«loss»: {type: multi}"), 'Missing property "params".'),
    "an empty list of losses": (feature("number", "loss: «[]»"), "Array has too few items. Expected 1 or more."),
    "an empty list of features": ("output_features: «[]»", "Array has too few items. Expected 1 or more."),
    "features that are no list": ("output_features: «{}»", 'Incorrect type. Expected "array".'),
    "MMF's losses that are no list": ("losses: «{type: mse}»", 'Incorrect type. Expected "array".'),
    "a config with neither features nor losses": ("«m»odel_type: ecd", 'Missing property "output_features".'),
    "a config that is a list": ("«- huber»", 'Incorrect type. Expected "losskit config".'),
    "features and losses in one config": (feature("number", "loss: mse") + "\n«losses»: [mse]", KEEP_ONE),
    # Settings
    "a misspelt setting": (number("«detla»: 1"), "Property detla is not allowed."),
    "a setting of another loss": (number("«gamma»: 1"), "Property gamma is not allowed."),
    "a misspelt setting under params": (number("params: {«detla»: 1}"), "Property detla is not allowed."),
    "a misspelt setting in MMF's list": ("losses:\n  - type: huber\n    «detla»: 1", "Property detla is not allowed."),
    "what is no setting, under params": (number("params: {«weight»: 1}"), "Property weight is not allowed."),
    "a weight of MMF's loss of losses": (
        feature("number", "loss: {type: multi, «weight»: 2, params: [huber]}"),
        "Property weight is not allowed.",
    ),
    "a setting both under params and beside it": (
        number("delta: 1, params: {«delta»: 2}"),
        "`delta` stands both in `params` and beside it",
    ),
    "params that are no mapping": (number("params: «1»"), "Incorrect type. Expected one of object, null."),
    "text for a number": (number('delta: «"1"»'), 'Incorrect type. Expected "number".'),
    "a bool for a number": (number("delta: «true»"), 'Incorrect type. Expected "number".'),
    "nothing for a number": (number("delta: «null»"), 'Incorrect type. Expected "number".'),
    "a list for a number": (number("delta: «[1]»"), 'Incorrect type. Expected "number".'),
    "a number that is too small": (number("delta: «0»"), "Value is below the exclusive minimum of 0."),
    "a number that is too small under params": (
        number("params: {delta: «-1»}"),
        "Value is below the exclusive minimum of 0.",
    ),
    "a weight that is too small": (number("weight: «-1»"), "Value is below the minimum of 0."),
    "a weight of a feature type's default loss": (
        feature("number", "loss: {weight: «-1»}"),
        "Value is below the minimum of 0.",
    ),
    "a number that is too large": (
        feature("vector", "loss: {type: cosine_embedding, margin: «7»}"),
        "Value is above the maximum of 1.",
    ),
    "a fraction for an integer": (
        feature("category", "loss: {type: cross_entropy, ignore_index: «2.5»}"),
        "Incorrect type. Expected one of integer, null.",
    ),
    "a number for yes or no": (
        feature("vector", "loss: {type: triplet_margin, swap: «1»}"),
        'Incorrect type. Expected "boolean".',
    ),
    "the yes of YAML 1.1": (
        feature("vector", "loss: {type: triplet_margin, swap: «yes»}"),
        'Incorrect type. Expected "boolean".',
    ),
    "what is not among the options": (
        number("reduction: «average»"),
        'Value is not accepted. Valid values: "mean", "sum".',
    ),
    "unreduced values": (number("reduction: «none»"), 'Value is not accepted. Valid values: "mean", "sum".'),
    "a name of a loss that is a number": (number("name: «1»"), "Incorrect type. Expected one of string, null."),
    "an input that the loss does not take": (
        number("inputs: {«anchor»: x}"),
        'Value is not accepted. Valid values: "logits", "targets".',
    ),
    "class weights that are text": (
        feature("category", "loss: {type: cross_entropy, class_weights: «balanced»}"),
        'Incorrect type. Expected "array | a mapping to numbers at least 0 | null".',
    ),
    "a class weight that is text": (
        feature("category", "loss: {type: cross_entropy, class_weights: [1, «x»]}"),
        'Incorrect type. Expected "number".',
    ),
    "a class weight that is too small": (
        feature("category", "loss: {type: cross_entropy, class_weights: {cat: «-1»}}"),
        "Value is below the minimum of 0.",
    ),
    "no class weights": (
        feature("category", "loss: {type: cross_entropy, class_weights: «[]»}"),
        "Array has too few items. Expected 1 or more.",
    ),
    "a number of a row of a matrix": (
        feature("category", "loss: {type: cross_entropy, class_similarities: [[1, «x»]]}"),
        'Incorrect type. Expected "number".',
    ),
    # Weights that change
    "a weight that is text": (number("weight: «x»"), 'Incorrect type. Expected "number | a schedule".'),
    "a weight that is a list": (number("weight: «[1, 2]»"), 'Incorrect type. Expected "number | a schedule".'),
    "a weight that is an empty mapping": (number("weight: «{}»"), 'Incorrect type. Expected "number".'),
    "weights of classes for a weight": (number("weight: «{cat: 1, dog: 2}»"), 'Incorrect type. Expected "number".'),
    "a misspelt kind of schedule": (
        number("weight: {schedule: «linaer», steps: 10}"),
        'Value is not accepted. Valid values: "linear", "cosine", "step", "cyclical".',
    ),
    "a schedule without its steps": (number("«weight»: {schedule: linear}"), 'Missing property "steps".'),
    "a schedule without its kind": (number("«weight»: {steps: 10}"), 'Missing property "schedule".'),
    "a misspelt key of a schedule": (
        number("weight: {schedule: linear, «stpes»: 10}"),
        "Property stpes is not allowed.",
    ),
    "another system's key of a schedule": (
        number("weight: {«type»: linear, steps: 3}"),
        "Property type is not allowed.",
    ),
    "no steps of a schedule": (
        number("weight: {schedule: linear, steps: «0»}"),
        "Value is below the minimum of 1.",
    ),
    "a fraction of steps of a schedule": (
        number("weight: {schedule: linear, steps: «2.5»}"),
        'Incorrect type. Expected "integer".',
    ),
    "an end of a schedule that is too small": (
        number("weight: {schedule: linear, steps: 9, to: «-1»}"),
        "Value is below the minimum of 0.",
    ),
    "a ratio of a schedule that is too large": (
        number("weight: {schedule: cyclical, steps: 9, ratio: «2»}"),
        "Value is above the maximum of 1.",
    ),
    "a misspelt kind of schedule of a default loss": (
        feature("timeseries", "loss: {weight: {schedule: «linaer», steps: 10}}"),
        'Value is not accepted. Valid values: "linear", "cosine", "step", "cyclical".',
    ),
    "what is to be done about missing labels, misspelt": (
        feature("number", "missing: «maks»"),
        'Value is not accepted. Valid values: "mask".',
    ),
    "a class name that is a number": (feature("category", "classes: [cat, «1»]"), 'Incorrect type. Expected "string".'),
    "a class that is named twice": (feature("category", "classes: «[cat, cat]»"), "Array has duplicate items."),
    "a number of classes that is 0": (feature("category", "num_classes: «0»"), "Value is below the minimum of 1."),
    "a mistake behind an alias is marked where it stands": (
        f"shared: &shared {{weight: «-2»}}\n{number('<<: *shared')}",
        "Value is below the minimum of 0.",
    ),
    # How losses are balanced
    "a misspelt way to balance losses": (balanced("«uncertanty»"), NO_STRATEGY),
    "a way to balance losses that is a list": (balanced("«[famo]»"), NO_STRATEGY),
    "a way to balance losses that is missing behind its key": (balanced("«»"), NO_STRATEGY),
    "a misspelt type of a way to balance losses": (balanced("{type: «fam»}"), NO_STRATEGY),
    "a way to balance losses without a type": (balanced("«{»gamma: 1}"), 'Missing property "type".'),
    "a misspelt setting of a way": (balanced("{type: famo, «gama»: 0.1}"), "Property gama is not allowed."),
    "a setting of another way": (balanced("{type: famo, «alpha»: 0.1}"), "Property alpha is not allowed."),
    "a setting of a way that is too large": (
        balanced("{type: famo, gamma: «2»}"),
        "Value is above the maximum of 1.",
    ),
    "a preference that is text": (
        balanced("{type: pareto_mtl, preference_vector: [1, «x»]}"),
        'Incorrect type. Expected "number".',
    ),
    # Several
    "two mistakes in a schedule": (
        number("weight: {schedule: «linaer», steps: «x»}"),
        "Value is not accepted.",
        'Incorrect type. Expected "integer".',
    ),
    "two settings that are wrong": (
        number("delta: «-1», reduction: «x»"),
        "Value is below the exclusive minimum of 0.",
        "Value is not accepted.",
    ),
    "two settings that are misspelt": (
        number("«detla»: 1, «wieght»: 2"),
        "Property detla is not allowed.",
        "Property wieght is not allowed.",
    ),
    "two losses that are wrong": (feature("number", "loss:", "  - «hubr»", "  - «dice»"), NUMBER_LOSSES, NUMBER_LOSSES),
    "two features that are wrong": (
        "output_features:\n  - {name: a, type: «numbr»}\n  - {name: b, type: image, loss: «focl»}",
        UNKNOWN_TYPE,
        "not a loss for image; one of ",
    ),
    # YAML
    "braces that are not closed": (number("delta: 1")[:-1] + "\n«»", "Flow map in block collection must be"),
    "a key that is repeated": (number("delta: 1, «delta: 2") + "»", "Map keys must be unique"),
    "a tag": (feature("number", "loss: «!!python/name:os.system huber»"), "Unresolved tag: "),
}


@pytest.fixture(scope="module")
def opened(editor):
    """All texts, opened at once: the server waits a little before it checks each."""
    return {name: editor.open(MARK.sub(r"\1", probe[0]), f"{ASSOCIATED}/wrong.yaml") for name, probe in PROBES.items()}


def places(text):
    """The text without its marks, and where they begin and end."""
    found = []
    while mark := MARK.search(text):
        start, end = mark.start(), mark.start() + len(mark[1])
        text = text[:start] + mark[1] + text[mark.end() :]
        found.append((place(text, start), place(text, end)))
    return text, found


def place(text, offset):
    before = text[:offset]
    return before.count("\n"), len(before) - before.rfind("\n") - 1


@pytest.mark.parametrize("name", PROBES)
def test_marks_once_and_in_place(editor, opened, name):
    marked, *messages = PROBES[name]
    _, expected = places(marked)
    found = editor.marks(opened[name])
    assert [(start, end) for start, end, _ in found] == expected, found
    assert all(text.startswith(begin) for (_, _, text), begin in zip(found, messages, strict=True)), found


# The server marks where it noticed that they are not closed, losskit where they open.
@pytest.mark.parametrize("name", sorted(PROBES.keys() - {"braces that are not closed"}))
def test_the_command_line_finds_each_of_them_too(name):
    text, expected = places(PROBES[name][0])
    found = [d for d in losskit.validate(text=text) if d.severity == "error"]
    assert [d.line - 1 for d in found] == [line for (line, _), _ in expected], found


def right_configs():
    """Every config of the project that is right, by its name."""
    found = {path.name: path.read_text("utf-8") for path in (ROOT / "tests" / "configs" / "valid").glob("*.yaml")}
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for index, block in enumerate(YAML_BLOCK.findall(page.read_text("utf-8"))):
            # Some blocks are parts of a config, or show a mistake.
            if not losskit.validate(text=block):
                found[f"{page.name} {index}"] = block
    return found


RIGHT = right_configs()


def test_there_are_right_configs_of_each_kind():
    assert {"design.yaml", "ludwig.yaml", "mmf.yaml", "README.md 0"} <= set(RIGHT)
    assert len(RIGHT) > 70


@pytest.fixture(scope="module")
def opened_right(editor):
    return {name: editor.open(text, f"{ASSOCIATED}/right.yaml") for name, text in RIGHT.items()}


@pytest.mark.parametrize("name", RIGHT)
def test_marks_nothing_in_a_right_config(editor, opened_right, name):
    assert editor.marks(opened_right[name]) == []


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_an_example_names_the_schema_and_is_right(editor, path):
    text = path.read_text("utf-8")
    assert editor.marks(editor.open_at(path, text)) == []
    wrong = editor.open_at(path.with_stem("wrong"), text.split("\n", 1)[0] + "\nlosses: [hubr]\n")
    assert editor.marks(wrong) == [((1, 9), (1, 13), "no loss has this name")]
