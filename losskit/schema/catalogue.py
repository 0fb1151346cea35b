"""The generated lists of built-in losses and strategies to balance them, read without importing any of them."""

from __future__ import annotations

import functools
import importlib
import json
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).parent
CATALOGUE = DIRECTORY / "catalogue.json"
CONFIG_SCHEMA = DIRECTORY / "losskit.schema.json"


@functools.cache
def _catalogue() -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = json.loads(CATALOGUE.read_text("utf-8")) if CATALOGUE.exists() else {}
    return found


def rows() -> list[dict[str, Any]]:
    """One row per built-in loss, with the fields of `losskit.registry.LossEntry`."""
    return _catalogue().get("losses", [])


def strategy_rows() -> list[dict[str, Any]]:
    """One row per built-in strategy to balance losses, with the fields of `losskit.strategies.StrategyEntry`."""
    return _catalogue().get("strategies", [])


@functools.cache
def definitions() -> dict[str, Any]:
    """The definitions of the generated JSON Schema; among them `loss_NAME` for each built-in loss."""
    found: dict[str, Any] = (
        json.loads(CONFIG_SCHEMA.read_text("utf-8"))["definitions"] if CONFIG_SCHEMA.exists() else {}
    )
    return found


def public_name(package: str, name: str) -> Any:
    """What `package.name` stands for where the package offers the classes and functions of its families.

    Raises:
        AttributeError: the catalogue has no such name.
    """
    for path, public in public_names(package).items():
        if name in public:
            return getattr(importlib.import_module(path), name)
    raise AttributeError(f"module {package!r} has no attribute {name!r}")


@functools.cache
def public_names(package: str) -> dict[str, tuple[str, ...]]:
    """The public names of `losskit.modules` or `losskit.schema` that stand in their families, by module."""
    found: dict[str, list[str]] = {}
    for row in rows():
        for key in ("module", "config"):
            module, _, cls = row[key].partition(":")
            if module.startswith(package + "."):
                # A loss's function stands beside its module and bears the name of the loss.
                found.setdefault(module, []).extend([cls] if key == "config" else [cls, f"{row['name']}_loss"])
    for row in strategy_rows():
        for key in ("module", "config"):
            module, _, cls = row[key].partition(":")
            if module.startswith(package + "."):
                found.setdefault(module, []).append(cls)
    return {module: tuple(sorted(names)) for module, names in sorted(found.items())}
