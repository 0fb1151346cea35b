"""Whether a value fits a JSON Schema, yes or no, for the keywords that the schemas of losses use.

Most configs are right, and for those this spares importing jsonschema, half the time of a cold start. What is wrong
with a value, and what a keyword means that is unknown here, is jsonschema's affair; a property test holds both to one
verdict.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

TYPE_CHECKING = False  # as in config.py
if TYPE_CHECKING:
    from typing import Any

    Check = Callable[[Any], bool]


class UnknownKeywordError(LookupError):
    """The schema has a keyword that is not known here."""


def compiled(schema: Mapping[str, Any] | bool) -> Check:
    """A function that says whether a value fits `schema`.

    Raises:
        UnknownKeywordError: ask jsonschema.
    """
    if isinstance(schema, bool):
        return lambda value: schema
    checks: list[Check] = []
    for keyword, limit in schema.items():
        if keyword in _SKIPPED:
            continue
        make = _MAKERS.get(keyword)
        if make is None:
            raise UnknownKeywordError(keyword)
        checks.append(make(limit, schema))
    if len(checks) == 1:
        return checks[0]

    def check_all(value: Any) -> bool:
        for check in checks:  # noqa: SIM110 - half the time of all() with a generator
            if not check(value):
                return False
        return True

    return check_all


def is_number(value: Any) -> bool:
    """Whether it is a number in the sense of JSON: no bool, no infinity, and nothing that no float can hold."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def is_integer(value: Any) -> bool:
    """Whether it is a number in the sense of JSON without a fraction, such as 2 and 2.0."""
    return is_number(value) and value == int(value)


_TYPES: dict[str, Check] = {
    "number": is_number,
    "integer": is_integer,
    "boolean": lambda value: isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
    "null": lambda value: value is None,
}


def _type(kinds: str | list[str], _: Mapping[str, Any]) -> Check:
    if isinstance(kinds, str):
        return _TYPES[kinds]
    checks = [_TYPES[kind] for kind in kinds]
    return lambda value: any(check(value) for check in checks)


def _enum(options: list[Any], _: Mapping[str, Any]) -> Check:
    # Python takes True for 1, JSON does not.
    return lambda value: any(
        isinstance(value, bool) is isinstance(option, bool) and value == option for option in options
    )


def _any_of(options: list[Any], _: Mapping[str, Any]) -> Check:
    checks = [compiled(option) for option in options]
    return lambda value: any(check(value) for check in checks)


def _items(items: Any, _: Mapping[str, Any]) -> Check:
    if isinstance(items, list):
        checks = [compiled(schema) for schema in items]
        return lambda value: not isinstance(value, list) or all(c(item) for c, item in zip(checks, value, strict=False))
    check = compiled(items)
    return lambda value: not isinstance(value, list) or all(map(check, value))


def _properties(properties: Mapping[str, Any], _: Mapping[str, Any]) -> Check:
    checks = {name: compiled(schema) for name, schema in properties.items()}
    return lambda value: not isinstance(value, dict) or all(checks[key](value[key]) for key in value.keys() & checks)


def _additional(rest: Any, schema: Mapping[str, Any]) -> Check:
    known = schema.get("properties", {}).keys()
    if rest is False:
        return lambda value: not isinstance(value, dict) or value.keys() <= known
    check = compiled(rest)
    return lambda value: not isinstance(value, dict) or all(check(value[key]) for key in value.keys() - known)


def _required(names: list[str], _: Mapping[str, Any]) -> Check:
    return lambda value: not isinstance(value, dict) or all(name in value for name in names)


def _property_names(names: Mapping[str, Any], _: Mapping[str, Any]) -> Check:
    check = compiled(names)
    return lambda value: not isinstance(value, dict) or all(map(check, value))


def _if(condition: Mapping[str, Any], schema: Mapping[str, Any]) -> Check:
    holds, then, otherwise = (compiled(part) for part in (condition, schema.get("then", {}), schema.get("else", {})))
    return lambda value: then(value) if holds(value) else otherwise(value)


def _limit(is_within: Callable[[Any, Any], bool]) -> Callable[[Any, Any], Check]:
    return lambda limit, _: lambda value: not is_number(value) or is_within(value, limit)


def _size(
    kind: type[list[Any] | dict[str, Any] | str], is_within: Callable[[int, int], bool]
) -> Callable[[Any, Any], Check]:
    return lambda limit, _: lambda value: not isinstance(value, kind) or is_within(len(value), limit)


def _at_least(value: Any, limit: Any) -> bool:
    return bool(value >= limit)


def _at_most(value: Any, limit: Any) -> bool:
    return bool(value <= limit)


_MAKERS: dict[str, Callable[[Any, Mapping[str, Any]], Check]] = {
    "type": _type,
    "enum": _enum,
    "anyOf": _any_of,
    "items": _items,
    "properties": _properties,
    "additionalProperties": _additional,
    "required": _required,
    "propertyNames": _property_names,
    "if": _if,
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
# `if` looks at the other two.
_SKIPPED = {*_ANNOTATIONS, "then", "else"}
