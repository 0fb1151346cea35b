"""`losskit list`: lists the losses."""

from __future__ import annotations

import argparse
import json

from losskit.cli import add_plugin_argument, import_plugins, warn_of_plugins
from losskit.constants import FEATURE_TYPES
from losskit.registry import registry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--feature", choices=FEATURE_TYPES, metavar="TYPE", help=f"one of {', '.join(FEATURE_TYPES)}")
    parser.add_argument("--format", choices=["text", "json"], default="text")
    add_plugin_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Prints a line per loss."""
    import_plugins(options.plugin)
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
    width = max(len(entry.name) for entry in entries)
    for entry in entries:
        also = f" (also {', '.join(entry.aliases)})" if entry.aliases else ""
        print(f"{entry.name:<{width}}  {', '.join(entry.feature_types)}{also}")
        print(f"{'':<{width}}  {entry.summary}")
    return 0
