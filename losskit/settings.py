"""Checks the settings of one loss against its JSON Schema, and says in words what is wrong with each."""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Callable, Container, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from losskit.config import MAX_PROBLEMS, number_of, usual_notation
from losskit.diagnostics import INTERPOLATION_HELP, cut, is_interpolation, quoting, show, show_path
from losskit.schema.describe import describe, yaml_text
from losskit.schema.quick import UnknownKeywordError, compiled, is_integer, is_number
from losskit.spelling import OTHER_NAMES, suggested

if TYPE_CHECKING:
    from losskit.registry import LossEntry
    from losskit.strategies import StrategyEntry

    Entry = LossEntry | StrategyEntry

_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "greater than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
}
_BOOLEANS = {
    **dict.fromkeys(("true", "yes", "on", "y"), "true"),
    **dict.fromkeys(("false", "no", "off", "n"), "false"),
}
_PERCENT = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*%")
_COMMA = re.compile(r"[-+]?[0-9]{1,9},[0-9]{1,9}")
_FRACTION = re.compile(r"([0-9]{1,9})\s*/\s*([1-9][0-9]{0,8})")
_UNIT = re.compile(r"[-+]?[0-9]{1,9}(?:\.[0-9]{1,9})?\s*[A-Za-z]{1,9}")
_UNITS = {"Items": ("value", "values"), "Length": ("character", "characters"), "Properties": ("entry", "entries")}


class SettingError(NamedTuple):
    """What is wrong with a setting; `steps` lead from the setting to a value inside it."""

    code: str
    setting: str
    steps: tuple[str | int, ...]
    message: str
    suggestion: str | None = None
    help: str | None = None
    # What should stand in place of the value, or of the key, where that is safe to say.
    cure: str | None = None
    # Whether the key at the end of `steps` is wrong, not its value.
    on_key: bool = False


def fits(value: Any, entry: Entry, setting: str) -> bool:
    """Whether a value is allowed for a setting."""
    try:
        return compiled(entry.schema["properties"][setting])(value)
    except UnknownKeywordError:
        return True


def setting_errors(entry: Entry, values: Mapping[str, Any]) -> Iterator[SettingError]:
    """What the schema of a loss objects to in `values`, apart from settings that the loss does not have."""
    if _check(entry)(values):
        return
    properties = entry.schema["properties"]
    excerpts = {name: excerpt for name, value in values.items() if (excerpt := _excerpt(value, properties.get(name)))}
    shown = {**values, **{name: excerpt.value for name, excerpt in excerpts.items()}}
    for error in validator(entry).iter_errors(shown):
        if error.absolute_path:
            setting, *steps = error.absolute_path
            for inner, inside in _innermost(error):
                where, instance = (*steps, *inside), inner.instance
                if setting in excerpts:
                    where, instance = excerpts[setting].original(where, instance)
                if inner.validator in ("additionalProperties", "required"):
                    yield from _wrong_keys(entry, str(setting), where, inner)
                else:
                    yield _explained(entry, str(setting), where, inner, instance)


class _Excerpt:
    """Of a large value, the items that are wrong, as far as anyone would read of them.

    jsonschema makes an error for each of them before it says the first one, which takes seconds and a gigabyte where
    200,000 weights are texts.
    """

    def __init__(self, value: Any, check: Callable[[Any], bool]) -> None:
        self._left = MAX_PROBLEMS + 1
        # By the identity of each container of the excerpt: the one that it stands for, and the steps to its items.
        self._sources: dict[int, tuple[Any, list[Any]]] = {}
        self.value = self._of(value, check)

    def _of(self, value: Any, check: Callable[[Any], bool]) -> Any:
        """The items of a list or mapping that `check` objects to, if each stands alone in it."""
        is_list = isinstance(value, list)

        def alone(step: Any) -> Callable[[Any], bool]:
            return (lambda item: check([item])) if is_list else lambda item: check({step: item})

        found: dict[Any, Any] = {}
        for step, item in enumerate(value) if is_list else value.items():
            if self._left <= 0:
                break
            if not alone(step)(item):
                self._left -= 1
                found[step] = self._of(item, alone(step)) if isinstance(item, (list, dict)) and item else item
        if not found:
            return value
        excerpt = list(found.values()) if is_list else found
        self._sources[id(excerpt)] = value, list(found)
        return excerpt

    def original(self, path: tuple[Any, ...], instance: Any) -> tuple[tuple[Any, ...], Any]:
        """Where what the excerpt holds at `path` stands in the whole value, and what it stands for."""
        steps: list[Any] = []
        value = self.value
        for step in path:
            source = self._sources.get(id(value))
            steps.append(source[1][step] if source and isinstance(value, list) else step)
            value = value[step]
        return tuple(steps), self._sources.get(id(instance), (instance,))[0]


def _excerpt(value: Any, schema: Mapping[str, Any] | None) -> _Excerpt | None:
    """The excerpt of a value that is large, where the schema judges each of its items alone."""
    if not isinstance(value, (list, dict)) or schema is None or not _is_large(value) or not _judges_alone(schema):
        return None
    try:
        return _Excerpt(value, compiled(schema))
    except UnknownKeywordError:
        return None


def _is_large(value: list[Any] | dict[str, Any]) -> bool:
    inner = value.values() if isinstance(value, dict) else value
    size = len(value) + sum(len(item) for item in inner if isinstance(item, (list, dict)))
    return size > MAX_PROBLEMS


def _judges_alone(schema: Mapping[str, Any]) -> bool:
    """Whether a list or mapping is right where each of its items alone would be; or where it is not empty."""
    least = max(schema.get("minItems", 0), schema.get("minProperties", 0))
    if least > 1 or schema.keys() & {"maxItems", "maxProperties", "properties", "required"}:
        return False
    inner = [*schema.get("anyOf", ()), schema.get("items", True), schema.get("additionalProperties", True)]
    return all(isinstance(one, bool) or (isinstance(one, dict) and _judges_alone(one)) for one in inner)


@functools.lru_cache(maxsize=512)
def _check(entry: Entry) -> Callable[[Any], bool]:
    """Says whether settings are surely right."""
    try:
        return compiled(entry.schema)
    except UnknownKeywordError:
        return lambda values: False


@functools.lru_cache(maxsize=512)
def validator(entry: Entry) -> Any:
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
    if not _may_be_record(error.instance, error.validator_value[meant]):
        yield error, ()
        return
    for inner in fitting:
        if inner.schema_path[0] == meant:
            for deeper, inside in _innermost(inner):
                yield deeper, (*inner.relative_path, *inside)


def record_of(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a setting may be that is a mapping with keys of its own; None where it may be no such thing."""
    options: list[dict[str, Any]] = schema.get("anyOf", [schema])
    return next((option for option in options if option.get("additionalProperties") is False), None)


def _may_be_record(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a mapping has a key, perhaps misspelt, of those that the schema knows; if it knows only some."""
    if not isinstance(value, dict) or record_of(schema) is None:
        return True
    return any(key in schema["properties"] or _key_meant(key, schema)[0] for key in itertools.islice(value, 100))


def _key_meant(key: str, schema: Mapping[str, Any], taken: Container[str] = ()) -> tuple[str | None, str | None]:
    """Which of the keys that a schema knows a key may stand for, and that as a cure where nothing else can be meant."""
    names = [name for name in schema["properties"] if name not in taken]
    other = OTHER_NAMES.get(key.lower())
    return (other, None) if other in names else suggested(key, names)


def _wrong_keys(entry: Entry, setting: str, steps: tuple[str | int, ...], error: Any) -> Iterator[SettingError]:
    """What is wrong with the keys of a mapping: those that nobody knows, and those that are missing."""
    value, schema = error.instance, error.schema
    if error.validator == "required":
        # That is said in the part which holds where all keys are known.
        schema = record_of(entry.schema["properties"][setting]) or schema
    missing = [key for key in schema.get("then", {}).get("required", ()) if key not in value]
    where = f"`{show_path((setting, *steps))}` of `{entry.name}`"
    for key in value:
        if key not in schema["properties"]:
            suggestion, cure = _key_meant(key, schema, taken=value)
            help = f"keys of {describe(schema)}: {', '.join(schema['properties'])}"
            message = f"{where} has no key `{cut(key)}`"
            yield SettingError("LK201", setting, (*steps, key), message, suggestion, help, cure, on_key=True)
            # A misspelt key is one mistake, not a key too many and another that is missing.
            missing = [name for name in missing if name != suggestion]
    for key in missing:
        help = f"`{key}` is {describe(schema['properties'][key])}"
        yield SettingError("LK102", setting, steps, f"{where} lacks `{key}`", help=help)


def _explained(entry: Entry, setting: str, steps: tuple[str | int, ...], error: Any, instance: Any) -> SettingError:
    code, what, suggestion, help, cure = _objection(error.validator, error.validator_value, instance, error.schema)
    if setting == "reduction" and instance == "none":
        help, cure = "`none` is for Python only: a config asks for one number to minimise", None
    if code in ("LK202", "LK203") and help is None:
        schema, called = entry.schema["properties"][setting], setting
        record = record_of(schema)
        if record and steps:
            schema, called = record["properties"][steps[0]], show_path((setting, steps[0]))
        allowed = describe(schema)
        help = None if allowed in what else f"`{called}` is {allowed}"
    message = f"`{show_path((setting, *steps))}` of `{entry.name}` must {what}, got {show(instance)}"
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
    """How to write a value of another type, and that as a cure where it means the same, and only that."""
    for option in schema.get("anyOf", ()):
        help, cure = _type_help(value, option)
        if help:
            return help, cure
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not isinstance(value, str):
        return (quoting(value), None) if kinds == ["string"] else (None, None)
    if is_interpolation(value):
        return INTERPOLATION_HELP, None
    word = value.strip().lower()
    if word == "none" and "null" in kinds:
        return "write null", "null"
    if "boolean" in kinds and word in _BOOLEANS:
        return f"write {_BOOLEANS[word]}", _BOOLEANS[word]
    if not {"number", "integer"} & set(kinds):
        return None, None
    if notation := usual_notation(value.strip().replace("_", "")):
        if not compiled(schema)(number_of(notation)):
            return None, None
        return f"write {notation}" + ("" if "_" in value else " without quotes"), notation
    return _number_help(value.strip(), compiled(schema)), None


def _number_help(text: str, check: Callable[[Any], bool]) -> str | None:
    """How to write what a person would read as a number."""
    if match := _PERCENT.fullmatch(text):
        number = float(match[1]) / 100
        return f"write {yaml_text(number)}" if check(number) else None
    if _COMMA.fullmatch(text):
        number = float(text.replace(",", "."))
        return f"write {yaml_text(number)}, with a point" if check(number) else None
    if match := _FRACTION.fullmatch(text):
        number = int(match[1]) / int(match[2])
        return f"write {yaml_text(number)}" if check(number) else None
    return "write a number without a unit" if _UNIT.fullmatch(text) else None
