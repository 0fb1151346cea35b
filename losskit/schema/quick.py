"""Whether a value fits a JSON Schema, yes or no, for the keywords that the schemas of losses use.

Most configs are right, and for those this spares importing jsonschema, half the time of a cold start. What is wrong
with a value, and what a keyword means that is unknown here, is jsonschema's affair; a property test holds both to one
verdict.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any, Any, Mapping[str, Any]], bool]


class UnknownKeywordError(LookupError):
    """The schema has a keyword that is not known here."""


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether `value` fits `schema`.

    Raises:
        UnknownKeywordError: ask jsonschema.
    """
    for keyword, limit in schema.items():
        if keyword in _ANNOTATIONS:
            continue
        check = _CHECKS.get(keyword)
        if check is None:
            raise UnknownKeywordError(keyword)
        if not check(value, limit, schema):
            return False
    return True


def is_number(value: Any) -> bool:
    """Whether it is a number in the sense of JSON: no bool, no infinity, and nothing that no float can hold."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def is_integer(value: Any) -> bool:
    """Whether it is a number in the sense of JSON without a fraction, such as 2 and 2.0."""
    return is_number(value) and value == int(value)


_TYPES: dict[str, Callable[[Any], bool]] = {
    "number": is_number,
    "integer": is_integer,
    "boolean": lambda value: isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
    "null": lambda value: value is None,
}


def _type(value: Any, kinds: str | list[str], _: Mapping[str, Any]) -> bool:
    return any(_TYPES[kind](value) for kind in ([kinds] if isinstance(kinds, str) else kinds))


def _enum(value: Any, options: list[Any], _: Mapping[str, Any]) -> bool:
    # Python takes True for 1, JSON does not.
    return any(isinstance(value, bool) is isinstance(option, bool) and value == option for option in options)


def _items(value: Any, items: Any, _: Mapping[str, Any]) -> bool:
    if not isinstance(value, list):
        return True
    if isinstance(items, list):
        return all(fits(item, schema) for item, schema in zip(value, items, strict=False))
    return all(fits(item, items) for item in value)


def _properties(value: Any, properties: Mapping[str, Any], _: Mapping[str, Any]) -> bool:
    return not isinstance(value, dict) or all(fits(value[key], properties[key]) for key in value.keys() & properties)


def _additional(value: Any, rest: Any, schema: Mapping[str, Any]) -> bool:
    if not isinstance(value, dict):
        return True
    others = [value[key] for key in value.keys() - schema.get("properties", {}).keys()]
    return not others if rest is False else rest is True or all(fits(item, rest) for item in others)


def _limit(is_within: Callable[[Any, Any], bool]) -> Check:
    return lambda value, limit, _: not is_number(value) or is_within(value, limit)


def _size(kind: type[list[Any]] | type[dict[str, Any]] | type[str], is_within: Callable[[int, int], bool]) -> Check:
    return lambda value, limit, _: not isinstance(value, kind) or is_within(len(value), limit)


def _at_least(value: Any, limit: Any) -> bool:
    return bool(value >= limit)


def _at_most(value: Any, limit: Any) -> bool:
    return bool(value <= limit)


_CHECKS: dict[str, Check] = {
    "type": _type,
    "enum": _enum,
    "anyOf": lambda value, options, _: any(fits(value, option) for option in options),
    "items": _items,
    "properties": _properties,
    "additionalProperties": _additional,
    "required": lambda value, names, _: not isinstance(value, dict) or all(name in value for name in names),
    "minimum": _limit(_at_least),
    "maximum": _limit(_at_most),
    "exclusiveMinimum": _limit(lambda value, limit: value > limit),
    "exclusiveMaximum": _limit(lambda value, limit: value < limit),
    "minItems": _size(list, _at_least),
    "maxItems": _size(list, _at_most),
    "minLength": _size(str, _at_least),
    "maxLength": _size(str, _at_most),
    "minProperties": _size(dict, _at_least),
    "maxProperties": _size(dict, _at_most),
}
_ANNOTATIONS = {"title", "description", "markdownDescription", "default", "examples", "deprecated"}
