"""Checks one file, in this process or in another: reads it, cures it if that was asked for, and says what is wrong."""

from __future__ import annotations

import os
import re
import stat

from losskit import first_pass
from losskit.cli.files import Found
from losskit.cli.formats import FileReport
from losskit.config import MAX_BYTES, Document, Uncollected, read

TYPE_CHECKING = False  # as in config.py
if TYPE_CHECKING:
    from collections.abc import Sequence

    from losskit.cli.silencing import Selection
    from losskit.diagnostics import Diagnostic

# In a folder, a file that cannot be read as YAML is ours only if it says so, as far as one can see.
_MENTIONS_LOSSES = r"""(?mx)
    (?: ^ | [{,]\s* ) ["']? output_features ["']? [ \t]*:            # a key at the top
    | (?: ^ | ^\{\s* ) ["']? losses ["']? [ \t]*: \s* (?: - | \[ )  # and a list of losses
"""
# Problems with which a file may be a config that cannot be read, other than being several documents.
_NOT_READ = ("LK001", "LK005", "LK008")
# With what a comment that silences begins; most files have none.
COMMENT_MARK = "losskit:"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
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
        return Options(**{**vars(self), "smoke": True})

    def shown(self, diagnostics: Sequence[Diagnostic], document: Document) -> list[Diagnostic]:
        """The problems that neither a comment nor an option silences."""
        # What ended the reading of a file cannot be silenced: nobody knows what stands behind it.
        if document.data is None:
            return list(diagnostics)
        if COMMENT_MARK in document.text:
            from losskit.cli.silencing import silenced

            diagnostics = silenced(diagnostics, document, smoke=self.smoke)
        return [d for d in diagnostics if self.selection is None or self.selection.shows(d.code)]


class Outcome:
    """What came out of one file: the report, unless the file is another's, and what was or would be cured."""

    __slots__ = ("cured", "fixed", "left_out", "report", "text", "unreadable")

    def __init__(
        self, report: FileReport | None, *, unreadable: bool = False, left_out: Diagnostic | None = None
    ) -> None:
        self.report = report
        self.unreadable = unreadable
        # Why a file in a folder, which says nothing about losses as far as one can see, cannot be read.
        self.left_out = left_out
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
        try:
            replace(found.path, encoded(outcome.fixed, source))
        except OSError as error:
            return _unreadable(found.path, error, "written")
    return outcome


def encoded(text: str, like: bytes) -> bytes:
    """`text` as bytes, with a byte order mark if the bytes before had one."""
    return (_BYTE_ORDER_MARK if like.startswith(_BYTE_ORDER_MARK) else b"") + text.encode()


def replace(path: str, content: bytes) -> None:
    """Writes a file at once or not at all; links to it, and its permissions, stay.

    Raises:
        OSError: it cannot be written.
    """
    path = os.path.realpath(path)
    status = os.stat(path)
    if status.st_nlink > 1:
        # A new file would leave the other names with the old content.
        with open(path, "wb") as file:
            file.write(content)
        return
    beside = f"{path}.{os.getpid()}.tmp"
    try:
        with open(beside, "xb") as file:
            file.write(content)
        os.chmod(beside, stat.S_IMODE(status.st_mode))
        os.replace(beside, path)
    except OSError:
        if os.path.exists(beside):
            os.unlink(beside)
        raise


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
        has_more = COMMENT_MARK in document.text or (options.fixes is not None and "params" in document.text)
        if not (has_more or options.smoke) and first_pass.is_right(document):
            return Outcome(FileReport(name))
        if not is_named and first_pass.has_no_losses(document):
            return Outcome(None)
    return _check_thoroughly(document, source, name, options, is_named)


def _guessed(source: bytes) -> str:
    """What a file that is no UTF-8 says as far as ASCII goes."""
    return source.lstrip(b"\xff\xfe").replace(b"\0", b"").decode("latin-1")


def _check_thoroughly(document: Document, source: bytes, name: str, options: Options, is_named: bool) -> Outcome:
    from losskit.validation import Validation

    validation = Validation(document, at=options.at)
    # A file that can be read has said what it is: a JSON Schema has a property of that name, and no features.
    mentions = document.data is None and re.search(_MENTIONS_LOSSES, document.text or _guessed(source))
    if not (is_named or validation.has_losses or mentions):
        first = None if document.data is not None else document.diagnostics[0]
        return Outcome(None, left_out=first if first and first.code in _NOT_READ else None)
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
