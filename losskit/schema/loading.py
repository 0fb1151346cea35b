"""The marshmallow side: strict fields, and the schema that loads settings into a config class.

Marshmallow's own fields turn "1e-3" into 0.001, 2.7 into 2 and "yes" into True; these accept a value of the right
JSON type or nothing, so that they agree with the JSON Schema that is written from them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import marshmallow
import marshmallow_dataclass
from marshmallow import fields, validate

from losskit.schema import schedules

if TYPE_CHECKING:
    from losskit.schema.base import BaseConfig


def _is_finite(value: float) -> bool:
    """Whether a float can hold it, which JSON Schema asks of integers too."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


class Float(fields.Float):
    """A finite number that is no bool and no text."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.make_error("invalid")
        if not _is_finite(value):
            raise self.make_error("special")
        return float(value)


class Integer(fields.Integer):
    """An integer; 2.0 is one, as JSON Schema has it, 2.5, "2" and True are none."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Any:
        integral = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not integral or not _is_finite(value):
            raise self.make_error("invalid")
        return int(value)


class Boolean(fields.Boolean):
    """True or False; no 1, no "yes"."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


String, List, Dict = fields.String, fields.List, fields.Dict


class Either(fields.Field[Any]):
    """A value that one of several fields accepts."""

    def __init__(self, options: Sequence[fields.Field[Any]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.options = list(options)

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Any:
        messages = []
        for option in self.options:
            try:
                return option.deserialize(value, attr, data, **kwargs)
            except marshmallow.ValidationError as error:
                messages.append(str(error))
        raise marshmallow.ValidationError(messages)


class Record(fields.Nested):
    """A mapping with keys of its own, each with its field; it is loaded as it is, without defaults.

    `called` is what it is called where one says what a value may be: "a schedule".
    """

    def __init__(self, called: str, declared: Mapping[str, fields.Field[Any]], **kwargs: Any) -> None:
        super().__init__(marshmallow.Schema.from_dict(dict(declared)), **kwargs)
        self.called = called


class StrictSchema(marshmallow.Schema):
    """Fields that a config class declares by annotation alone are as strict as the others."""

    TYPE_MAPPING = {float: Float, int: Integer, bool: Boolean, str: fields.String}  # noqa: RUF012


def number_range(
    min: float | None, max: float | None, min_inclusive: bool = True, max_inclusive: bool = True
) -> list[validate.Validator]:
    """The validator for limits, or none where there is no limit."""
    if min is None and max is None:
        return []
    return [validate.Range(min=min, max=max, min_inclusive=min_inclusive, max_inclusive=max_inclusive)]


def length(min: int) -> list[validate.Validator]:
    """The validator for a least length, or none."""
    return [validate.Length(min=min)] if min else []


def one_of(options: Sequence[str]) -> list[validate.Validator]:
    """The validator for a choice."""
    return [validate.OneOf(list(options))]


def item(list_type: type, number_limits: list[validate.Validator]) -> fields.Field[Any]:
    """The field for the items of a list."""
    if list_type in (float, int):
        return StrictSchema.TYPE_MAPPING[list_type](validate=number_limits)
    if list_type not in StrictSchema.TYPE_MAPPING:
        raise TypeError(f"a list of {list_type!r} has no JSON form; use float, int, str or bool")
    if number_limits:
        raise TypeError(f"limits apply to numbers, not to {list_type.__name__}")
    return StrictSchema.TYPE_MAPPING[list_type]()


def marshmallow_schema(cls: type[BaseConfig]) -> marshmallow.Schema:
    """The schema that loads a mapping into `cls`; `cls.schema()` keeps it.

    A weight may be a schedule in place of what the class says, because it belongs to the sum and not to the loss.
    """
    made = marshmallow_dataclass.class_schema(cls, base_schema=StrictSchema)
    if "weight" not in made._declared_fields:  # no loss
        return made()
    number = made._declared_fields["weight"]
    weight = Either(
        [number, schedules.field()],
        allow_none=number.allow_none,
        load_default=number.load_default,
        dump_default=number.dump_default,
        metadata=number.metadata,
    )
    return made.from_dict({"weight": weight}, name=made.__name__)()


def schema_fields(cls: type[BaseConfig]) -> Mapping[str, fields.Field[Any]]:
    """The marshmallow field of each setting of `cls`, by name."""
    return cls.schema().fields
