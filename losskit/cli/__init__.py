"""The command line."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Container, Sequence

import losskit

# The order is that of the help text; each has a module in `commands`.
COMMANDS = {
    "validate": "check the losses of config files",
    "list": "list the losses",
    "show": "show what a loss is and which settings it has",
    "schema": "write the JSON Schema of config files",
    "init": "write a first config, and what checks it before a commit and in CI",
    "explain": "say what a code such as LK201 means",
    "plot": "draw losses and their gradients, or weights that change",
    "completion": "print the script by which a shell completes losskit",
}
EXIT_OK, EXIT_FINDINGS, EXIT_CANNOT_RUN, EXIT_INTERNAL = 0, 1, 2, 3
# As a shell shows it for programs that end so, so that `set -o pipefail` notices.
EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 130, 141


class CannotRunError(Exception):
    """The command cannot do what it was asked to, for a reason that the message says."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code: 0 fine, 1 errors found, 2 could not run, 3 a fault of ours,
    130 interrupted, 141 when whoever read the output has stopped."""
    # Either may be closed, as by `>&-`.
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = make_parser(given).parse_args(given)
    # What the terminal's encoding lacks is written out, in place of an error in the middle of the output.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code: int = importlib.import_module(f"losskit.cli.commands.{options.command}").run(options)
        sys.stdout.flush()
    except CannotRunError as error:
        print(f"losskit: {error}", file=sys.stderr)
        return EXIT_CANNOT_RUN
    except BrokenPipeError:
        # The reader, such as `head`, has had enough. Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except OSError as error:  # such as a full disk
        print(f"losskit: {error}", file=sys.stderr)
        return EXIT_CANNOT_RUN
    except Exception:
        import traceback

        traceback.print_exc()
        print("losskit: this is a fault of losskit; please report it with the lines above", file=sys.stderr)
        return EXIT_INTERNAL
    return code


def make_parser(used: Container[str]) -> argparse.ArgumentParser:
    """The parser with all commands, and the options of those in `used`, whose modules are imported."""
    parser = argparse.ArgumentParser(
        prog="losskit",
        description="Losses for PyTorch, declared in YAML.",
        formatter_class=_formatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"losskit {losskit.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            formatter_class=_formatter,
            allow_abbrev=False,
        )
        if name in used:
            importlib.import_module(f"losskit.cli.commands.{name}").add_arguments(command)
    return parser


def _formatter(prog: str) -> argparse.HelpFormatter:
    """Argparse asks it about each option, and imports what measures terminals and unpacks archives to make it."""
    columns = os.environ.get("COLUMNS", "")
    try:
        width = int(columns) if columns.isdecimal() else os.get_terminal_size().columns
    except OSError:
        width = 80  # no terminal
    return argparse.HelpFormatter(prog, width=width - 2)


def add_plugin_argument(parser: argparse._ActionsContainer) -> None:
    """The option by which a command knows losses that are not built in."""
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="MODULE",
        help="import MODULE first, which registers losses of its own; may be repeated",
    )


def import_plugins(modules: Sequence[str], folders: Sequence[str] = ()) -> None:
    """Imports modules that register losses; they may stand in the working folder, or in `folders`.

    Raises:
        CannotRunError: one of them fails.
    """
    if not modules:
        return
    import contextlib

    # As `python -m` does; a script that pip installed does not look there.
    sys.path[:0] = [folder for folder in (os.getcwd(), *folders) if folder not in sys.path]
    for module in modules:
        try:
            # What a plugin prints is no part of a report.
            with contextlib.redirect_stdout(sys.stderr):
                importlib.import_module(module)
        except (Exception, SystemExit) as error:  # Whatever a plugin raises, the cure is the user's.
            raise CannotRunError(f"the plugin {module!r} failed: {type(error).__name__}: {error}") from error


def import_all_plugins(given: Sequence[str]) -> None:
    """Imports the plugins of the project, and those that are given on the command line.

    Raises:
        CannotRunError: one of them fails, or the project's settings are wrong.
    """
    from losskit.cli.project import read_project

    read_project().import_plugins(given)


def warn_of_plugins() -> None:
    """Says on stderr which installed plugins could not be loaded."""
    from losskit.registry import registry

    for problem in registry.plugin_problems:
        print(f"losskit: {problem}", file=sys.stderr)
