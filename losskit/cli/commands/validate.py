"""`losskit validate`: checks the losses of config files."""

from __future__ import annotations

import argparse
import os
import sys

from losskit.cli import (
    EXIT_CANNOT_RUN,
    EXIT_FINDINGS,
    EXIT_OK,
    CannotRunError,
    add_plugin_argument,
)
from losskit.cli.checking import Options, Outcome, check, check_file, encoded
from losskit.cli.files import DEFAULT_EXCLUDE, find
from losskit.cli.formats import FORMATS, FileReport, Reporter, Summary
from losskit.cli.project import read_project
from losskit.config import MAX_BYTES

TYPE_CHECKING = False  # as in config.py
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TextIO

    from losskit.cli.colour import Colour
    from losskit.cli.progress import Progress

FORMAT_VARIABLE = "LOSSKIT_OUTPUT_FORMAT"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "paths",
        nargs="*",
        metavar="PATH",
        help="files, folders (all *.yaml, *.yml and *.json below, nothing hidden and no schemas) or patterns; `-` is "
        "standard input; without any, the current folder",
    )
    show = parser.add_argument_group("what is shown")
    show.add_argument(
        "--output-format",
        metavar="FORMAT",
        choices=["auto", *FORMATS],
        help=f"how problems are printed: {', '.join(FORMATS)}, or auto: github where GITHUB_ACTIONS is true, else full "
        f"(environment: {FORMAT_VARIABLE})",
    )
    show.add_argument("-o", "--output", metavar="FILE", help="write the report to FILE in place of standard output")
    show.add_argument(
        "--select", action="append", metavar="CODE", help="only problems of these codes, such as LK2,LK301"
    )
    show.add_argument("--ignore", action="append", metavar="CODE", help="no problems of these codes")
    show.add_argument("-q", "--quiet", action="count", default=0, help="no summary; twice: no problems either")
    show.add_argument("-v", "--verbose", action="store_true", help="name each file that is checked")
    show.add_argument("--color", choices=["auto", "always", "never"], default="auto", help="when to use colour")
    files = parser.add_argument_group("which files")
    files.add_argument(
        "--exclude",
        action="append",
        metavar="GLOB",
        help=f"leave out files and folders, in place of {', '.join(DEFAULT_EXCLUDE)}; may be repeated",
    )
    files.add_argument("--force-exclude", action="store_true", help="leave them out even if they are named")
    files.add_argument("--only-configs", action="store_true", help="leave out what has no losses even if it is named")
    files.add_argument("--stdin-filename", metavar="NAME", default="<stdin>", help="what to call standard input")
    files.add_argument(
        "--at", metavar="PATH", help="where in each file the losses stand, such as model_config.visual_bert.losses"
    )
    add_plugin_argument(files)
    done = parser.add_argument_group("what is done")
    cures = done.add_mutually_exclusive_group()
    cures.add_argument("--fix", action="store_true", help="make the cures that are safe")
    cures.add_argument("--diff", action="store_true", help="show what --fix would change, and change nothing")
    done.add_argument(
        "--smoke", action="store_true", help="also build each loss and train it for a step on made-up data; needs torch"
    )
    ends = parser.add_argument_group("exit code")
    ends.add_argument("--allow-empty", action="store_true", help="finding no file with losses is not an error")
    ends.add_argument("--strict", action="store_true", help="warnings fail too")
    ends.add_argument("--exit-zero", action="store_true", help="exit with 0 even if there are errors")


def run(options: argparse.Namespace) -> int:
    """Checks all files; prints problems on stdout and a summary on stderr."""
    project = read_project()
    if options.verbose and project.file:
        print(f"losskit: settings from {project.file}", file=sys.stderr)
    project.import_plugins(options.plugin)
    checks = Options(
        at=options.at or project.settings.get("at"),
        selection=project.selection(options.select, options.ignore),
        fixes="write" if options.fix else "diff" if options.diff else None,
        smoke=options.smoke,
        only_configs=options.only_configs,
    )
    exclude = project.excluded(options.exclude)
    run = _Run(options, checks)
    try:
        run.go(_outcomes(options, checks, exclude, project.plugins(options.plugin)))
    except ImportError as error:
        if error.name != "torch":
            raise
        raise CannotRunError(str(error)) from error
    finally:
        run.close()
    return run.exit_code()


def _outcomes(
    options: argparse.Namespace, checks: Options, exclude: Iterable[str], plugins: list[str]
) -> Iterator[Outcome]:
    paths = options.paths
    if "-" in paths:
        source = sys.stdin.buffer.read(MAX_BYTES + 1)
        outcome = check(source, options.stdin_filename, checks)
        if checks.fixes == "write":
            sys.stdout.flush()
            sys.stdout.buffer.write(source if outcome.fixed is None else encoded(outcome.fixed, source))
            while rest := sys.stdin.buffer.read(MAX_BYTES):  # of what is too long to be checked
                sys.stdout.buffer.write(rest)
        yield outcome
        paths = [path for path in paths if path != "-"]
        if not paths:
            return
    files = find(paths, tuple(exclude), force_exclude=options.force_exclude)
    if len(paths) == 1 and os.path.isfile(paths[0]):
        yield from (check_file(found, checks) for found in files)
        return
    from losskit.cli.spreading import outcomes

    yield from outcomes(files, checks, plugins)


class _Run:
    """Goes through what came out of the files, and keeps count."""

    def __init__(self, options: argparse.Namespace, checks: Options) -> None:
        self.options = options
        self.summary = Summary()
        self.cured = self.cured_files = self.unreadable = self.left_out = 0
        self.wants_fixed_text = checks.fixes == "write" and "-" in options.paths
        self.wants_diff = checks.fixes == "diff"
        name = options.output_format or os.environ.get(FORMAT_VARIABLE) or "auto"
        if name not in ("auto", *FORMATS):
            raise CannotRunError(f"{FORMAT_VARIABLE} is {name!r}; it may be auto, {', '.join(FORMATS)}")
        if name == "auto":
            name = "github" if os.environ.get("GITHUB_ACTIONS") == "true" else "full"
        self.format = name
        self.file = _ReportFile(options.output) if options.output else None
        # Where the cured text goes to standard output, the problems cannot.
        self.out = self.file.stream if self.file else sys.stderr if self.wants_fixed_text else sys.stdout
        self.reporter: Reporter | None = None
        self.is_text = name in ("full", "concise", "github")
        # A report for other programs, or in a file, is always a whole one.
        self.is_shown = not self.wants_diff and (options.quiet < 2 or not self.is_text or self.file is not None)

    @property
    def colour(self) -> Colour:
        from losskit.cli.colour import Colour

        return Colour("never" if self.file else self.options.color, self.out)

    def started(self) -> Reporter:
        """The reporter; text formats are imported only when there is something to say."""
        if self.reporter is None:
            from losskit.cli.formats import reporter

            self.reporter = reporter(self.format, self.out, self.colour)
            self.reporter.start()
        return self.reporter

    def go(self, outcomes: Iterator[Outcome]) -> None:
        """Reports each file as it comes, then all that there is to say at the end."""
        progress = _progress(self.options, self.is_shown and self.out is not sys.stderr)
        for outcome in outcomes:
            if outcome.report is None:
                self.leave_out(outcome)
                continue
            if progress:
                progress.advance(self.summary.files, clear=bool(outcome.report.diagnostics) and self.is_shown)
            self.one(outcome, outcome.report)
        if progress:
            progress.end()
        if self.is_shown and (self.reporter or not self.is_text):
            self.started().finish(self.summary)
        if not (self.summary.files or self.unreadable or self.options.allow_empty):
            left_out = f", and {self.left_out_in_words()}" if self.left_out else ""
            raise CannotRunError(f"nothing to check: found no file with `output_features` or `losses`{left_out}")
        if self.file:
            self.file.keep()
        if not self.options.quiet:
            print(self.sentence(), file=sys.stderr)
            if self.left_out:
                hint = "" if self.options.verbose else " (-v names them)"
                print(f"{self.left_out_in_words()}, and left out{hint}", file=sys.stderr)

    def one(self, outcome: Outcome, report: FileReport) -> None:
        """Counts and reports one file."""
        if self.file and os.path.abspath(report.name) == self.file.path:
            raise CannotRunError(f"the report would overwrite {report.name!r}, which is to be checked")
        self.count(outcome)
        if self.options.verbose:
            _remark(report.name, f"{len(report.diagnostics)} found" if report.diagnostics else "right")
        if outcome.fixed is not None and self.wants_diff:
            from losskit.cli.difference import print_difference

            print_difference(outcome.text, outcome.fixed, report.name, self.out, self.colour)
        if self.is_shown and (report.diagnostics or not self.is_text):
            self.started().file(report)

    def leave_out(self, outcome: Outcome) -> None:
        """Remembers a file in a folder that may be a config, but cannot be read."""
        why = outcome.left_out
        if why:
            self.left_out += 1
            if self.options.verbose:
                _remark(f"{why.file}:{why.line}", f"left out: {why.message}")

    def left_out_in_words(self) -> str:
        """How many files could not be read."""
        return f"{_plural(self.left_out, 'file')} could not be read"

    def count(self, outcome: Outcome) -> None:
        """Adds one file to the summary."""
        assert outcome.report
        summary, diagnostics = self.summary, outcome.report.diagnostics
        summary.files += 1
        self.unreadable += outcome.unreadable
        if diagnostics:
            errors = sum(diagnostic.severity == "error" for diagnostic in diagnostics)
            summary.wrong_files += 1
            summary.errors += errors
            summary.warnings += len(diagnostics) - errors
        if outcome.cured:
            self.cured += outcome.cured
            self.cured_files += 1

    def sentence(self) -> str:
        """The summary in words."""
        summary = self.summary
        found = [
            _plural(count, noun) for count, noun in ((summary.errors, "error"), (summary.warnings, "warning")) if count
        ]
        files = _plural(summary.files, "file")
        text = f"{files} checked, no problems"
        if found:
            text = f"{files} checked, {' and '.join(found)} in {_plural(summary.wrong_files, 'file')}"
        if self.wants_diff:
            text = f"{files} checked, {_plural(self.cured, 'cure')} to make in {_plural(self.cured_files, 'file')}"
            text += f", {' and '.join(found)} would be left" if found else ""
        elif self.cured:
            text += f"; {_plural(self.cured, 'cure')} made in {_plural(self.cured_files, 'file')}"
        return text

    def exit_code(self) -> int:
        """0, 1 or 2."""
        if self.unreadable:
            return EXIT_CANNOT_RUN
        failed = self.summary.errors or (self.options.strict and self.summary.warnings)
        failed = failed or (self.wants_diff and self.cured)
        return EXIT_FINDINGS if failed and not self.options.exit_zero else EXIT_OK

    def close(self) -> None:
        """Closes the report's file."""
        if self.file:
            self.file.close()


class _ReportFile:
    """The file behind `-o`: it takes the place of an old one only when the report is whole."""

    def __init__(self, name: str) -> None:
        self.path = os.path.abspath(name)
        is_special = os.path.exists(self.path) and not os.path.isfile(self.path)  # such as /dev/stderr
        self.beside = None if is_special else f"{self.path}.{os.getpid()}.tmp"
        try:
            # Names of files can hold bytes that are no text.
            self.stream: TextIO = open(  # noqa: SIM115
                self.beside or self.path, "w", encoding="utf-8", errors="backslashreplace", newline="\n"
            )
        except OSError as error:
            raise CannotRunError(f"cannot write {name!r}: {error.strerror}") from error

    def keep(self) -> None:
        """Puts the report where it belongs."""
        self.stream.close()
        if self.beside:
            os.replace(self.beside, self.path)
            self.beside = None

    def close(self) -> None:
        """Removes what is no whole report."""
        self.stream.close()
        if self.beside:
            os.unlink(self.beside)


def _remark(place: str, text: str) -> None:
    from losskit.diagnostics import printable

    print(f"losskit: {printable(place)}: {text}", file=sys.stderr)


def _progress(options: argparse.Namespace, is_free: bool) -> Progress | None:
    if options.quiet or options.verbose or not is_free or not sys.stderr.isatty():
        return None
    from losskit.cli import progress

    return progress.Progress(sys.stderr)


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
