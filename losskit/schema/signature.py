"""Reads what registering needs to know from a loss class or function: settings, inputs and targets."""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

from losskit.constants import LOGITS, TARGETS
from losskit.schema import fields as schema_utils
from losskit.schema.base import BaseConfig, BaseLossConfig, dataclass

_SCALARS = (bool, int, float, str)
# What the parameters of `forward` that take targets are called in torch.nn and in common loss code.
_TARGET_NAMES = ("target", "targets", "label", "labels", "y_true", "y")
_REDUCTIONS = ("mean", "sum")


class Constructor(typing.NamedTuple):
    """A constructor's parameters: those that become settings, whether it takes any keyword, and those left out."""

    settings: dict[str, tuple[Any, Any]]  # name -> (annotation, default)
    takes_any: bool
    left_out: tuple[str, ...]


def read_constructor(
    loss: Callable[..., Any],
    skip: int,
    config_cls: type[BaseConfig] | None = None,
    base: type[BaseConfig] = BaseLossConfig,
) -> Constructor:
    """Reads the parameters of `loss` after the first `skip`; `base` is what its config derives from.

    Raises:
        TypeError: a parameter has no default, neither of its own nor in `config_cls`.
    """
    hints = _hints(loss)
    configured = set(config_cls.__dataclass_fields__) if config_cls and _is_config(config_cls, base) else set()
    settings: dict[str, tuple[Any, Any]] = {}
    takes_any, left_out = False, []
    for parameter in list(inspect.signature(loss).parameters.values())[skip:]:
        if parameter.kind is parameter.VAR_KEYWORD:
            takes_any = True
        elif parameter.kind is parameter.VAR_POSITIONAL:
            continue
        elif parameter.default is parameter.empty and parameter.name not in configured:
            raise TypeError(_no_default(parameter.name, hints.get(parameter.name)))
        else:
            annotation = _annotation(hints.get(parameter.name, parameter.empty), parameter.default)
            if annotation is None or parameter.name in base.reserved or parameter.kind is parameter.POSITIONAL_ONLY:
                left_out.append(parameter.name)
            else:
                settings[parameter.name] = (annotation, parameter.default)
    return Constructor(settings, takes_any, tuple(left_out))


def check_config(config_cls: Any, constructor: Constructor, name: str, base: type[BaseConfig] = BaseLossConfig) -> None:
    """Whether `config_cls` can be the config of what is registered as `name`, with this constructor.

    Raises:
        TypeError: it is no config class, has a setting without a default or one that the constructor does not take,
            or its `type` has other options than `name`.
    """
    if not _is_config(config_cls, base):
        raise TypeError(f"the config {config_cls!r} is no subclass of losskit.schema.{base.__name__}")
    undecorated = [n for n in vars(config_cls).get("__annotations__", {}) if n not in config_cls.__dataclass_fields__]
    if undecorated:
        raise TypeError(f"{config_cls.__name__} declares {undecorated[0]!r} but is not decorated with @dataclass")
    for field in dataclasses.fields(config_cls):
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise TypeError(f"the setting {field.name!r} of {config_cls.__name__} has no default")
    if not constructor.takes_any:
        known = {*constructor.settings, *constructor.left_out}
        for field in config_cls.setting_fields():
            if field.name not in known:
                raise TypeError(f"its constructor does not take the setting {field.name!r} of {config_cls.__name__}")
    declared = next(field for field in dataclasses.fields(config_cls) if field.name == "type")
    if declared.default and declared.metadata:
        from losskit.schema.loading import schema_fields

        options = schema_fields(config_cls)["type"].validators[0].choices  # type: ignore[attr-defined]
        if name not in options:
            allowed = ", ".join(map(repr, options))
            raise TypeError(f"the setting 'type' of {config_cls.__name__} allows {allowed}, not {name!r}")


def _is_config(config_cls: Any, base: type[BaseConfig]) -> bool:
    return inspect.isclass(config_cls) and issubclass(config_cls, base)


def config_from(constructor: Constructor, name: str, base: type[BaseConfig] = BaseLossConfig) -> type[BaseConfig]:
    """A config class with one setting per parameter."""
    members: dict[str, Any] = {"__annotations__": {}, "__module__": __name__}
    for parameter, (annotation, default) in constructor.settings.items():
        members["__annotations__"][parameter] = annotation
        if parameter == "reduction" and default in _REDUCTIONS:
            # `none` is left out: a config asks for something to minimise.
            members[parameter] = schema_utils.StringOptions(_REDUCTIONS, default)
        elif isinstance(default, (list, dict)):
            members[parameter] = dataclasses.field(default_factory=default.copy)
        else:
            members[parameter] = default
    ending = base.__name__.removeprefix("Base")
    cls: type[BaseConfig] = dataclass(type(_camel(name) + ending, (base,), members))
    return cls


def roles(loss: Any, forward: Callable[..., Any], skip: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The keys of the predictions and of the targets that the loss takes, in the order of `forward`."""
    positional = [
        parameter.name
        for parameter in list(inspect.signature(forward).parameters.values())[skip:]
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and parameter.default is parameter.empty
    ]
    inputs: tuple[str, ...] = (LOGITS,)
    targets: tuple[str, ...] = (TARGETS,)
    declared = hasattr(loss, "get_loss_inputs") or hasattr(loss, "get_loss_targets")
    are_targets = [name in _TARGET_NAMES for name in positional]
    if not declared and any(are_targets[:-1]):
        order = ", ".join(positional)
        raise TypeError(f"it takes its targets before predictions ({order}); wrap it so that the targets come last")
    if len(positional) not in (0, 2):
        inputs = tuple(name for name in positional if name not in _TARGET_NAMES)
        targets = (TARGETS,) if any(are_targets) else ()
    if hasattr(loss, "get_loss_inputs"):
        inputs = _keys(loss.get_loss_inputs())
    if hasattr(loss, "get_loss_targets"):
        targets = _keys(loss.get_loss_targets())
    return inputs, targets


def optional_roles(loss: Any, forward: Callable[..., Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The keys of predictions and of targets that the loss takes where they are there, as keyword arguments.

    Raises:
        TypeError: `forward` has no such parameter with a default.
    """
    parameters = inspect.signature(forward).parameters
    found = []
    for method in ("get_optional_loss_inputs", "get_optional_loss_targets"):
        keys = _keys(getattr(loss, method)()) if hasattr(loss, method) else ()
        for key in keys:
            if key not in parameters or parameters[key].default is inspect.Parameter.empty:
                raise TypeError(f"{method}() names {key!r}, but `forward` has no such parameter with a default")
        found.append(keys)
    return found[0], found[1]


def summary(loss: Any) -> str:
    """The first sentence of the docstring."""
    text = " ".join((inspect.getdoc(loss) or "").split("\n\n")[0].split())
    return text.split(". ")[0].rstrip(".")


def _keys(keys: str | tuple[str, ...]) -> tuple[str, ...]:
    return (keys,) if isinstance(keys, str) else tuple(keys)


def _hints(loss: Callable[..., Any]) -> dict[str, Any]:
    function = loss.__init__ if inspect.isclass(loss) else loss
    try:
        return typing.get_type_hints(function)
    except Exception:  # An annotation that cannot be evaluated says nothing; the default still does.
        return {}


def _annotation(annotation: Any, default: Any) -> Any:
    """The type of a setting that YAML can hold, or None."""
    if annotation is inspect.Parameter.empty or annotation is Any:
        return type(default) if type(default) in _SCALARS else None
    if not _holds(annotation):
        return None
    if default is None:
        return typing.Optional[annotation]  # noqa: UP045 - the annotation is a value, perhaps a string
    accepted = (*_types(annotation), int) if float in _types(annotation) else _types(annotation)
    literals = [value for part in _parts(annotation) for value in typing.get_args(part) if _is_literal(part)]
    return annotation if type(default) in accepted or default in literals else None


def _parts(annotation: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if is_union else (annotation,)


def _types(annotation: Any) -> tuple[Any, ...]:
    return tuple(
        {collections.abc.Sequence: list, collections.abc.Mapping: dict}.get(origin, origin)
        for part in _parts(annotation)
        for origin in [typing.get_origin(part) or part]
    )


def _is_literal(annotation: Any) -> bool:
    return typing.get_origin(annotation) is typing.Literal


def _holds(annotation: Any) -> bool:
    """Whether YAML can hold every value of the type."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in _SCALARS or annotation is type(None):
        return True
    if _is_literal(annotation):
        return all(type(value) in _SCALARS for value in arguments)
    if origin in (typing.Union, types.UnionType, list, tuple, collections.abc.Sequence):
        return bool(arguments) and all(part is Ellipsis or _holds(part) for part in arguments)
    if origin in (dict, collections.abc.Mapping):
        return arguments[0] is str and _holds(arguments[1])
    return False


def _no_default(name: str, annotation: Any) -> str:
    kind = "" if annotation is None else f" of type {getattr(annotation, '__name__', annotation)}"
    if annotation is None or _holds(annotation):
        return f"the parameter {name!r}{kind} has no default; give it one, so that the loss builds from its name alone"
    return (
        f"the parameter {name!r}{kind} has no default and YAML cannot hold it; give it a default, "
        "or pass a config class as schema=, or return one from get_schema_cls()"
    )


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.replace("-", "_").split("_"))
