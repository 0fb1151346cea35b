"""`losskit show`: what a loss, or a strategy to balance losses, is and which settings it has."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from typing import Any

from losskit.cli import CannotRunError, add_plugin_argument, import_all_plugins, warn_of_plugins
from losskit.cli.colour import Colour
from losskit.constants import MULTI, RESERVED
from losskit.registry import LossEntry, UnknownLossError, registry
from losskit.schema.describe import describe, yaml_text
from losskit.settings import record_of
from losskit.strategies import StrategyEntry, strategies

MAX_WIDTH = 100
YAML_WIDTH = 80


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "loss",
        metavar="LOSS",
        help="the name of a loss, or another name for it; or that of a strategy to balance losses",
    )
    parser.add_argument(
        "--format",
        choices=["text", "json", "yaml"],
        default="text",
        help="how it is printed; yaml: a config to start from",
    )
    parser.add_argument("--color", choices=["auto", "always", "never"], default="auto", help="when to use colour")
    add_plugin_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Prints the loss, or the strategy."""
    import_all_plugins(options.plugin)
    try:
        entry = registry.get(options.loss)
    except UnknownLossError as error:
        if strategy := strategies.find(options.loss):
            return _show_strategy(strategy, options)
        if options.loss == MULTI:
            raise CannotRunError(f"{MULTI} is no loss, but a list of losses that stands in its `params`") from error
        warn_of_plugins()
        raise CannotRunError(str(error)) from error
    if options.format == "text":
        print(_text(entry, options.loss, Colour(options.color, sys.stdout)))
    else:
        print(_json(entry) if options.format == "json" else _yaml(entry))
    return 0


def _show_strategy(entry: StrategyEntry, options: argparse.Namespace) -> int:
    if options.format == "json":
        fields = {"name": entry.name, "summary": entry.summary, "class": entry.module.path.replace(":", ".")}
        print(json.dumps({**fields, "left_out": entry.left_out, "schema": entry.schema}, indent=2, ensure_ascii=False))
    elif options.format == "yaml":
        lines = ["loss_balancing:", *_commented(f"  type: {entry.name}", entry.summary, "  ")]
        for name, schema in _settings(entry):
            lines += _commented(f"  {name}: {_default(schema['default'])}", describe(schema), "  ")
        print("\n".join(lines))
    else:
        colour = Colour(options.color, sys.stdout)
        lines = [colour.paint(entry.name, "bold"), *_wrapped(entry.summary), ""]
        lines += _wrapped("balances the losses of several tasks, as `loss_balancing`", f"{'for:':<11}", " " * 11)
        lines += [f"{'class:':<11}{entry.module.path.replace(':', '.')}", ""]
        lines += _settings_text(entry, colour) if _settings(entry) else ["no settings"]
        print("\n".join(lines))
    return 0


def _wrapped(text: str, first: str = "", rest: str = "") -> list[str]:
    width = min(MAX_WIDTH, shutil.get_terminal_size().columns)
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False, break_long_words=False
    )


def _settings(entry: LossEntry | StrategyEntry) -> list[tuple[str, dict[str, Any]]]:
    """What may stand beside `type`, but for old names."""
    properties = entry.schema["properties"].items()
    return [(name, schema) for name, schema in properties if name != "type" and not schema.get("deprecated")]


def _settings_text(entry: LossEntry | StrategyEntry, colour: Colour) -> list[str]:
    lines = ["settings:"]
    for setting, schema in _settings(entry):
        head = f"{setting}: {describe(schema)}; default {yaml_text(schema.get('default'))}"
        first, *rest = _wrapped(head, "  ", "    ")
        lines += [first.replace(setting, colour.paint(setting, "bold"), 1), *rest]
        lines += _wrapped(schema.get("description", ""), "      ", "      ")
        for key, inner in (record_of(schema) or {"properties": {}})["properties"].items():
            default = f"; default {yaml_text(inner['default'])}" if "default" in inner else ""
            lines += _wrapped(f"{key}: {describe(inner)}{default}", "        ", "          ")
    return lines


def _text(entry: LossEntry, asked: str, colour: Colour) -> str:
    name = colour.paint(entry.name, "bold")
    lines = [name if asked == entry.name else f"{asked} is another name for {name}"]
    lines += [*_wrapped(entry.summary), ""]
    facts = {
        "for": ", ".join(entry.feature_types),
        "also": ", ".join(entry.aliases),
        "takes": _roles(entry.inputs, entry.optional_inputs),
        "targets": _roles(entry.targets, entry.optional_targets) or "none",
        "class": entry.module.path.replace(":", "."),
    }
    for fact, text in facts.items():
        if text:
            lines += _wrapped(text, f"{fact + ':':<11}", " " * 11)
    lines += ["", *_settings_text(entry, colour)]
    if entry.left_out:
        names = ", ".join(entry.left_out)
        text = f"not in a config, for YAML cannot hold them or a config uses the name itself: {names}"
        lines += ["", *_wrapped(text)]
    return "\n".join(lines)


def _roles(needed: tuple[str, ...], optional: tuple[str, ...]) -> str:
    return ", ".join([*needed, *(f"{role} (where it is there)" for role in optional)])


def _json(entry: LossEntry) -> str:
    fields = {
        "name": entry.name,
        "aliases": entry.aliases,
        "feature_types": entry.feature_types,
        "summary": entry.summary,
        "inputs": entry.inputs,
        "optional_inputs": entry.optional_inputs,
        "targets": entry.targets,
        "optional_targets": entry.optional_targets,
        "class": entry.module.path.replace(":", "."),
        "left_out": entry.left_out,
        "schema": entry.schema,
    }
    return json.dumps(fields, indent=2, ensure_ascii=False)


def _yaml(entry: LossEntry) -> str:
    feature_type = entry.feature_types[0]
    lines = ["output_features:", f"  - name: my_{feature_type}", f"    type: {feature_type}", "    loss:"]
    lines += _commented(f"      type: {entry.name}", entry.summary)
    needed = entry.config.load().example_settings
    for name, schema in _settings(entry):
        if name not in RESERVED or name == "weight":
            value = needed.get(name, schema["default"])
            lines += _commented(f"      {name}: {_default(value)}", describe(schema))
    return "\n".join(lines)


def _commented(line: str, comment: str, indent: str = "      ") -> list[str]:
    """The line with a comment behind it, or above it where that would be too long for most editors."""
    if len(line) + len(comment) + 4 <= YAML_WIDTH:
        return [f"{line}  # {comment}"]
    return [*textwrap.wrap(comment, YAML_WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "), line]


def _default(value: object) -> str:
    return json.dumps(value) if isinstance(value, (str, list, dict)) else yaml_text(value)
