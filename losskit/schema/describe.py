"""Says in words what a JSON Schema allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def describe(schema: Mapping[str, Any]) -> str:
    """What a setting may be, in words: `a number greater than 0`."""
    if "anyOf" in schema:
        return _either([describe(option) for option in schema["anyOf"]])
    if "enum" in schema:
        return _either([yaml_text(option) for option in schema["enum"]])
    kind = schema.get("type")
    if isinstance(kind, list):
        return _either([describe({**schema, "type": one}) for one in kind])
    if kind == "array":
        items = schema["items"]
        what = f" of {_plural(describe(items))}" if isinstance(items, dict) else f" of {len(items)}"
        return "a list" + what
    if kind == "object":
        values = schema.get("additionalProperties")
        if values is False:
            return str(schema["title"])
        return "a mapping" + (f" to {_plural(describe(values))}" if isinstance(values, dict) else "")
    words = {
        "number": "a number",
        "integer": "an integer",
        "boolean": "true or false",
        "string": "text",
        "null": "null",
    }
    return words[str(kind)] + (_limits(schema) if kind in ("number", "integer") else "")


# Limits of class ids that may be any, which tell a reader nothing.
_INT32 = (-(2**31), 2**31 - 1)


def _limits(schema: Mapping[str, Any]) -> str:
    parts = [
        f"{words} {yaml_text(schema[keyword])}"
        for keyword, words in (
            ("minimum", "at least"),
            ("exclusiveMinimum", "greater than"),
            ("maximum", "at most"),
            ("exclusiveMaximum", "less than"),
        )
        if keyword in schema and schema[keyword] not in _INT32
    ]
    return " " + " and ".join(parts) if parts else ""


def _plural(words: str) -> str:
    for singular, plural in (("a number", "numbers"), ("an integer", "integers"), ("a list", "lists")):
        if words.startswith(singular):
            return plural + words[len(singular) :]
    return words


def _either(options: list[str]) -> str:
    return options[0] if len(options) == 1 else ", ".join(options[:-1]) + " or " + options[-1]


def yaml_text(value: Any) -> str:
    """A default or an option as YAML has it, in a notation that all YAML readers understand."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    mantissa, e, exponent = str(value).partition("e")
    if isinstance(value, float) and e and "." not in mantissa:
        return f"{mantissa}.0e{exponent}"
    return str(value)
