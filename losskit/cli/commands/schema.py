"""`losskit schema`: the JSON Schema of config files, for editors and other validators."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from losskit.cli import EXIT_FINDINGS, EXIT_OK, CannotRunError, add_plugin_argument, import_all_plugins, warn_of_plugins
from losskit.registry import registry
from losskit.schema import catalogue
from losskit.schema.document import DRAFTS, LossRow, StrategyRow, config_schema, dump
from losskit.strategies import strategies


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("-o", "--output", metavar="FILE", help="write to FILE in place of standard output")
    parser.add_argument(
        "--check",
        action="store_true",
        help="do not write; exit with 1 if FILE (losskit.schema.json without -o) is out of date",
    )
    parser.add_argument("--draft", choices=list(DRAFTS), default="7", help="the draft of JSON Schema")
    add_plugin_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Writes the schema, or compares it with a file."""
    import_all_plugins(options.plugin)
    text = schema_text(options.draft)
    if options.check:
        path = Path(options.output or "losskit.schema.json")
        if not path.is_file():
            raise CannotRunError(f"there is no file {str(path)!r} to check; name it by -o")
        if path.read_bytes() == text.encode():
            return EXIT_OK
        draft = f" --draft {options.draft}" if options.draft != "7" else ""
        plugins = "".join(f" --plugin {module}" for module in options.plugin)
        command = f"losskit schema{draft}{plugins} -o {path}"
        print(f"{path} is out of date: run `{command}`", file=sys.stderr)
        return EXIT_FINDINGS
    if not options.output:
        sys.stdout.write(text)
        return EXIT_OK
    try:
        Path(options.output).write_text(text, "utf-8", newline="\n")
    except OSError as error:
        raise CannotRunError(f"cannot write {options.output!r}: {error.strerror}") from error
    return EXIT_OK


def schema_text(draft: str = "7") -> str:
    """The schema of configs with all losses, and strategies to balance them, that are known."""
    losses, ways = registry.entries(), strategies.entries()
    warn_of_plugins()
    if draft == "7" and all(e.is_built_in for e in losses) and all(e.is_built_in for e in ways):
        return catalogue.CONFIG_SCHEMA.read_text("utf-8")
    rows = (LossRow(e.names, e.feature_types, e.summary, e.schema) for e in losses)
    return dump(config_schema(rows, draft, strategies=(StrategyRow(e.name, e.summary, e.schema) for e in ways)))
