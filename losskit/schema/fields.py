"""One call per setting of a loss: its type, limits, default and description.

Each function returns a dataclass field, so that a config reads

    gamma: float = schema_utils.NonNegativeFloat(default=2.0, description="How strongly easy examples are played down.")

The marshmallow field, from which the JSON Schema is written too, is made when it is first asked for: importing
marshmallow takes longer than validating a config, which needs only the generated schema.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from marshmallow.fields import Field

NO_DEFAULT: Any = dataclasses.MISSING


class Setting(Mapping[str, Any]):
    """The metadata of a config's field, in the form in which marshmallow-dataclass looks for it."""

    def __init__(
        self,
        make: Callable[..., Field[Any]],
        *,
        default: Any,
        description: str,
        allow_none: bool = False,
        examples: Sequence[Any] = (),
        per_class: bool = False,
    ) -> None:
        self._make = make
        self._field: Field[Any] | None = None
        self._arguments: dict[str, Any] = {
            "allow_none": allow_none,
            "load_default": default.copy if isinstance(default, (list, dict)) else default,
            "dump_default": default,
            "metadata": {"description": description, **({"examples": list(examples)} if examples else {})},
        }
        self._plain = {"description": description, "examples": tuple(examples), "per_class": per_class}

    def __getitem__(self, key: str) -> Any:
        if key != "marshmallow_field":
            return self._plain[key]
        if self._field is None:
            self._field = self._make(**self._arguments)
        return self._field

    def __iter__(self) -> Iterator[str]:
        return iter((*self._plain, "marshmallow_field"))

    def __len__(self) -> int:
        return len(self._plain) + 1


def setting(make: Callable[..., Field[Any]], *, default: Any, **arguments: Any) -> Any:
    """A dataclass field whose marshmallow field `make` returns when called with that field's keyword arguments.

    For kinds of settings that the functions below do not cover.
    """
    if default is NO_DEFAULT:
        raise TypeError("a setting needs a default: every loss must build from its defaults alone")
    metadata = Setting(make, default=default, **arguments)
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def FloatRange(
    default: float | None = NO_DEFAULT,
    *,
    min: float | None = None,
    max: float | None = None,
    min_inclusive: bool = True,
    max_inclusive: bool = True,
    allow_none: bool = False,
    description: str = "",
    examples: Sequence[Any] = (),
) -> Any:
    """A finite number between `min` and `max`."""

    def make(**arguments: Any) -> Field[Any]:
        from losskit.schema import loading

        return loading.Float(**arguments, validate=loading.number_range(min, max, min_inclusive, max_inclusive))

    return setting(make, default=default, allow_none=allow_none, description=description, examples=examples)


def NonNegativeFloat(default: float | None = NO_DEFAULT, *, max: float | None = None, **arguments: Any) -> Any:
    """A finite number, 0 or more."""
    return FloatRange(default, min=0, max=max, **arguments)


def PositiveFloat(default: float | None = NO_DEFAULT, *, max: float | None = None, **arguments: Any) -> Any:
    """A finite number above 0."""
    return FloatRange(default, min=0, max=max, min_inclusive=False, **arguments)


def Float(default: float | None = NO_DEFAULT, **arguments: Any) -> Any:
    """Any finite number."""
    return FloatRange(default, **arguments)


def IntegerRange(
    default: int | None = NO_DEFAULT,
    *,
    min: int | None = None,
    max: int | None = None,
    allow_none: bool = False,
    description: str = "",
    examples: Sequence[Any] = (),
) -> Any:
    """An integer from `min` to `max`."""

    def make(**arguments: Any) -> Field[Any]:
        from losskit.schema import loading

        return loading.Integer(**arguments, validate=loading.number_range(min, max))

    return setting(make, default=default, allow_none=allow_none, description=description, examples=examples)


def Integer(default: int | None = NO_DEFAULT, **arguments: Any) -> Any:
    """Any integer."""
    return IntegerRange(default, **arguments)


def NonNegativeInteger(default: int | None = NO_DEFAULT, *, max: int | None = None, **arguments: Any) -> Any:
    """An integer, 0 or more."""
    return IntegerRange(default, min=0, max=max, **arguments)


def PositiveInteger(default: int | None = NO_DEFAULT, *, max: int | None = None, **arguments: Any) -> Any:
    """An integer, 1 or more."""
    return IntegerRange(default, min=1, max=max, **arguments)


def Boolean(default: bool | None = NO_DEFAULT, *, allow_none: bool = False, description: str = "") -> Any:
    """`true` or `false`; no other spelling."""

    def make(**arguments: Any) -> Field[Any]:
        from losskit.schema import loading

        return loading.Boolean(**arguments)

    return setting(make, default=default, allow_none=allow_none, description=description)


def String(
    default: str | None = NO_DEFAULT,
    *,
    min_length: int = 0,
    allow_none: bool = False,
    description: str = "",
    examples: Sequence[Any] = (),
) -> Any:
    """Any text. Where there are few allowed values, `StringOptions` says which."""

    def make(**arguments: Any) -> Field[Any]:
        from losskit.schema import loading

        return loading.String(**arguments, validate=loading.length(min_length))

    return setting(make, default=default, allow_none=allow_none, description=description, examples=examples)


def StringOptions(
    options: Sequence[str],
    default: str | None = NO_DEFAULT,
    *,
    allow_none: bool = False,
    description: str = "",
) -> Any:
    """One of `options`. A single option is its own default."""
    if isinstance(options, str) or not options or not all(isinstance(option, str) for option in options):
        raise TypeError(f"options must be a list of strings, got {options!r}")
    if default is NO_DEFAULT and len(options) == 1:
        default = options[0]
    if default is not NO_DEFAULT and default not in options and not (default is None and allow_none):
        raise ValueError(f"the default {default!r} is not among the options {list(options)}")

    def make(**arguments: Any) -> Field[Any]:
        from losskit.schema import loading

        return loading.String(**arguments, validate=loading.one_of(options))

    return setting(make, default=default, allow_none=allow_none, description=description)


def OptionsOrIntegers(
    options: Sequence[str], default: str = NO_DEFAULT, *, description: str = "", examples: Sequence[Any] = ()
) -> Any:
    """One of `options`, or a list of integers, 0 or more."""

    def make(**arguments: Any) -> Field[Any]:
        from losskit.schema import loading

        integers = loading.List(loading.Integer(validate=loading.number_range(0, None)), validate=loading.length(1))
        return loading.Either([loading.String(validate=loading.one_of(options)), integers], **arguments)

    return setting(make, default=default, description=description, examples=examples)


def List(
    list_type: type = float,
    default: Sequence[Any] | None = NO_DEFAULT,
    *,
    min: float | None = None,
    max: float | None = None,
    min_inclusive: bool = True,
    max_inclusive: bool = True,
    min_length: int = 0,
    allow_none: bool = False,
    description: str = "",
    examples: Sequence[Any] = (),
) -> Any:
    """A list of `float`, `int`, `str` or `bool`; numbers lie between `min` and `max`."""

    def make(**arguments: Any) -> Field[Any]:
        from losskit.schema import loading

        item = loading.item(list_type, loading.number_range(min, max, min_inclusive, max_inclusive))
        return loading.List(item, **arguments, validate=loading.length(min_length))

    if default is not NO_DEFAULT and default is not None:
        default = list(default)
    return setting(make, default=default, allow_none=allow_none, description=description, examples=examples)


def Matrix(
    default: Sequence[Sequence[float]] | None = None, *, description: str = "", examples: Sequence[Any] = ()
) -> Any:
    """Rows of numbers, or nothing."""

    def make(**arguments: Any) -> Field[Any]:
        from losskit.schema import loading

        row = loading.List(loading.Float(), validate=loading.length(1))
        return loading.List(row, **arguments, validate=loading.length(1))

    return setting(make, default=default, allow_none=True, description=description, examples=examples)


def ClassWeights(default: Any = None, *, description: str = "", examples: Sequence[Any] = ([1.0, 2.0, 3.0],)) -> Any:
    """A number, 0 or more, per class: a list in the order of the class ids, a mapping from class name, or nothing."""

    def make(**arguments: Any) -> Field[Any]:
        from losskit.schema import loading

        return loading.Either([_weight_list(), _weight_mapping()], **arguments)

    return setting(make, default=default, allow_none=True, description=description, examples=examples, per_class=True)


def FloatOrClassWeights(
    default: Any = NO_DEFAULT, *, max: float | None = None, description: str = "", examples: Sequence[Any] = ()
) -> Any:
    """A number from 0 to `max`, or numbers per class as in `ClassWeights`, or nothing."""

    def make(**arguments: Any) -> Field[Any]:
        from losskit.schema import loading

        number = loading.Float(validate=loading.number_range(0, max))
        return loading.Either([number, _weight_list(), _weight_mapping()], **arguments)

    return setting(make, default=default, allow_none=True, description=description, examples=examples, per_class=True)


def Roles(*, description: str = "") -> Any:
    """A mapping from text to text."""

    def make(**arguments: Any) -> Field[Any]:
        from losskit.schema import loading

        values = loading.String(validate=loading.length(1))
        return loading.Dict(keys=loading.String(), values=values, **arguments)

    return setting(make, default={}, description=description)


def _weight_list() -> Field[Any]:
    from losskit.schema import loading

    return loading.List(loading.Float(validate=loading.number_range(0, None)), validate=loading.length(1))


def _weight_mapping() -> Field[Any]:
    from losskit.schema import loading

    values = loading.Float(validate=loading.number_range(0, None))
    return loading.Dict(keys=loading.String(), values=values, validate=loading.length(1))
