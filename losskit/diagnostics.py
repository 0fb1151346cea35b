"""What is wrong with a config, and where."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

DOCUMENTATION = "https://losskit.readthedocs.io/en/stable/"
REPOSITORY = "https://github.com/losskit/losskit"

ERROR = "error"
WARNING = "warning"

INTERPOLATION_HELP = "OmegaConf resolves this; check the composed config, or the DictConfig in Python"

# Longer values are cut: a message must stay readable, and formatting a hostile value must stay cheap.
MAX_SHOWN = 40


class Code(NamedTuple):
    """A kind of problem: its stable number, its name, what it means in one line, and how bad it is."""

    number: str
    name: str
    summary: str
    severity: str = ERROR


CODES: dict[str, Code] = {
    row[0]: Code(*row)
    for row in (
        ("LK001", "syntax", "the file is not valid YAML"),
        ("LK002", "repeated-key", "a mapping holds the same key twice"),
        ("LK003", "tag", "a YAML tag such as `!!python/object`; configs are plain data"),
        ("LK004", "recursive-alias", "an alias that contains itself"),
        ("LK005", "limit", "the file is larger, deeper or longer than a config can be"),
        ("LK006", "several-documents", "several YAML documents where one is expected"),
        ("LK007", "key-type", "a key that is a list or a mapping"),
        ("LK008", "encoding", "the file is not text in UTF-8"),
        ("LK009", "empty", "the config is empty"),
        ("LK010", "merge", "a merge key `<<` whose value is no mapping"),
        ("LK011", "unreadable", "the file cannot be opened or read"),
        ("LK101", "structure", "a mapping or a list stands where something else is expected"),
        ("LK102", "missing-key", "a key that is required is missing"),
        ("LK103", "unknown-loss", "no loss has this name"),
        ("LK104", "unknown-feature-type", "no feature type has this name"),
        ("LK105", "feature-type", "the loss does not support this feature type"),
        ("LK106", "repeated-name", "two features, or two losses of a feature, have the same name"),
        ("LK107", "near-miss-key", "a key that looks like a misspelt one and would be ignored", WARNING),
        ("LK108", "no-default-loss", "the feature type has no default loss"),
        ("LK109", "unknown-balancing", "no way to balance losses has this name"),
        ("LK201", "unknown-setting", "the loss has no such setting"),
        ("LK202", "type", "a value has the wrong type"),
        ("LK203", "range", "a number is outside its limits"),
        ("LK204", "choice", "a value is not among the allowed ones"),
        ("LK205", "missing-setting", "a setting that is required is missing"),
        ("LK206", "length", "a list or mapping has the wrong size or the wrong keys"),
        ("LK207", "rule", "settings contradict each other or the feature"),
        ("LK208", "unknown-input", "`inputs` names a role that the loss does not have"),
        ("LK301", "deprecated", "a name that still works but will go away", WARNING),
        ("LK302", "number-notation", "a number that PyYAML's default reader takes for text or another number", WARNING),
        ("LK303", "no-effect", "a setting that has no effect where it stands", WARNING),
        ("LK304", "unused-ignore", "a comment that silences a code which is not found on its line", WARNING),
        ("LK401", "plugin", "a plugin could not be imported or registered", WARNING),
        ("LK501", "does-not-train", "on made-up data, the loss fails or has no finite value and gradient"),
    )
}


class Position(NamedTuple):
    """A place in a file. Lines and columns count from 1, columns in code points."""

    line: int
    column: int


class Span(NamedTuple):
    """From `start` up to, not including, `end`."""

    start: Position
    end: Position


class Edit(NamedTuple):
    """What would cure a problem: `text` in place of what stands in `span`."""

    span: Span
    text: str


class Diagnostic(NamedTuple):
    """One problem: what, where, how bad, and the cure where there is one."""

    code: str
    message: str
    path: str = ""
    severity: str = ERROR
    position: Position | None = None
    end: Position | None = None
    file: str | None = None
    suggestion: str | None = None
    help: str | None = None
    # Where there is one safe cure, the edits that make it.
    edits: tuple[Edit, ...] = ()

    @property
    def url(self) -> str:
        """The page that explains the code."""
        return f"{DOCUMENTATION}codes/{self.code}.html"

    @property
    def name(self) -> str:
        """The name of the code, such as `unknown-setting`."""
        return CODES[self.code].name

    @property
    def line(self) -> int | None:
        return self.position.line if self.position else None

    @property
    def column(self) -> int | None:
        return self.position.column if self.position else None

    @property
    def text(self) -> str:
        """The message with the suggestion."""
        return f"{self.message}, did you mean `{self.suggestion}`?" if self.suggestion else self.message

    def __str__(self) -> str:
        place = self.file or ""
        if self.position:
            place += f":{self.position.line}:{self.position.column}"
        head = f"{place.lstrip(':')}: " if place else ""
        path = f"{self.path}: " if self.path else ""
        return f"{head}{self.severity}[{self.code}] {path}{self.text}"

    def at(self, span: Span | None, file: str | None) -> Diagnostic:
        """The same problem with its place."""
        return self._replace(position=span and span.start, end=span and span.end, file=file)


class ConfigError(ValueError):
    """A config, or a call of `create_loss`, has problems; `diagnostics` holds all of them."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = list(diagnostics)
        helps = [f"\n  help: {diagnostic.help}" if diagnostic.help else "" for diagnostic in self.diagnostics]
        super().__init__("\n".join(f"{d}{help}" for d, help in zip(self.diagnostics, helps, strict=True)))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[Diagnostic]]]:
        # The default would call the class with the message alone, so the error would not cross processes.
        return type(self), (self.diagnostics,)


def has_errors(diagnostics: Iterable[Diagnostic]) -> bool:
    """Whether some of them are worse than warnings."""
    return any(diagnostic.severity == ERROR for diagnostic in diagnostics)


def in_order(diagnostics: Iterable[Diagnostic]) -> list[Diagnostic]:
    """Sorted by position; what has none comes first."""
    return sorted(diagnostics, key=lambda d: (d.file or "", d.position or Position(0, 0), d.code))


def show(value: Any) -> str:
    """`value` as a user would write it in YAML, cut to a readable length."""
    if value is None:
        return "null"
    if value is True or value is False:
        return str(value).lower()
    if isinstance(value, str):
        return f'"{cut(value)}"'
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, float) and math.isnan(value):
        return ".nan"
    if isinstance(value, float) and math.isinf(value):
        return ".inf" if value > 0 else "-.inf"
    if isinstance(value, int) and value.bit_length() > 200:
        return "a very large integer"
    return cut(repr(value))


def show_path(path: Iterable[str | int]) -> str:
    """`("output_features", 0, "loss")` as `output_features[0].loss`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{cut(step)}" if text else cut(step)
    return text


def is_interpolation(value: Any) -> bool:
    """Whether a text stands for another value, as OmegaConf and Hydra write it: `${other.key}`."""
    return isinstance(value, str) and value.startswith("${") and value.endswith("}")


def quoting(value: Any) -> str | None:
    """The cure where a number stands for text."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return f'quote it: "{value}"' if is_number else None


def listing(names: Iterable[str], limit: int = 5) -> str:
    """`a, b, c`, and an ellipsis where there are more than `limit`."""
    names = list(names)
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")


def printable(text: str) -> str:
    """`text` on one line, with what would move or colour the output written out."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def cut(text: str) -> str:
    """`text` at a readable length, with characters that would move or colour the output written out."""
    text = printable(text[:200])
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"
