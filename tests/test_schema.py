"""Settings, their limits, and the JSON Schema that follows from them."""

import dataclasses
import json
import math

import jsonschema
import marshmallow
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from marshmallow import fields, validate

import losskit
from losskit.registry import registry
from losskit.schema import BaseLossConfig, dataclass
from losskit.schema import fields as schema_utils
from losskit.schema.describe import describe
from losskit.schema.document import LossRow, StrategyRow, config_schema
from losskit.schema.json_schema import loss_schema
from losskit.schema.quick import UnknownKeywordError, compiled
from losskit.settings import _validator_class, validator
from losskit.strategies import strategies
from tests.editor.documents import SCHEDULES, documents

NAMES = registry.names()


def schema_of(**declared):
    """The JSON Schema of the settings of a config class with these fields."""
    annotations = dict.fromkeys(declared, object)
    cls = dataclass(type("TestLossConfig", (BaseLossConfig,), {"__annotations__": annotations, **declared}))
    properties = loss_schema(cls, ["test"], "")["properties"]
    return {name: {k: v for k, v in properties[name].items() if k != "markdownDescription"} for name in declared}


def test_each_helper_writes_its_limits():
    found = schema_of(
        a=schema_utils.PositiveFloat(default=1.0, description="d"),
        b=schema_utils.NonNegativeFloat(default=None, allow_none=True),
        c=schema_utils.FloatRange(0.5, min=0, max=1, max_inclusive=False),
        d=schema_utils.PositiveInteger(default=1, max=9),
        e=schema_utils.Boolean(default=True),
        f=schema_utils.StringOptions(["x", "y"], default="x"),
        g=schema_utils.List(int, default=[1], min=0, min_length=1),
        h=schema_utils.ClassWeights(),
        i=schema_utils.Matrix(),
        j=schema_utils.String(default="", examples=["z"]),
    )
    assert found["a"] == {"type": "number", "exclusiveMinimum": 0, "description": "d", "default": 1.0}
    assert found["b"] == {"type": ["number", "null"], "minimum": 0, "default": None}
    assert found["c"] == {"type": "number", "minimum": 0, "exclusiveMaximum": 1, "default": 0.5}
    assert found["d"] == {"type": "integer", "minimum": 1, "maximum": 9, "default": 1}
    assert found["e"] == {"type": "boolean", "default": True}
    assert found["f"] == {"enum": ["x", "y"], "default": "x"}
    assert found["g"] == {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "default": [1]}
    assert [option["type"] for option in found["h"]["anyOf"]] == ["array", "object", "null"]
    assert found["i"]["items"] == {"type": "array", "items": {"type": "number"}, "minItems": 1}
    assert found["j"] == {"type": "string", "default": "", "examples": ["z"]}


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (fields.Email(load_default="a@b.c"), "the field marshmallow.fields.Email has no exact form"),
        (
            fields.Float(load_default=1.0, validate=lambda value: value > 0),
            "the validator builtins.function has no exact form",
        ),
        (fields.String(load_default="", validate=validate.Regexp("a")), "the validator marshmallow.validate.Regexp"),
        (fields.Dict(keys=fields.Integer(), load_default=dict), "the keys of a mapping must be plain strings"),
        (fields.Raw(load_default=1), "marshmallow.fields.Raw has no exact form"),
    ],
)
def test_what_has_no_exact_form_is_a_type_error(field, message):
    with pytest.raises(TypeError, match=message):
        schema_of(x=dataclasses.field(default=None, metadata={"marshmallow_field": field}))


def test_fields_of_marshmallow_are_taken_where_they_have_an_exact_form():
    field = fields.Float(
        load_default=1.0, dump_default=1.0, validate=validate.And(validate.Range(min=0), validate.Range(max=2))
    )
    found = schema_of(x=dataclasses.field(default=1.0, metadata={"marshmallow_field": field}))
    assert found["x"] == {"type": "number", "minimum": 0, "maximum": 2, "default": 1.0}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schema_utils.Float(), "a setting needs a default"),
        (lambda: schema_utils.StringOptions(["a", "b"]), "a setting needs a default"),
        (lambda: schema_utils.StringOptions("ab"), "options must be a list of strings"),
        (lambda: schema_utils.StringOptions(["a", "b"], default="c"), "'c' is not among the options"),
        (
            lambda: schema_of(x=schema_utils.PositiveFloat(default=0.0)),
            "the default 0.0 is not allowed by its own limits",
        ),
        (lambda: schema_of(x=schema_utils.List(dict, default=[])), "a list of <class 'dict'> has no JSON form"),
        (lambda: schema_of(x=schema_utils.List(str, default=[], min=1)), "limits apply to numbers, not to str"),
    ],
)
def test_mistakes_in_a_config_class(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_mutable_defaults_are_not_shared():
    @dataclass
    class ListLossConfig(BaseLossConfig):
        sizes: list = schema_utils.List(int, default=[1])

    ListLossConfig().sizes.append(2)
    loaded = ListLossConfig.schema().load({})
    loaded.sizes.append(3)
    assert ListLossConfig().sizes == [1]
    assert ListLossConfig.schema().load({}).sizes == [1]


# Marshmallow and JSON Schema agree


def near(schema):
    """Values around what a schema allows: right ones, and ones that are wrong by a little."""
    numbers = [0, 1, 2, -1, 0.5, 1.0, 2.0, -0.5, 1e300, 10**15, 10**400, True, "1", "1e-3", math.nan, math.inf, None]
    words = [*schema.get("enum", ()), "x", "", "yes"]
    return (
        st.sampled_from(numbers + words)
        | st.sampled_from(SCHEDULES)
        | st.lists(st.sampled_from(numbers), max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from(numbers), max_size=2)
    )


@st.composite
def loss_settings(draw):
    entry = registry.get(draw(st.sampled_from(NAMES)))
    properties = {name: s for name, s in entry.schema["properties"].items() if name != "type"}
    chosen = draw(st.lists(st.sampled_from(sorted(properties)), max_size=3, unique=True))
    return entry, {name: draw(near(properties[name])) for name in chosen}


@settings(max_examples=500, deadline=None)
@given(loss_settings())
@example((registry.get("focal"), {"ignore_index": 10**400}))
@example((registry.get("corn"), {"num_classes": 10**400}))
def test_whatever_json_schema_accepts_marshmallow_loads_unchanged(case):
    entry, values = case
    accepted = validator(entry).is_valid({"type": entry.name, **values})
    assert compiled(entry.schema)({"type": entry.name, **values}) == accepted
    try:
        loaded = entry.config.load().schema().load({"type": entry.name, **values})
    except marshmallow.ValidationError:
        assert not accepted
    else:
        assert accepted, "marshmallow is laxer than the JSON Schema"
        for name, value in values.items():
            assert getattr(loaded, name) == value


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_valid_and_plain_json(name):
    schema = registry.get(name).schema
    jsonschema.Draft7Validator.check_schema(schema)
    defaults = {key: s["default"] for key, s in schema["properties"].items() if key != "type"}
    assert validator(registry.get(name)).is_valid({"type": name, **defaults})
    assert json.loads(json.dumps(defaults)) == defaults


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_described(name):
    for setting, schema in registry.get(name).schema["properties"].items():
        text = schema.get("description", "")
        assert len(text) > 10, setting
        assert text.endswith("."), setting


def test_limits_in_words():
    assert describe({"type": "number", "minimum": 0, "exclusiveMaximum": 1}) == "a number at least 0 and less than 1"
    assert describe({"type": ["integer", "null"]}) == "an integer or null"
    assert describe({"enum": ["a", "b", None]}) == "a, b or null"
    assert (
        describe({"type": "array", "items": {"type": "array", "items": {"type": "number"}}})
        == "a list of lists of numbers"
    )


words = st.sampled_from(["a", "b", ""])
plain_schemas = st.recursive(
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(
                ["number", "integer", "boolean", "string", "null", "array", "object", ["string", "null"]]
            ),
            "enum": st.lists(st.sampled_from([0, 1, 1.5, True, False, "a", None]), min_size=1),
            **{k: st.sampled_from([0, 1, 1.5]) for k in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")},
            **{
                bound + unit: st.integers(0, 2)
                for bound in ("min", "max")
                for unit in ("Items", "Length", "Properties")
            },
        },
    ),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "items": inner | st.booleans() | st.lists(inner, min_size=1, max_size=2),
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "properties": st.dictionaries(words, inner | st.booleans(), max_size=2),
            "additionalProperties": inner | st.booleans(),
            "required": st.lists(words, max_size=2, unique=True),
            "propertyNames": inner,
            **dict.fromkeys(("if", "then", "else"), inner),
        },
    ),
    max_leaves=4,
)
plain_values = st.recursive(
    st.sampled_from([None, True, False, 0, 1, 2, 1.0, 1.5, -1, "a", "", "abc", math.nan, math.inf, 10**400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=1000, deadline=None)
@given(plain_schemas, plain_values)
def test_quick_check_and_jsonschema_have_one_verdict(schema, value):
    assert compiled(schema)(value) == _validator_class()(schema).is_valid(value)


def test_quick_check_leaves_unknown_keywords_to_jsonschema():
    with pytest.raises(UnknownKeywordError):
        compiled({"pattern": "b"})


# The schema of a whole file


def document_schema(draft="7"):
    rows = (LossRow(e.names, e.feature_types, e.summary, e.schema) for e in registry.entries())
    ways = (StrategyRow(e.name, e.summary, e.schema) for e in strategies.entries())
    return config_schema(rows, draft, strategies=ways)


DOCUMENT_VALIDATOR = jsonschema.Draft7Validator(document_schema())


def test_document_schema_is_valid_in_both_drafts():
    jsonschema.Draft7Validator.check_schema(document_schema())
    jsonschema.Draft202012Validator.check_schema(document_schema("2020-12"))
    assert "#/definitions/" not in json.dumps(document_schema("2020-12"))


def test_settings_that_losses_share_stand_once():
    definitions = document_schema()["definitions"]
    assert definitions["loss_huber"]["properties"]["weight"] == {"$ref": "#/definitions/setting_weight"}
    assert definitions["loss_huber"]["properties"]["delta"]["exclusiveMinimum"] == 0


@settings(max_examples=300, deadline=None)
@given(documents())
def test_document_schema_and_validate_have_one_verdict(config):
    """With jsonschema alone; tests/editor asks ajv and check-jsonschema too, and says what is left out."""
    errors = {d.code for d in losskit.validate(config) if d.severity == "error"}
    if not errors or errors - {"LK106", "LK205", "LK206", "LK207"}:
        assert DOCUMENT_VALIDATOR.is_valid(config) == (not errors), errors


def test_names_in_a_schema_are_no_keywords():
    """A later draft has other names for keywords, but a setting keeps its own."""
    properties = {
        name: {"type": "array", "items": {"type": "string"}}
        for name in ("items", "definitions", "dependencies", "inputs")
    }
    schema = {"type": "object", "properties": {**properties, "weight": {"type": "number"}, "type": {"enum": ["odd"]}}}
    found = config_schema([LossRow(["odd"], ["number"], "", schema)], "2020-12")["$defs"]["loss_odd"]["properties"]
    assert {"items", "definitions", "dependencies"} <= set(found) & set(found["params"]["properties"])
