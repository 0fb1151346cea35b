"""`losskit list`: lists the losses, or the strategies to balance them."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from collections.abc import Iterator

from losskit.cli import CannotRunError, add_plugin_argument, import_all_plugins, warn_of_plugins
from losskit.cli.colour import Colour
from losskit.cli.features import add_feature_argument
from losskit.registry import LossEntry, registry

MAX_WIDTH = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add_feature_argument(parser, "only the losses for a feature type")
    parser.add_argument(
        "--balancing", action="store_true", help="the strategies to balance the losses of several tasks, in their place"
    )
    parser.add_argument("--format", choices=["text", "json"], default="text", help="how they are printed")
    parser.add_argument("--color", choices=["auto", "always", "never"], default="auto", help="when to use colour")
    add_plugin_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Prints the losses, or those for a feature type, or the strategies to balance them."""
    import_all_plugins(options.plugin)
    if options.balancing:
        return _list_strategies(options)
    entries = [e for e in registry.entries() if options.feature is None or options.feature in e.feature_types]
    warn_of_plugins()
    if options.format == "json":
        rows = [
            {"name": e.name, "aliases": e.aliases, "feature_types": e.feature_types, "summary": e.summary}
            for e in entries
        ]
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return 0
    if not entries:
        print(f"no losses for {options.feature}")
        return 0
    colour = Colour(options.color, sys.stdout)
    for entry in entries:
        print("\n".join(_lines(entry, colour)))
    return 0


def _list_strategies(options: argparse.Namespace) -> int:
    if options.feature is not None:
        raise CannotRunError("--balancing and --feature do not go together: strategies are for all features")
    from losskit.strategies import strategies

    entries = strategies.entries()
    warn_of_plugins()
    if options.format == "json":
        print(json.dumps([{"name": e.name, "summary": e.summary} for e in entries], indent=2, ensure_ascii=False))
        return 0
    colour = Colour(options.color, sys.stdout)
    for entry in entries:
        print(colour.paint(entry.name, "bold"))
        print("\n".join(textwrap.wrap(entry.summary, _width(), initial_indent="    ", subsequent_indent="    ")))
    return 0


def _width() -> int:
    return min(MAX_WIDTH, shutil.get_terminal_size().columns)


def _lines(entry: LossEntry, colour: Colour) -> Iterator[str]:
    """The name and the feature types, then the rest below them."""
    width = _width()
    hanging = " " * (len(entry.name) + 2)
    first, *rest = textwrap.wrap(f"{hanging}{', '.join(entry.feature_types)}", width, subsequent_indent=hanging)
    yield colour.paint(entry.name, "bold") + first[len(entry.name) :]
    yield from rest
    also = f" (also {', '.join(entry.aliases)})" if entry.aliases else ""
    yield from textwrap.wrap(entry.summary + also, width, initial_indent="    ", subsequent_indent="    ")
