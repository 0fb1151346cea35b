"""JSON Schema written from the marshmallow fields of a loss config.

What it cannot express exactly is a TypeError: a schema that is weaker than the config class would let mistakes pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import marshmallow
from marshmallow import fields, validate
from marshmallow_dataclass.union_field import Union

from losskit.schema.base import BaseConfig, BaseLossConfig
from losskit.schema.describe import describe, yaml_text
from losskit.schema.loading import Boolean, Either, Float, Integer, Record, schema_fields

Schema = dict[str, Any]

_SCALARS: dict[type, str] = {
    Float: "number",
    fields.Float: "number",
    Integer: "integer",
    fields.Integer: "integer",
    Boolean: "boolean",
    fields.Boolean: "boolean",
    fields.String: "string",
}
_LENGTH_KEYWORDS = {"array": "Items", "object": "Properties", "string": "Length"}


def loss_schema(config_cls: type[BaseConfig], names: list[str], description: str, roles: Sequence[str] = ()) -> Schema:
    """The JSON Schema of one loss, or way of balancing, registered as `names[0]` with the others as aliases.

    `roles` are what a loss takes, which `inputs` may rename.

    Raises:
        TypeError: a field or a validator has no exact form in JSON Schema, or a default breaks its own limits.
    """
    declared = schema_fields(config_cls)
    what = "loss" if issubclass(config_cls, BaseLossConfig) else "strategy"
    properties: dict[str, Schema] = {"type": _options(names, f"The name of the {what}.")}
    # What is special to the loss comes first, then what its base classes share.
    own = [name for cls in config_cls.__mro__ for name in vars(cls).get("__annotations__", {}) if name in declared]
    reserved = config_cls.reserved
    for name in [*(name for name in dict.fromkeys(own) if name not in reserved), *reserved[1:]]:
        try:
            properties[name] = setting_schema(declared[name])
        except TypeError as error:
            raise TypeError(f"{config_cls.__name__}.{name}: {error}") from None
    if roles:
        properties["inputs"]["properties"] = dict.fromkeys(roles, properties["inputs"]["additionalProperties"])
    for old, new in config_cls.renamed_settings.items():
        if old in properties or new not in properties:
            raise TypeError(f"{config_cls.__name__}.renamed_settings: {old!r} must be no setting, and {new!r} one")
        text = f"The old name of `{new}`."
        properties[old] = {**properties[new], "description": text, "markdownDescription": text, "deprecated": True}
    return {
        "title": names[0],
        "description": description,
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def setting_schema(field: fields.Field[Any]) -> Schema:
    """The JSON Schema of one setting, with its description, default and examples."""
    schema = field_schema(field)
    text = field.metadata.get("description", "")
    if text:
        schema["description"] = text
    default = field.dump_default() if callable(field.dump_default) else field.dump_default
    if default is not marshmallow.missing:
        try:
            field.deserialize(default)
        except marshmallow.ValidationError as error:
            raise TypeError(f"the default {default!r} is not allowed by its own limits: {error}") from None
        schema["default"] = default
        limits = describe(schema)
        schema["markdownDescription"] = f"{text}\n\n{limits}\n\nDefault: `{yaml_text(default)}`"
    if examples := field.metadata.get("examples"):
        schema["examples"] = list(examples)
    return schema


def field_schema(field: fields.Field[Any]) -> Schema:
    """The JSON Schema of what a marshmallow field accepts."""
    kind = type(field)
    schema: Schema
    if kind in _SCALARS:
        schema = {"type": _SCALARS[kind]}
    elif kind is fields.List:
        schema = {"type": "array", "items": field_schema(field.inner)}  # type: ignore[attr-defined]
    elif kind is fields.Tuple:
        items = [field_schema(item) for item in field.tuple_fields]  # type: ignore[attr-defined]
        schema = {"type": "array", "items": items, "minItems": len(items), "maxItems": len(items)}
    elif kind is fields.Dict:
        schema = _mapping(field)
    elif kind is Record:
        schema = _record(field)
    elif kind is Either:
        schema = {"anyOf": [field_schema(option) for option in field.options]}  # type: ignore[attr-defined]
    elif kind is Union:
        schema = {"anyOf": [field_schema(option) for _, option in field.union_fields]}  # type: ignore[attr-defined]
    elif kind is fields.Raw and any(isinstance(v, (validate.OneOf, validate.Equal)) for v in field.validators):
        schema = {}
    else:
        raise TypeError(f"the field {kind.__module__}.{kind.__qualname__} has no exact form in JSON Schema")
    for validator in field.validators:
        _add_validator(schema, validator)
    return _or_null(schema) if field.allow_none else schema


def _mapping(field: Any) -> Schema:
    key = field.key_field
    if key is not None and (type(key) is not fields.String or key.validators):
        raise TypeError("the keys of a mapping must be plain strings")
    return {"type": "object", "additionalProperties": field_schema(field.value_field) if field.value_field else True}


def _record(field: Any) -> Schema:
    declared: Mapping[str, fields.Field[Any]] = field.schema.fields
    required = [name for name, inner in declared.items() if inner.required]
    return {
        "title": field.called,
        "type": "object",
        "properties": {name: setting_schema(inner) for name, inner in declared.items()},
        "additionalProperties": False,
        # A misspelt key is one mistake, not a key too many and another that is missing.
        "if": {"type": "object", "propertyNames": {"enum": list(declared)}},
        "then": {"type": "object", "properties": dict.fromkeys(required, True), "required": required},
    }


def _add_validator(schema: Schema, validator: Any) -> None:
    if type(validator) is validate.And:
        for part in validator.validators:
            _add_validator(schema, part)
    elif type(validator) is validate.Range and schema.get("type") in ("number", "integer"):
        if validator.min is not None:
            schema["minimum" if validator.min_inclusive else "exclusiveMinimum"] = validator.min
        if validator.max is not None:
            schema["maximum" if validator.max_inclusive else "exclusiveMaximum"] = validator.max
    elif type(validator) is validate.Length and schema.get("type") in _LENGTH_KEYWORDS:
        keyword = _LENGTH_KEYWORDS[schema["type"]]
        low = validator.min if validator.equal is None else validator.equal
        high = validator.max if validator.equal is None else validator.equal
        if low is not None:
            schema[f"min{keyword}"] = low
        if high is not None:
            schema[f"max{keyword}"] = high
    elif type(validator) in (validate.OneOf, validate.Equal):
        # The options say the type already; both together would tell one mistake twice.
        schema.pop("type", None)
        schema["enum"] = list(validator.choices) if type(validator) is validate.OneOf else [validator.comparable]
    else:
        kind = type(validator)
        raise TypeError(f"the validator {kind.__module__}.{kind.__qualname__} has no exact form in JSON Schema")


def _or_null(schema: Schema) -> Schema:
    if "anyOf" in schema:
        return {"anyOf": [*schema["anyOf"], {"type": "null"}]}
    if "type" in schema:
        schema["type"] = [schema["type"], "null"]
    if "enum" in schema and None not in schema["enum"]:
        schema["enum"] = [*schema["enum"], None]
    return schema


def _options(names: list[str], description: str) -> Schema:
    return {"enum": names, "description": description}
