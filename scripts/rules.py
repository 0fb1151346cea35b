"""Writes what a first look at a config needs to know of each loss, as Python that loads in no time."""

from __future__ import annotations

import ast
import inspect
import pprint
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from losskit.registry import LossEntry
from losskit.schema.base import BaseLossConfig, FeatureContext
from losskit.schema.quick import compiled
from losskit.strategies import StrategyEntry

Schema = dict[str, Any]

# Keywords that say nothing about what is allowed.
_TEXTS = ("title", "description", "markdownDescription", "default", "examples")
# Features with which rules are tried on a loss that has its defaults.
_NAMES = tuple(f"class {i}" for i in range(5))
_SIZES: tuple[tuple[int | None, tuple[str, ...] | None], ...] = (
    (None, None),
    (2, None),
    (3, None),
    (1000, None),
    (2, _NAMES[:2]),
    (5, _NAMES),
)


def table(entries: Iterable[LossEntry], schemas: Mapping[str, Schema], ways: Iterable[StrategyEntry]) -> str:
    """The text of `losskit/schema/compiled.py`."""
    checks: list[Schema] = []
    losses = {}
    for entry in entries:
        config = entry.config.load()
        properties = schemas[entry.name]["properties"]
        settings = {}
        for name, schema in properties.items():
            if name != "type" and not schema.get("deprecated"):
                check = _check(schema)
                if name == "inputs":
                    check.pop("properties", None)  # they say again what `inputs` may name, which has a list of its own
                if check not in checks:
                    checks.append(check)
                settings[name] = checks.index(check)
        ruled = {
            name: _harmless(name, properties[name], entry, config)
            for name in sorted(ruled_settings(config))
            if name in settings
        }
        losses[entry.name] = (
            entry.feature_types,
            settings,
            ruled,
            tuple(config.class_settings()),
            (*entry.inputs, *entry.optional_inputs, *entry.targets, *entry.optional_targets),
            _is_fine(entry, config()),
        )
    names = {name: entry.name for entry in entries for name in entry.lasting_names}
    return (
        f"CHECKS: list[dict[str, Any]] = {_literal(checks)}\n\n"
        f"LOSSES: dict[str, Loss] = {_literal(losses)}\n\n"
        f"NAMES: dict[str, str] = {_literal(names)}\n\n"
        f"STRATEGIES: tuple[str, ...] = {_literal(tuple(way.name for way in ways))}\n"
    )


def _check(schema: Schema) -> Schema:
    """What a schema says about what is allowed."""
    check = {key: value for key, value in schema.items() if key not in _TEXTS}
    if "anyOf" in check:
        check["anyOf"] = [_check(option) for option in check["anyOf"]]
    if "properties" in check:
        check["properties"] = {name: _check(inner) for name, inner in check["properties"].items()}
    return check


def ruled_settings(config: type[BaseLossConfig]) -> set[str]:
    """The settings at which the rules of a config look: the attributes that `problems` reads from `self`.

    Where `self` is handed on, they are all settings. What every loss has, one number per class, is left to others.
    """
    settings = {*(field.name for field in config.setting_fields()), "inputs"}
    found: set[str] = set()
    for cls in config.__mro__:
        if cls is BaseLossConfig:
            break
        if "problems" in vars(cls):
            tree = ast.parse(textwrap.dedent(inspect.getsource(vars(cls)["problems"])))
            attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and _is_self(node.value)]
            found |= {node.attr for node in attributes}
            if sum(_is_self(node) for node in ast.walk(tree)) > len(attributes):
                return settings
    return found & settings


def _is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _harmless(name: str, schema: Schema, entry: LossEntry, config: type[BaseLossConfig]) -> list[Any]:
    """The default, and other values to which no rule objects on any feature while the other settings are as usual."""
    default = schema["default"]
    allowed = compiled(schema)
    others = [value for value in (None, True, False, *schema.get("enum", ())) if value != default and allowed(value)]
    return [default, *(value for value in others if _is_fine(entry, config(**{name: value})))]


def _is_fine(entry: LossEntry, config: BaseLossConfig) -> bool:
    contexts = [FeatureContext(kind, *size) for kind in (*entry.feature_types, None) for size in _SIZES]
    return not any(list(config.problems(context)) for context in contexts)


def _literal(value: Any) -> str:
    return pprint.pformat(value, width=116, sort_dicts=False)
