"""The schema and `losskit validate` have one verdict, whichever validator reads the schema."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings

import losskit
from losskit import register_loss
from losskit.schema.document import DRAFTS
from tests.editor.conftest import Ajv, document_schema
from tests.editor.documents import documents

pytestmark = pytest.mark.xdist_group("editor")

# What JSON Schema cannot say: that names differ from each other (LK106), that one number follows from another, such as
# of weights from that of classes (LK206; plain limits of a length are of this code too, and are tested below), and the
# rules that a loss's settings have among themselves (LK205, LK207). A config with such mistakes alone says nothing
# here.
OUT_OF_REACH = {"LK106", "LK205", "LK206", "LK207"}


def errors(config):
    return {d.code for d in losskit.validate(config) if d.severity == "error"}


def verdict(config):
    """What losskit says; None where only losskit can say it."""
    found = errors(config)
    return False if found - OUT_OF_REACH else None if found else True


def python_validator(schema, draft):
    return {"7": jsonschema.Draft7Validator, "2020-12": jsonschema.Draft202012Validator}[draft](schema)


@pytest.fixture(scope="module")
def validators(ajvs):
    """Whether a config is valid, asked of ajv and of jsonschema, each with the schema in both drafts."""
    python = [python_validator(document_schema(draft), draft).is_valid for draft in DRAFTS]
    return [*(ajvs[draft].is_valid for draft in DRAFTS), *python]


def check_jsonschema(folder, configs, schema):
    """The verdicts of check-jsonschema. It is asked once, because starting it takes longer than checking."""
    folder.mkdir()
    (folder / "schema.json").write_text(json.dumps(schema), "utf-8")
    names = [f"{index}.json" for index in range(len(configs))]
    for name, config in zip(names, configs):
        (folder / name).write_text(json.dumps(config), "utf-8")
    command = [sys.executable, "-m", "check_jsonschema", "--schemafile", "schema.json", "-o", "json", *names]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    report = json.loads(result.stdout)
    assert not report["parse_errors"]
    wrong = {error["filename"] for error in report["errors"]}
    return [name not in wrong for name in names]


def test_random_configs_have_one_verdict(validators, tmp_path):
    seen = []

    @settings(max_examples=500, deadline=None)
    @given(documents())
    def agree(config):
        expected = verdict(config)
        if expected is not None:
            assert [is_valid(config) for is_valid in validators] == [expected] * len(validators)
            seen.append((config, expected))

    agree()
    configs, expected = map(list, zip(*seen))
    assert min(expected.count(True), expected.count(False)) > 120, "nearly all are right, or wrong"
    for draft in DRAFTS:
        assert check_jsonschema(tmp_path / draft, configs, document_schema(draft)) == expected


@pytest.mark.parametrize("draft", DRAFTS)
def test_ajv_compiles_the_schema_in_its_strict_mode(ajvs, draft):
    assert ajvs[draft].objection is None


def test_the_page_on_editors_names_the_keywords_that_ajv_must_be_told():
    folder = Path(__file__).parent
    (told,) = re.findall(r"const EDITOR_KEYWORDS = \[(.*)\]", (folder / "ajv.js").read_text("utf-8"))
    assert f"ajv.addVocabulary([{told}])" in (folder.parent.parent / "docs" / "editors.md").read_text("utf-8")


def huber(**settings):
    return {"output_features": [{"name": "f", "type": "number", "loss": {"type": "huber", **settings}}]}


def category(**keys):
    return {"output_features": [{"name": "f", "type": "category", **keys}]}


@pytest.mark.parametrize(
    "config",
    [
        category(loss={"type": "cross_entropy", "class_weights": []}),
        category(loss={"type": "cross_entropy", "class_weights": {}}),
        category(loss={"type": "cross_entropy", "class_similarities": [[]]}),
        category(classes=["cat", "cat"]),
        huber(name=""),
        huber(inputs={"targets": ""}),
    ],
)
def test_the_lengths_that_json_schema_can_say_are_the_same(validators, config):
    assert errors(config)
    assert not any(is_valid(config) for is_valid in validators)


# Numbers that a reader of JSON may take for others


@pytest.mark.parametrize(
    ("number", "is_right"),
    [
        (2.0, True),  # an integer, as JSON Schema has it
        (-0.0, True),
        (-(2**31), True),  # the least class id
        (-(2**31) - 1, False),
        (2**53 + 1, False),  # no float holds it; beyond the limit of class ids
        (1e300, False),
        (10**400, False),  # infinity for JavaScript
    ],
)
def test_integers_of_all_sizes(validators, number, is_right):
    config = category(loss={"type": "cross_entropy", "ignore_index": number})
    assert bool(errors(config)) is not is_right
    assert [is_valid(config) for is_valid in validators] == [is_right] * len(validators)


def test_a_number_that_no_float_holds_is_none_but_for_python(validators):
    config = huber(delta=10**400)
    assert errors(config) == {"LK202"}
    # JavaScript reads infinity, which ajv's strict mode takes for no number; Python's integers have no end.
    assert [is_valid(config) for is_valid in validators] == [False, False, True, True]


@pytest.mark.parametrize(("number", "passes"), [(math.nan, True), (math.inf, True), (-math.inf, False)])
def test_numbers_that_json_cannot_write_get_past_limits(number, passes):
    config = huber(delta=number)
    assert errors(config) == {"LK202"}
    # JSON Schema has no word for them, and ajv never sees them, as they are not in JSON.
    assert [python_validator(document_schema(draft), draft).is_valid(config) for draft in DRAFTS] == [passes, passes]


# Plugins


@pytest.mark.usefixtures("losses")
@pytest.mark.parametrize("draft", DRAFTS)
def test_a_plugin_s_losses_have_one_verdict(node, tmp_path, draft):
    # Names that mean something in regular expressions, in addresses, in JSON Schema or in MMF.
    @register_loss("my.loss|for/tests~1%20", ["number"], aliases=["multi", "größe"])
    def loss(
        predictions,
        targets,
        *,
        items: tuple[int, float] = (1, 2.0),
        definitions: float | list[float] = 0.5,
        dependencies: dict[str, int] | None = None,
    ):
        return (predictions - targets).mean()

    def config(name, **settings):
        return {"output_features": [{"name": "f", "type": "number", "loss": {"type": name, **settings}}]}

    configs = [
        *(
            config(name, items=[1, 2.5])
            for name in ("my.loss|for/tests~1%20", "größe", "multi", "my-loss|for/tests~1%20")
        ),
        *(config("größe", items=items) for items in ([1], [1, 2, 3], [1.5, 2], [1, "2"], None)),
        *(config("größe", definitions=value) for value in (1, [1, 2], ["x"], {}, None)),
        *(config("größe", dependencies=value) for value in ({"a": 1}, {"a": 1.5}, None, [])),
        *(config("größe", params={"items": items}) for items in ([1, 2], [])),
        config("größe", items=[1, 2], params={"items": [1, 2]}),
        config("größe", definitions=1, params={"definitions": 1}),
        config("multi", params=["huber"]),
        config("huber", items=[1, 2]),
        {"losses": ["größe", {"type": "my.loss|for/tests~1%20", "inputs": {"targets": "x"}}]},
        {"losses": ["größe", {"type": "my.loss|for/tests~1%20", "inputs": {"nobody": "x"}}]},
        {"output_features": [{"name": "f", "type": "image", "loss": "größe"}]},
    ]
    # Without exceptions, as these losses have no rules of their own.
    expected = [not errors(config) for config in configs]
    assert min(expected.count(True), expected.count(False)) > 8
    schema = document_schema(draft)
    process = Ajv(node, schema, draft)
    try:
        assert process.objection is None
        assert [process.is_valid(config) for config in configs] == expected
    finally:
        process.close()
    assert [python_validator(schema, draft).is_valid(config) for config in configs] == expected
    assert check_jsonschema(tmp_path / draft, configs, schema) == expected
