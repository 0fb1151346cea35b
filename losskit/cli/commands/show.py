"""`losskit show`: what a loss is and which settings it has."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap

from losskit.cli import CannotRunError, add_plugin_argument, import_all_plugins, warn_of_plugins
from losskit.cli.colour import Colour
from losskit.constants import MULTI, RESERVED
from losskit.registry import LossEntry, UnknownLossError, registry
from losskit.schema.describe import describe, yaml_text
from losskit.settings import record_of

MAX_WIDTH = 100
YAML_WIDTH = 80


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("loss", metavar="LOSS", help="the name of a loss, or another name for it")
    parser.add_argument(
        "--format",
        choices=["text", "json", "yaml"],
        default="text",
        help="how it is printed; yaml: a config to start from",
    )
    parser.add_argument("--color", choices=["auto", "always", "never"], default="auto", help="when to use colour")
    add_plugin_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Prints the loss."""
    import_all_plugins(options.plugin)
    try:
        entry = registry.get(options.loss)
    except UnknownLossError as error:
        if options.loss == MULTI:
            raise CannotRunError(f"{MULTI} is no loss, but a list of losses that stands in its `params`") from error
        warn_of_plugins()
        raise CannotRunError(str(error)) from error
    if options.format == "text":
        print(_text(entry, options.loss, Colour(options.color, sys.stdout)))
    else:
        print(_json(entry) if options.format == "json" else _yaml(entry))
    return 0


def _text(entry: LossEntry, asked: str, colour: Colour) -> str:
    width = min(MAX_WIDTH, shutil.get_terminal_size().columns)

    def wrapped(text: str, first: str = "", rest: str = "") -> list[str]:
        return textwrap.wrap(
            text, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False, break_long_words=False
        )

    name = colour.paint(entry.name, "bold")
    lines = [name if asked == entry.name else f"{asked} is another name for {name}"]
    lines += [*wrapped(entry.summary), ""]
    facts = {
        "for": ", ".join(entry.feature_types),
        "also": ", ".join(entry.aliases),
        "takes": _roles(entry.inputs, entry.optional_inputs),
        "targets": _roles(entry.targets, entry.optional_targets) or "none",
        "class": entry.module.path.replace(":", "."),
    }
    for fact, text in facts.items():
        if text:
            lines += wrapped(text, f"{fact + ':':<11}", " " * 11)
    lines += ["", "settings:"]
    for setting, schema in entry.schema["properties"].items():
        if setting != "type" and not schema.get("deprecated"):
            head = f"{setting}: {describe(schema)}; default {yaml_text(schema.get('default'))}"
            first, *rest = wrapped(head, "  ", "    ")
            lines += [first.replace(setting, colour.paint(setting, "bold"), 1), *rest]
            lines += wrapped(schema.get("description", ""), "      ", "      ")
            for key, inner in (record_of(schema) or {"properties": {}})["properties"].items():
                default = f"; default {yaml_text(inner['default'])}" if "default" in inner else ""
                lines += wrapped(f"{key}: {describe(inner)}{default}", "        ", "          ")
    if entry.left_out:
        names = ", ".join(entry.left_out)
        lines += ["", *wrapped(f"not in a config, for YAML cannot hold them or a config uses the name itself: {names}")]
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
    for name, schema in entry.schema["properties"].items():
        if (name not in RESERVED or name == "weight") and not schema.get("deprecated"):
            value = needed.get(name, schema["default"])
            lines += _commented(f"      {name}: {_default(value)}", describe(schema))
    return "\n".join(lines)


def _commented(line: str, comment: str) -> list[str]:
    """The line with a comment behind it, or above it where that would be too long for most editors."""
    if len(line) + len(comment) + 4 <= YAML_WIDTH:
        return [f"{line}  # {comment}"]
    return [*textwrap.wrap(comment, YAML_WIDTH, initial_indent="      # ", subsequent_indent="      # "), line]


def _default(value: object) -> str:
    return json.dumps(value) if isinstance(value, (str, list, dict)) else yaml_text(value)
