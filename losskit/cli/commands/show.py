"""`losskit show`: what a loss is and which settings it has."""

from __future__ import annotations

import argparse
import json
import shutil
import textwrap

from losskit.cli import CannotRunError, add_plugin_argument, import_plugins, warn_of_plugins
from losskit.constants import MULTI, RESERVED
from losskit.registry import LossEntry, UnknownLossError, registry
from losskit.schema.describe import describe, yaml_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("loss", metavar="LOSS", help="the name of a loss, or another name for it")
    parser.add_argument(
        "--format", choices=["text", "json", "yaml"], default="text", help="yaml: a config to start from"
    )
    add_plugin_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Prints the loss."""
    import_plugins(options.plugin)
    try:
        entry = registry.get(options.loss)
    except UnknownLossError as error:
        if options.loss == MULTI:
            raise CannotRunError(f"{MULTI} is no loss, but a list of losses that stands in its `params`") from error
        warn_of_plugins()
        raise CannotRunError(str(error)) from error
    print({"text": _text, "json": _json, "yaml": _yaml}[options.format](entry, options.loss))
    return 0


def _text(entry: LossEntry, asked: str) -> str:
    width = min(100, shutil.get_terminal_size().columns)
    lines = [entry.name if asked == entry.name else f"{asked} is another name for {entry.name}"]
    lines += [*textwrap.wrap(entry.summary, width), ""]
    lines.append(f"for:       {', '.join(entry.feature_types)}")
    if entry.aliases:
        lines.append(f"also:      {', '.join(entry.aliases)}")
    lines.append(f"takes:     {_roles(entry.inputs, entry.optional_inputs)}")
    lines.append(f"targets:   {_roles(entry.targets, entry.optional_targets) or 'none'}")
    lines.append(f"class:     {entry.module.path.replace(':', '.')}")
    lines += ["", "settings:"]
    for name, schema in entry.schema["properties"].items():
        if name != "type" and not schema.get("deprecated"):
            lines.append(f"  {name}: {describe(schema)}; default {yaml_text(schema.get('default'))}")
            lines += textwrap.wrap(
                schema.get("description", ""), width, initial_indent="      ", subsequent_indent="      "
            )
    if entry.left_out:
        lines += [
            "",
            f"not in a config, for YAML cannot hold them or a config uses the name itself: {', '.join(entry.left_out)}",
        ]
    return "\n".join(lines)


def _roles(needed: tuple[str, ...], optional: tuple[str, ...]) -> str:
    return ", ".join([*needed, *(f"{role} (where it is there)" for role in optional)])


def _json(entry: LossEntry, asked: str) -> str:
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


def _yaml(entry: LossEntry, asked: str) -> str:
    feature_type = entry.feature_types[0]
    lines = ["output_features:", f"  - name: my_{feature_type}", f"    type: {feature_type}", "    loss:"]
    lines.append(f"      type: {entry.name}  # {entry.summary}")
    needed = entry.config.load().example_settings
    for name, schema in entry.schema["properties"].items():
        if (name not in RESERVED or name == "weight") and not schema.get("deprecated"):
            value = needed.get(name, schema["default"])
            lines.append(f"      {name}: {_default(value)}  # {describe(schema)}")
    return "\n".join(lines)


def _default(value: object) -> str:
    return json.dumps(value) if isinstance(value, (str, list, dict)) else yaml_text(value)
