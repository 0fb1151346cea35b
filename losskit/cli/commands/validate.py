"""`losskit validate`: checks the losses of config files."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator

from losskit.cli import (
    EXIT_CANNOT_RUN,
    EXIT_FINDINGS,
    EXIT_OK,
    CannotRunError,
    add_plugin_argument,
    import_plugins,
)
from losskit.cli.colour import Colour
from losskit.cli.files import find
from losskit.cli.formats import FORMATS, FileReport, Summary, reporter
from losskit.config import Document, read
from losskit.diagnostics import ERROR, WARNING
from losskit.validation import Validation

FORMAT_VARIABLE = "LOSSKIT_OUTPUT_FORMAT"
# In a folder, a file that cannot be read as YAML is ours only if it says so.
_MENTIONS_FEATURES = re.compile(r"""^[ \t{]*["']?output_features["']?[ \t]*:""", re.MULTILINE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "paths",
        nargs="*",
        metavar="PATH",
        help="files, folders (all *.yaml, *.yml and *.json below, nothing hidden) or patterns; `-` is standard input; "
        "without any, the current folder",
    )
    parser.add_argument(
        "--output-format",
        choices=["auto", *FORMATS],
        default=os.environ.get(FORMAT_VARIABLE) or "auto",
        help=f"how problems are printed (environment: {FORMAT_VARIABLE})",
    )
    parser.add_argument("--stdin-filename", metavar="NAME", default="<stdin>", help="what to call standard input")
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="GLOB", help="leave out files and folders; may be repeated"
    )
    parser.add_argument("--force-exclude", action="store_true", help="leave them out even if they are named")
    parser.add_argument(
        "--at", metavar="PATH", help="where in each file the losses stand, such as model_config.visual_bert.losses"
    )
    parser.add_argument("--allow-empty", action="store_true", help="finding no file with losses is not an error")
    parser.add_argument("--strict", action="store_true", help="warnings fail too")
    parser.add_argument("--exit-zero", action="store_true", help="exit with 0 even if there are errors")
    parser.add_argument("-q", "--quiet", action="count", default=0, help="no summary; twice: no problems either")
    parser.add_argument("--color", choices=["auto", "always", "never"], default="auto", help="when to use colour")
    add_plugin_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Checks all files; prints problems on stdout and a summary on stderr."""
    if options.output_format not in ("auto", *FORMATS):
        raise CannotRunError(f"{FORMAT_VARIABLE} is {options.output_format!r}; it may be auto, {', '.join(FORMATS)}")
    import_plugins(options.plugin)
    colour = Colour(options.color, sys.stdout)
    report = reporter("full" if options.output_format == "auto" else options.output_format, sys.stdout, colour)
    if options.quiet < 2:
        report.start()
    counts = {ERROR: 0, WARNING: 0}
    files = wrong_files = 0
    unreadable: list[str] = []
    for document, is_named in _documents(options, unreadable):
        validation = Validation(document, at=options.at)
        if not (is_named or validation.has_losses or _MENTIONS_FEATURES.search(document.text)):
            continue
        files += 1
        if any(diagnostic.code == "LK008" for diagnostic in validation.diagnostics):
            unreadable.append(str(document.name))
        wrong_files += bool(validation.diagnostics)
        for diagnostic in validation.diagnostics:
            counts[diagnostic.severity] += 1
        if options.quiet < 2:
            lines = document.lines if validation.diagnostics else []
            report.file(FileReport(str(document.name), validation.diagnostics, lines))
    if options.quiet < 2:
        report.finish(Summary(files, wrong_files, counts[ERROR], counts[WARNING]))
    if not (files or unreadable or options.allow_empty):
        raise CannotRunError("nothing to check: found no file with `output_features` or `losses`")
    if not options.quiet:
        print(_summary(counts, files, wrong_files), file=sys.stderr)
    if unreadable:
        return EXIT_CANNOT_RUN
    failed = counts[ERROR] or (options.strict and counts[WARNING])
    return EXIT_FINDINGS if failed and not options.exit_zero else EXIT_OK


def _documents(options: argparse.Namespace, unreadable: list[str]) -> Iterator[tuple[Document, bool]]:
    """Each file that can be read, and whether it was named; the others are told and added to `unreadable`."""
    paths = options.paths
    if "-" in paths:
        yield read(sys.stdin.buffer.read(), options.stdin_filename), True
        paths = [path for path in paths if path != "-"]
        if not paths:
            return
    for found in find(paths, options.exclude, force_exclude=options.force_exclude):
        try:
            with open(found.path, "rb") as file:
                source = file.read()
        except FileNotFoundError:
            continue  # a link in a folder that leads nowhere; a path that is named and missing was told before
        except OSError as error:
            print(f"losskit: cannot read {found.path!r}: {error.strerror}", file=sys.stderr)
            unreadable.append(found.path)
        else:
            yield read(source, found.path), found.is_named


def _summary(counts: dict[str, int], files: int, wrong_files: int) -> str:
    if not any(counts.values()):
        return f"{_plural(files, 'file')} checked, no problems"
    found = " and ".join(_plural(count, severity) for severity, count in counts.items() if count)
    return f"{_plural(files, 'file')} checked, {found} in {_plural(wrong_files, 'file')}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
