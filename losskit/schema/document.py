"""The JSON Schema of a whole config file, in the form from which editors complete and explain best.

`if`/`then` on the loss's name instead of `oneOf`: one message per mistake, and it is the right one. Completion does not
look into `if`, so each place also has a sibling `anyOf` or `enum` that never fails and only feeds it.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from losskit.constants import DEFAULT_LOSSES, FEATURE_TYPES, MULTI, RESERVED

Schema = dict[str, Any]

DRAFTS = {
    "7": ("http://json-schema.org/draft-07/schema#", "definitions"),
    "2020-12": ("https://json-schema.org/draft/2020-12/schema", "$defs"),
}
# Of a list of losses without a feature, as MMF has it.
ANY = "any"


class LossRow(NamedTuple):
    """What the schema of a config file needs to know of a loss."""

    names: list[str]
    feature_types: Iterable[str]
    summary: str
    schema: Schema


def config_schema(losses: Iterable[LossRow], draft: str = "7") -> Schema:
    """The JSON Schema of config files that may use `losses`."""
    rows = sorted(losses, key=lambda row: row.names[0])
    definitions: Schema = {}
    shared = _shared_settings(rows)
    for row in rows:
        definitions[f"loss_{row.names[0]}"] = _loss(row, shared)
    definitions.update({f"setting_{name}": schema for name, schema in shared.items()})
    for feature_type in FEATURE_TYPES:
        allowed = [row for row in rows if feature_type in row.feature_types]
        if allowed:
            definitions.update(_places(feature_type, allowed))
    definitions.update(_places(ANY, rows))
    definitions["feature"] = _feature(definitions)
    schema = {
        "$schema": DRAFTS["7"][0],
        "title": "losskit config",
        "description": "The losses of a model's output features.",
        "type": "object",
        "properties": {
            "output_features": {
                "title": "output features",
                "description": "What the model predicts, and with which losses it is trained.",
                "type": "array",
                "minItems": 1,
                "items": {"$ref": "#/definitions/feature"},
            },
            "losses": {"$ref": f"#/definitions/{ANY}_list"},
        },
        "oneOf": [{"required": ["output_features"]}, {"required": ["losses"]}],
        "definitions": definitions,
    }
    return schema if draft == "7" else _in_draft(schema, draft)


def dump(schema: Schema) -> str:
    """The text of a generated JSON file."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _shared_settings(rows: list[LossRow]) -> Schema:
    """Settings that several losses have in the same form; each stands once in the file."""
    forms: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for row in rows:
        for name, schema in row.schema["properties"].items():
            forms[name][json.dumps(schema, sort_keys=True)] += 1
    shared = {}
    for name, counter in forms.items():
        text, count = counter.most_common(1)[0]
        if count > 1:
            shared[name] = json.loads(text)
    return shared


def _loss(row: LossRow, shared: Schema) -> Schema:
    properties = {
        name: {"$ref": f"#/definitions/setting_{name}"} if shared.get(name) == schema else {"title": name, **schema}
        for name, schema in row.schema["properties"].items()
    }
    pointer = f"#/definitions/loss_{row.names[0]}/properties"
    properties["params"] = {
        "title": "params",
        "description": "The settings of the loss, as MMF writes them.",
        "type": "object",
        "properties": {
            name: schema if "$ref" in schema else {"$ref": f"{pointer}/{name}"}
            for name, schema in properties.items()
            if name not in RESERVED
        },
        "additionalProperties": False,
    }
    text = row.summary or row.names[0]
    return {**row.schema, "description": text, "markdownDescription": text, "properties": properties}


def _places(feature_type: str, rows: list[LossRow]) -> Schema:
    """Where a loss of this feature type can stand: a name, a mapping, or a list of both."""
    names = [name for row in rows for name in row.names]
    options = {
        "enum": names,
        "enumDescriptions": [row.summary for row in rows for _ in row.names],
        "errorMessage": f"not a loss for {feature_type}; one of {', '.join(row.names[0] for row in rows)}"
        if feature_type != ANY
        else "no loss has this name",
    }

    with_multi = {
        "enum": [*names, MULTI],
        "enumDescriptions": [*options["enumDescriptions"], "The losses that stand in its `params`, as in MMF."],
    }

    def ref(place: str) -> Schema:
        return {"$ref": f"#/definitions/{feature_type}_{place}"}

    branches = [
        {
            "if": {"properties": {"type": {"enum": row.names}}, "required": ["type"]},
            "then": {"$ref": f"#/definitions/loss_{row.names[0]}"},
        }
        for row in rows
    ]
    multi = {"properties": {"type": {}, "params": ref("list")}, "required": ["params"], "additionalProperties": False}
    branches.append({"if": {"properties": {"type": {"const": MULTI}}, "required": ["type"]}, "then": multi})
    default = DEFAULT_LOSSES.get(feature_type)
    single = ref("loss")
    if any(row.names[0] == default for row in rows):
        # As in Ludwig, settings without a name are those of the feature type's default.
        untyped = {"type": "object", "not": {"required": ["type"]}}
        single = {"if": untyped, "then": {"$ref": f"#/definitions/loss_{default}"}, "else": single}
    a_list = {"type": "array", "minItems": 1, "items": ref("loss")}
    return {
        f"{feature_type}_name": {"title": "loss name", **options},
        f"{feature_type}_mapping": {
            "title": f"{feature_type} loss",
            "type": "object",
            "properties": {"type": {"title": "loss name", **options, **with_multi}, "weight": {"title": "weight"}},
            "required": ["type"],
            "allOf": branches,
        },
        f"{feature_type}_loss": {
            "title": f"{feature_type} loss",
            "anyOf": [ref("name"), {}],
            "if": {"type": "object"},
            "then": ref("mapping"),
            "else": ref("name"),
        },
        f"{feature_type}_list": {"title": f"{feature_type} losses", **a_list},
        f"{feature_type}_losses": {
            "title": f"{feature_type} losses",
            "anyOf": [ref("name"), {}],
            "if": {"type": "array"},
            "then": ref("list"),
            "else": single,
        },
    }


def _feature(definitions: Schema) -> Schema:
    branches = []
    for feature_type in FEATURE_TYPES:
        if f"{feature_type}_losses" in definitions:
            then: Schema = {"properties": {"loss": {"$ref": f"#/definitions/{feature_type}_losses"}}}
        else:
            then = {"properties": {"loss": False}}
        if DEFAULT_LOSSES.get(feature_type) is None:
            then["required"] = ["loss"]
        condition = {"properties": {"type": {"const": feature_type}}, "required": ["type"]}
        branches.append({"if": condition, "then": then})
    return {
        "title": "output feature",
        "type": "object",
        "properties": {
            "name": {
                "title": "feature name",
                "description": "What the feature is called.",
                "type": "string",
                "minLength": 1,
            },
            "type": {
                "title": "feature type",
                "description": "What kind of value it is; decides which losses are allowed.",
                "enum": list(FEATURE_TYPES),
                "errorMessage": f"no feature type; one of {', '.join(FEATURE_TYPES)}",
            },
            "num_classes": {
                "title": "number of classes",
                "description": "How many classes there are; lets class weights be checked.",
                "type": "integer",
                "minimum": 1,
            },
            "classes": {
                "title": "class names",
                "description": "The names of the classes in the order of their ids.",
                "type": "array",
                "items": {"type": "string"},
                "minItems": 1,
                "uniqueItems": True,
            },
            "loss": {"title": "loss", "description": "A loss, or a list of losses; their weighted sum is minimised."},
        },
        "required": ["name", "type"],
        "allOf": branches,
    }


def _in_draft(schema: Any, draft: str) -> Any:
    """The same schema in another draft: other names for the dialect and for the definitions."""
    uri, keyword = DRAFTS[draft]
    if isinstance(schema, list):
        return [_in_draft(item, draft) for item in schema]
    if not isinstance(schema, dict):
        return schema
    renamed = {}
    for key, value in schema.items():
        if key == "$schema":
            renamed[key] = uri
        elif key == "$ref":
            renamed[key] = value.replace("#/definitions/", f"#/{keyword}/")
        elif key == "items" and isinstance(value, list):
            renamed["prefixItems"] = _in_draft(value, draft)
        else:
            renamed[keyword if key == "definitions" else key] = _in_draft(value, draft)
    return renamed
