"""The JSON Schema of a whole config file, in the form from which editors complete and explain best.

`if`/`then` on the loss's name instead of `oneOf`: one message per mistake, and it is the right one. Completion does not
look into `if`, so each place also has a sibling `anyOf` or `enum` that never fails and only feeds it. Every `if` asks
for a mapping first, because all of them would hold for the empty place in which one begins to write. What can be shown
has a title, because messages and hover texts would else bear the title of what is around it.
"""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Iterable
from typing import Any, NamedTuple

from losskit.constants import DEFAULT_LOSSES, FEATURE_TYPES, MISSING, MULTI, RESERVED
from losskit.schema.describe import describe

Schema = dict[str, Any]

DRAFTS = {
    "7": ("http://json-schema.org/draft-07/schema#", "definitions"),
    "2020-12": ("https://json-schema.org/draft/2020-12/schema", "$defs"),
}
# Of a list of losses without a feature, as MMF has it.
ANY = "any"
_MULTI_SUMMARY = "The losses that stand in its `params`, as in MMF."
# What means something else in a regular expression; JSON Schema's know fewer escapes than Python's.
_SYNTAX = re.compile(r"[\^$\\.*+?()\[\]{}|/]")
_ESCAPED = r"\\\g<0>"
# What explains a schema and lets nothing fail.
_ANNOTATIONS = ("description", "markdownDescription", "default", "examples")
# Keywords whose value maps names to schemas.
_MAPS = ("properties", "definitions", "dependencies")


class LossRow(NamedTuple):
    """What the schema of a config file needs to know of a loss."""

    names: list[str]
    feature_types: Iterable[str]
    summary: str
    schema: Schema


class StrategyRow(NamedTuple):
    """What the schema of a config file needs to know of a strategy to balance losses."""

    name: str
    summary: str
    schema: Schema


def config_schema(losses: Iterable[LossRow], draft: str = "7", *, strategies: Iterable[StrategyRow] = ()) -> Schema:
    """The JSON Schema of config files that may use `losses` and `strategies`."""
    rows = sorted(losses, key=lambda row: row.names[0])
    definitions: Schema = {}
    settings = {row.names[0]: _settings(row) for row in rows}
    shared = _shared(settings)
    for row in rows:
        definitions[f"loss_{row.names[0]}"] = _loss(row, settings[row.names[0]], shared)
    definitions.update({name: json.loads(text) for text, name in shared.items()})
    names = sorted({name for found in settings.values() for name in found if name not in RESERVED})
    definitions["once"] = {"title": "loss", "type": "object", "dependencies": {name: _once(name) for name in names}}
    for row in rows:
        for name in row.names:
            definitions[f"when_{name}"] = _when(name, _ref(f"loss_{row.names[0]}"))
    # A plugin may take the name of MMF's list of losses for a loss of its own.
    has_multi = not any(MULTI in row.names for row in rows)
    for feature_type in FEATURE_TYPES:
        allowed = [row for row in rows if feature_type in row.feature_types]
        if allowed:
            definitions.update(_places(feature_type, allowed, has_multi))
    definitions.update(_places(ANY, rows, has_multi))
    definitions["feature"] = _feature(definitions)
    schema: Schema = {
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
                "items": _ref("feature"),
            },
            "losses": _ref(f"{ANY}_list"),
        },
        "if": _has("output_features"),
        "then": {
            "title": "losskit config",
            "type": "object",
            "properties": {"losses": False},
            "errorMessage": "`losses` and `output_features` stand in one config; keep one of them",
        },
        "else": {"if": _has("losses"), "else": _has("output_features")},
        "definitions": definitions,
    }
    if ways := sorted(strategies, key=lambda row: row.name):
        definitions.update(_balancing(ways))
        schema["properties"]["loss_balancing"] = _ref("balancing")
    return schema if draft == "7" else _in_draft(schema, draft)


def dump(schema: Schema) -> str:
    """The text of a generated JSON file."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _ref(*steps: str) -> Schema:
    """To a definition, or to what `steps` lead to in it. A plugin may give its losses any names."""
    quoted = (urllib.parse.quote(step.replace("~", "~0").replace("/", "~1"), safe="~:") for step in steps)
    return {"$ref": f"#/definitions/{'/'.join(quoted)}"}


def _has(key: str) -> Schema:
    """Of a mapping that has a key."""
    return {"title": "losskit config", "type": "object", "properties": {key: True}, "required": [key]}


def _when(kind: str, then: Schema) -> Schema:
    """Of whatever names its `type`: what holds where it is of that type.

    A pattern, because while one writes, the language server takes a constant for met by any word that it begins with,
    and would offer the settings of `nll_loss` for `nll`.
    """
    is_kind = {"type": "string", "pattern": f"^{_SYNTAX.sub(_ESCAPED, kind)}$"}
    return {
        "title": kind,
        "if": {"type": "object", "properties": {"type": is_kind}, "required": ["type"]},
        "then": then,
    }


def _settings(row: LossRow) -> Schema:
    """The settings of a loss, as they stand beside its type."""
    settings = {name: _titled(name, schema) for name, schema in row.schema["properties"].items()}
    for schema in settings.values():
        if schema.get("deprecated"):
            schema["doNotSuggest"] = True  # an old name, which is still right
    # Without the names, which the `if` that leads here has seen: hover would take this for the list to choose from.
    text = f"`{row.names[0]}`: {row.summary}" if row.summary else f"`{row.names[0]}`"
    settings["type"] = {"title": "loss name", "type": "string", "markdownDescription": text}
    if roles := settings["inputs"].get("properties"):
        settings["inputs"]["propertyNames"] = {"title": "what the loss takes", "enum": list(roles)}
    return settings


def _titled(title: str, schema: Schema) -> Schema:
    """A setting's schema with titles all the way down."""
    schema = {"title": title, **schema}
    if isinstance(schema.get("items"), dict):
        schema["items"] = _titled(title, schema["items"])
    elif "items" in schema:
        schema["items"] = [_titled(title, item) for item in schema["items"]]
    if isinstance(schema.get("additionalProperties"), dict):
        schema["additionalProperties"] = _titled(title, schema["additionalProperties"])
    if "properties" in schema:
        schema["properties"] = {name: _titled(name, inner) for name, inner in schema["properties"].items()}
    if "anyOf" in schema:
        # Hover shows the setting's own text only where the alternatives differ in their titles.
        schema["anyOf"] = [{**_titled(title, option), "title": describe(option)} for option in schema["anyOf"]]
    return schema


def _shared(settings: dict[str, Schema]) -> dict[str, str]:
    """The forms of settings that several losses have, each with the name under which it stands once in the file.

    The form that most losses have bears the name of the setting alone, the others that of a loss too.
    """
    losses: dict[str, dict[str, list[str]]] = {}
    for loss, found in settings.items():
        for name, schema in found.items():
            losses.setdefault(name, {}).setdefault(json.dumps(schema), []).append(loss)
    shared = {}
    for name, forms in losses.items():
        common = sorted(((text, users) for text, users in forms.items() if len(users) > 1), key=lambda f: -len(f[1]))
        for index, (text, users) in enumerate(common):
            # No name of a setting holds a colon, so that no two of these are the same.
            shared[text] = f"setting_{name}:{users[0]}" if index else f"setting_{name}"
    return shared


def _loss(row: LossRow, settings: Schema, shared: dict[str, str]) -> Schema:
    properties = {}
    for name, schema in settings.items():
        found = shared.get(json.dumps(schema))
        properties[name] = _ref(found) if found else schema
    own = [name for name in properties if name not in RESERVED]
    properties["params"] = {
        "title": f"settings of {row.names[0]}",
        "description": "The settings of the loss, as MMF writes them.",
        "type": ["object", "null"],
        "properties": {
            name: properties[name] if "$ref" in properties[name] else _ref(f"loss_{row.names[0]}", "properties", name)
            for name in own
        },
        "additionalProperties": False,
    }
    text = row.summary or row.names[0]
    return {
        **row.schema,
        "description": text,
        "markdownDescription": text,
        "properties": properties,
        "allOf": [_ref("once")],
    }


def _once(name: str) -> Schema:
    """Of a loss that has the setting: it does not stand in `params` too."""
    params = {
        "title": name,
        "type": ["object", "null"],
        "properties": {name: False},
        "errorMessage": f"`{name}` stands both in `params` and beside it",
        "doNotSuggest": True,
    }
    return {"title": name, "type": "object", "properties": {"params": params}}


def _places(feature_type: str, rows: list[LossRow], has_multi: bool) -> Schema:
    """Where a loss of this feature type can stand: a name, a mapping, or a list of both."""
    names = [name for row in rows for name in row.names]
    descriptions = [row.summary for row in rows for _ in row.names]
    message = f"not a loss for {feature_type}; one of {', '.join(row.names[0] for row in rows)}"
    options = {"title": "loss name", "errorMessage": "no loss has this name" if feature_type == ANY else message}
    a_name = {**options, "enum": names, "enumDescriptions": descriptions}
    a_type, branches = a_name, [_ref(f"when_{name}") for name in names]
    if has_multi:
        a_type = {**options, "enum": [*names, MULTI], "enumDescriptions": [*descriptions, _MULTI_SUMMARY]}
        branches.append(_when(MULTI, _multi(_ref(f"{feature_type}_list"))))

    def ref(place: str) -> Schema:
        return _ref(f"{feature_type}_{place}")

    title = "any loss" if feature_type == ANY else f"{feature_type} loss"
    single = ref("loss")
    for row in rows:
        if row.names[0] == DEFAULT_LOSSES.get(feature_type):
            single = _or_default(row, title, typed=single, mapping=ref("mapping"))
    a_mapping = {"title": title, "type": "object"}
    a_list = {"title": f"{title}es", "type": "array"}
    anything = {"title": title}
    weight = {key: value for key, value in rows[0].schema["properties"]["weight"].items() if key in _ANNOTATIONS}
    return {
        f"{feature_type}_name": a_name,
        f"{feature_type}_mapping": {
            **a_mapping,
            "properties": {"type": a_type, "weight": {"title": "weight", **weight}},
            "required": ["type"],
            "allOf": branches,
        },
        f"{feature_type}_loss": {
            "title": title,
            "anyOf": [ref("name"), anything],
            "if": a_mapping,
            "then": ref("mapping"),
            "else": ref("name"),
        },
        f"{feature_type}_list": {
            **a_list,
            "description": "Losses whose weighted sum is minimised.",
            "minItems": 1,
            "items": ref("loss"),
        },
        f"{feature_type}_losses": {
            "title": title,
            "description": "A loss, or a list of losses; their weighted sum is minimised.",
            "anyOf": [ref("name"), anything],
            "if": a_list,
            "then": ref("list"),
            "else": single,
        },
    }


def _balancing(rows: list[StrategyRow]) -> Schema:
    """How losses may be balanced: a name or a mapping. Nothing else has definitions of these names."""
    title = "loss balancing"
    names = {
        "title": "strategy",
        "enum": [row.name for row in rows],
        "enumDescriptions": [row.summary for row in rows],
        "errorMessage": f"no way to balance losses; one of {', '.join(row.name for row in rows)}",
    }
    a_mapping = {"title": title, "type": "object"}
    definitions: Schema = {
        "balancing_name": names,
        "balancing_mapping": {
            **a_mapping,
            "properties": {"type": names},
            "required": ["type"],
            "allOf": [_ref(f"chosen_{row.name}") for row in rows],
        },
        "balancing": {
            "title": title,
            "description": "How the losses of several tasks are made one value to minimise; without it, their weighted "
            "sum.",
            "anyOf": [_ref("balancing_name"), {"title": title}],
            "if": a_mapping,
            "then": _ref("balancing_mapping"),
            "else": _ref("balancing_name"),
        },
    }
    for row in rows:
        settings = {name: _titled(name, schema) for name, schema in row.schema["properties"].items()}
        text = f"`{row.name}`: {row.summary}"
        settings["type"] = {"title": "strategy", "type": "string", "markdownDescription": text}
        definitions[f"strategy_{row.name}"] = {
            **row.schema,
            "description": row.summary,
            "markdownDescription": row.summary,
            "properties": settings,
        }
        definitions[f"chosen_{row.name}"] = _when(row.name, _ref(f"strategy_{row.name}"))
    return definitions


def _multi(losses: Schema) -> Schema:
    """MMF's list of losses, which stands where a loss can stand."""
    return {
        "title": MULTI,
        "type": "object",
        "properties": {"type": {"title": "loss name"}, "params": losses},
        "required": ["params"],
        "additionalProperties": False,
    }


def _or_default(row: LossRow, title: str, *, typed: Schema, mapping: Schema) -> Schema:
    """Settings without a name are those of the feature type's default loss, as in Ludwig, if it has them all.

    If it has not, the name is what is missing, and that is the one message. A key that is half written is none of the
    loss's settings, so that these are offered there too.
    """
    known = [name for name in row.schema["properties"] if name != "type"]
    settings = {"type": "object", "propertyNames": {"enum": [*known, "params"]}}
    default = _ref(f"loss_{row.names[0]}")
    return {
        "title": title,
        "if": {"type": "object", "properties": {"type": False}},
        "then": {
            "title": title,
            "if": settings,
            "then": default,
            "else": {"title": title, "anyOf": [default, {"title": title}], "allOf": [mapping]},
        },
        "else": typed,
    }


def _feature(definitions: Schema) -> Schema:
    branches = []
    for feature_type in FEATURE_TYPES:
        then: Schema = {"title": "output feature", "type": "object", "properties": {"loss": False}}
        if f"{feature_type}_losses" in definitions:
            then["properties"] = {"loss": _ref(f"{feature_type}_losses")}
        if DEFAULT_LOSSES.get(feature_type) is None:
            then["required"] = ["loss"]
        branches.append(_when(feature_type, then))
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
                "items": {"title": "class name", "type": "string"},
                "minItems": 1,
                "uniqueItems": True,
            },
            "missing": {
                "title": "missing labels",
                "description": "`mask`: targets that are NaN are missing labels, and do not count.",
                "enum": list(MISSING),
            },
        },
        "required": ["name", "type"],
        "allOf": branches,
    }


def _in_draft(schema: Any, draft: str) -> Any:
    """The same schema in another draft: other names for the dialect and for some keywords."""
    uri, keyword = DRAFTS[draft]
    if isinstance(schema, list):
        return [_in_draft(item, draft) for item in schema]
    if not isinstance(schema, dict):
        return schema
    renames = {"definitions": keyword, "dependencies": "dependentSchemas"}
    renamed: Schema = {}
    for key, value in schema.items():
        if key == "$schema":
            renamed[key] = uri
        elif key == "$ref":
            renamed[key] = value.replace("#/definitions/", f"#/{keyword}/")
        elif key in _MAPS:
            # The keys of these are names, such as a setting called `items`, not keywords.
            renamed[str(renames.get(key, key))] = {name: _in_draft(inner, draft) for name, inner in value.items()}
        elif key == "items" and isinstance(value, list):
            renamed["prefixItems"] = _in_draft(value, draft)
        else:
            renamed[key] = value if key in ("default", "examples", "enum", "const") else _in_draft(value, draft)
    return renamed
