"""Checks one file, in this process or in another: reads it, cures it if that was asked for, and says what is wrong."""

from __future__ import annotations

import re

from losskit import first_pass
from losskit.cli.files import Found
from losskit.cli.formats import FileReport
from losskit.config import MAX_BYTES, Document, Uncollected, read

TYPE_CHECKING = False  # as in config.py
if TYPE_CHECKING:
    from collections.abc import Sequence

    from losskit.cli.silencing import Selection
    from losskit.diagnostics import Diagnostic

# In a folder, a file that cannot be read as YAML is ours only if it says so.
_MENTIONS_FEATURES = r"""(?m)^[ \t{]*["']?output_features["']?[ \t]*:"""
_COMMENT_MARK = "losskit:"
_UNREADABLE = ("LK008", "LK011")


class Options:
    """What is asked of each file. It goes to other processes as it is."""

    def __init__(
        self,
        *,
        at: str | None = None,
        selection: Selection | None = None,
        fixes: str | None = None,
        smoke: bool = False,
        only_configs: bool = False,
    ) -> None:
        self.at = at
        self.selection = selection
        self.fixes = fixes  # None, "write" or "diff"
        self.smoke = smoke
        self.only_configs = only_configs

    def with_smoke(self) -> Options:
        """The same, with a smoke test of each config."""
        return Options(
            at=self.at, selection=self.selection, fixes=self.fixes, smoke=True, only_configs=self.only_configs
        )

    def shown(self, diagnostics: Sequence[Diagnostic], document: Document) -> list[Diagnostic]:
        """The problems that neither a comment nor an option silences."""
        # What ended the reading of a file cannot be silenced: nobody knows what stands behind it.
        if document.data is None:
            return list(diagnostics)
        if _COMMENT_MARK in document.text:
            from losskit.cli.silencing import silenced

            diagnostics = silenced(diagnostics, document.lines, document.name or "", smoke=self.smoke)
        return [d for d in diagnostics if self.selection is None or self.selection.shows(d.code)]


class Outcome:
    """What came out of one file: the report, unless the file is another's, and what was or would be cured."""

    __slots__ = ("cured", "fixed", "report", "text", "unreadable")

    def __init__(self, report: FileReport | None, *, unreadable: bool = False) -> None:
        self.report = report
        self.unreadable = unreadable
        self.cured = 0
        # Where something is cured: the text before and after.
        self.text = ""
        self.fixed: str | None = None


def check_file(found: Found, options: Options) -> Outcome:
    """Checks the file at a path."""
    try:
        with open(found.path, "rb") as file:
            # One byte more than allowed is enough to refuse the file.
            source = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return Outcome(None)  # it was there a moment ago
    except OSError as error:
        return _unreadable(found.path, error)
    outcome = check(source, found.path, options, is_named=found.is_named)
    if options.fixes == "write" and outcome.fixed is not None:
        mark = b"\xef\xbb\xbf" if source.startswith(b"\xef\xbb\xbf") else b""
        try:
            with open(found.path, "wb") as file:
                file.write(mark + outcome.fixed.encode())
        except OSError as error:
            return _unreadable(found.path, error, "written")
    return outcome


def _unreadable(path: str, error: OSError, what: str = "read") -> Outcome:
    from losskit.diagnostics import Diagnostic

    problem = Diagnostic("LK011", f"the file cannot be {what}: {error.strerror or error}", file=path)
    return Outcome(FileReport(path, [problem]), unreadable=True)


def check(source: bytes, name: str, options: Options, *, is_named: bool = True) -> Outcome:
    """Checks the text of a file. Where it is not named, it may be another's, and then there is no report."""
    with Uncollected():
        return _check(source, name, options, is_named)


def _check(source: bytes, name: str, options: Options, is_named: bool) -> Outcome:
    document = read(source, name)
    is_named = is_named and not options.only_configs
    if options.at is None:
        # Where there is more to do than to find it right.
        has_more = _COMMENT_MARK in document.text or (options.fixes is not None and "params" in document.text)
        if not (has_more or options.smoke) and first_pass.is_right(document):
            return Outcome(FileReport(name))
        if not is_named and first_pass.has_no_losses(document):
            return Outcome(None)
    return _check_thoroughly(document, name, options, is_named)


def _check_thoroughly(document: Document, name: str, options: Options, is_named: bool) -> Outcome:
    from losskit.validation import Validation

    validation = Validation(document, at=options.at)
    # A file that can be read has said what it is: a JSON Schema has a property of that name, and no features.
    mentions = document.data is None and re.search(_MENTIONS_FEATURES, document.text)
    if not (is_named or validation.has_losses or mentions):
        return Outcome(None)
    before, cured = document.text, 0
    if options.fixes and before:
        from losskit.fixing import fix

        found = fix(before, name, at=options.at, shown=options.shown, validation=validation)
        validation, cured = found.validation, found.cured
        document = validation.document
    diagnostics: list[Diagnostic] = validation.diagnostics
    if options.smoke and document.data is not None:
        from losskit.diagnostics import in_order
        from losskit.smoke import smoke_test

        diagnostics = in_order([*diagnostics, *smoke_test(validation)])
    diagnostics = options.shown(diagnostics, document)
    is_unreadable = any(d.code in _UNREADABLE for d in diagnostics)
    outcome = Outcome(FileReport(name, diagnostics, document.lines if diagnostics else ()), unreadable=is_unreadable)
    if cured:
        outcome.cured, outcome.text, outcome.fixed = cured, before, document.text
    return outcome
