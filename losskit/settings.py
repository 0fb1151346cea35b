"""Checks the settings of one loss against its JSON Schema, and says in words what is wrong with each."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from losskit.diagnostics import quoting, show, show_path
from losskit.registry import LossEntry
from losskit.schema.describe import describe, yaml_text
from losskit.schema.quick import UnknownKeywordError, compiled, is_integer, is_number
from losskit.spelling import suggested

_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "greater than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
}
_UNITS = {"Items": ("value", "values"), "Length": ("character", "characters"), "Properties": ("entry", "entries")}


class SettingError(NamedTuple):
    """What is wrong with a setting; `steps` lead from the setting to a value inside it."""

    code: str
    setting: str
    steps: tuple[str | int, ...]
    message: str
    suggestion: str | None = None
    help: str | None = None
    # What should stand in place of the value, where that is safe to say.
    cure: str | None = None


def setting_errors(entry: LossEntry, values: Mapping[str, Any]) -> Iterator[SettingError]:
    """What the schema of a loss objects to in `values`, apart from settings that the loss does not have."""
    if _check(entry)(values):
        return
    for error in validator(entry).iter_errors(values):
        if error.absolute_path:
            setting, *steps = error.absolute_path
            for inner, inside in _innermost(error):
                yield _explained(entry, str(setting), (*steps, *inside), inner)


@functools.lru_cache(maxsize=512)
def _check(entry: LossEntry) -> Callable[[Any], bool]:
    """Says whether settings are surely right."""
    try:
        return compiled(entry.schema)
    except UnknownKeywordError:
        return lambda values: False


@functools.lru_cache(maxsize=512)
def validator(entry: LossEntry) -> Any:
    """The validator of a loss's settings, the loss's `type` among them."""
    return _validator_class()(entry.schema)


@functools.cache
def _validator_class() -> Any:
    import jsonschema  # Here, because it costs 70 ms, and only a mistake needs it.

    # jsonschema takes infinities and NaN for numbers, which JSON does not have, and integers of any size.
    kinds = {"number": lambda _, value: is_number(value), "integer": lambda _, value: is_integer(value)}
    checker = jsonschema.Draft7Validator.TYPE_CHECKER.redefine_many(kinds)
    return jsonschema.validators.extend(  # type: ignore[no-untyped-call]
        jsonschema.Draft7Validator, type_checker=checker
    )


def _innermost(error: Any) -> Iterator[tuple[Any, tuple[str | int, ...]]]:
    """The errors that say most, each with the way to it: of alternatives, those inside the one whose own type fits."""
    # An error of the type at the top of an alternative says only that this is not the alternative that was meant.
    fitting = [e for e in error.context or () if not (e.validator == "type" and not e.relative_path)]
    if error.validator != "anyOf" or not fitting:
        yield error, ()
        return
    meant = fitting[0].schema_path[0]
    for inner in fitting:
        if inner.schema_path[0] == meant:
            for deeper, inside in _innermost(inner):
                yield deeper, (*inner.relative_path, *inside)


def _explained(entry: LossEntry, setting: str, steps: tuple[str | int, ...], error: Any) -> SettingError:
    code, what, suggestion, help, cure = _objection(
        error.validator, error.validator_value, error.instance, error.schema
    )
    if setting == "reduction" and error.instance == "none":
        help, cure = "`none` is for Python only: a config asks for one number to minimise", None
    if code in ("LK202", "LK203") and help is None:
        allowed = describe(entry.schema["properties"][setting])
        help = None if allowed in what else f"`{setting}` is {allowed}"
    message = f"`{show_path((setting, *steps))}` of `{entry.name}` must {what}, got {show(error.instance)}"
    return SettingError(code, setting, steps, message, suggestion, help, cure)


def _objection(
    keyword: str, limit: Any, value: Any, schema: Mapping[str, Any]
) -> tuple[str, str, str | None, str | None, str | None]:
    """The code, what a value must do, a suggestion, help and a cure, for the keyword of JSON Schema that it breaks."""
    if keyword in _LIMITS:
        return "LK203", f"be {_LIMITS[keyword]} {limit}", None, None, None
    if keyword == "enum":
        options = [option for option in limit if isinstance(option, str)]
        suggestion, cure = suggested(value, options) if isinstance(value, str) else (None, None)
        return "LK204", f"be {describe({'enum': limit})}", suggestion, None, cure
    if keyword[3:] in _UNITS:
        bound = "least" if keyword.startswith("min") else "most"
        return "LK206", f"have at {bound} {limit} {_UNITS[keyword[3:]][limit != 1]}", None, None, None
    if isinstance(value, float) and not math.isfinite(value):
        return "LK202", "be a finite number", None, None, None
    return "LK202", f"be {describe(schema)}", None, *_type_help(value, schema)


def _type_help(value: Any, schema: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """How to write a value of another type that means the same, and only that."""
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if isinstance(value, str) and {"number", "integer"} & set(kinds):
        text = value.replace("_", "")
        try:
            number = int(text) if text.lstrip("+-").isdecimal() else float(text)
        except ValueError:
            return None, None
        if not compiled(schema)(number):
            return None, None
        return f"write {yaml_text(number)}" + ("" if "_" in value else " without quotes"), yaml_text(number)
    if isinstance(value, str) and "boolean" in kinds and value.lower() in ("yes", "no", "on", "off", "y", "n"):
        meant = "true" if value.lower() in ("yes", "on", "y") else "false"
        return f"write {meant}", meant
    return (quoting(value), None) if kinds == ["string"] else (None, None)
