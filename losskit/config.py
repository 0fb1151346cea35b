"""Reads YAML text into plain data that remembers where every key and value stands.

The text is read from the parser's events, not through a loader: there, positions cost nothing, numbers can follow
YAML 1.2, and depth and size are limited before anything is built. Places are kept as the events themselves, and are
looked at only where there is something to say: most configs are right.
"""

from __future__ import annotations

import functools
import gc
import itertools
import math
import re

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

# As `typing.TYPE_CHECKING`. A right config is checked in less time than typing and dataclasses take to import, so the
# modules on its way do without them.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, NoReturn

    from losskit.diagnostics import Diagnostic, Edit, Span

MAX_BYTES = 1 << 20
MAX_DEPTH = 64
# Keys and values as they are written, and again values once aliases are written out: the most that is read in half a
# second, and enough for a weight for each word of a large vocabulary.
MAX_NODES = 250_000
# After so many problems, the rest is not checked: nobody reads them, and the config may be made to keep us busy.
MAX_PROBLEMS = 1000
MAX_SCALAR = 1 << 16
# A longer run of digits is no number that a loss could use, and Python refuses to convert very long ones.
MAX_DIGITS = 400

Path = tuple["str | int", ...]

_INTEGER = re.compile(r"[-+]?[0-9]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_CONSTANTS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
# What PyYAML's default reader, which is on YAML 1.1, takes for a float.
_YAML_1_1_FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?\Z")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+\Z")
_PRINTABLE_ASCII = b"\t\n\r" + bytes(range(0x20, 0x7F))
LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_NUMBER_STARTS = frozenset("+-.0123456789")
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Uncollected:
    """Pauses Python's search for cycles.

    A large config is many objects without any cycle, and to look for cycles among them again and again takes four times
    as long as to read it.
    """

    def __enter__(self) -> None:
        self.was_enabled = gc.isenabled()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        if self.was_enabled:
            gc.enable()


class Entry:
    """Where one item of a mapping or list stands; items of a list have no key."""

    def __init__(self, key: Any, value: Any) -> None:
        self._key = key
        self._value = value

    @property
    def key(self) -> Span | None:
        return _span(self._key) if self._key is not None else None

    @property
    def value(self) -> Span:
        return _span(self._value)

    def is_in_one_line(self, is_key: bool) -> bool:
        """Whether the key, or else the value, ends on the line on which it starts, and its span is that and no more."""
        event = self._key if is_key and self._key is not None else self._value
        # An alias has an anchor too: what should stand elsewhere is not written here.
        return bool(event.start_mark.line == event.end_mark.line) and event.anchor is None

    @property
    def notation(self) -> str | None:
        """How a number is written that other readers would take for something else."""
        event = getattr(self._value, "anchored", self._value)
        if not isinstance(event, ScalarEvent) or event.style:
            return None
        text = event.value
        return text if text[:1] in _NUMBER_STARTS and len(text) <= MAX_DIGITS and _number(text)[1] else None


class Document:
    """What a config says, and where.

    `data` is made of dict, list, str, int, float, bool and None. `text` is "" where the data did not come from a file.
    """

    def __init__(self, data: Any, name: str | None = None, text: str = "") -> None:
        self.data = data
        self.name = name
        self.text = text
        self.diagnostics: list[Diagnostic] = []
        # The identities of containers of numbers that are written so that other readers take them for something else.
        self.odd: set[int] = set()
        # The events of the items of each container, by its identity: those of a mapping's key and value, by the key;
        # those of a list's values.
        self.events: dict[int, Any] = {}

    def entry(self, path: Path) -> Entry | None:
        """Where the item at `path` stands, or its nearest parent that stands somewhere."""
        found, node = None, self.data
        for step in path:
            try:
                event = self.events[id(node)][step]
                found = Entry(*event) if isinstance(node, dict) else Entry(None, event)
            except (KeyError, IndexError, TypeError):
                pass
            try:
                node = node[step]
            except (KeyError, IndexError, TypeError):
                break
        return found

    def diagnose(
        self,
        code: str,
        path: Path,
        message: str,
        *,
        on_key: bool = False,
        severity: str = "error",
        suggestion: str | None = None,
        help: str | None = None,
        cure: str | None = None,
        keeps_quotes: bool = True,
    ) -> Diagnostic:
        """A diagnostic at the value of `path`, or at its key; `cure` is what should stand in its place."""
        from losskit.diagnostics import Diagnostic, Edit, Position, Span, show_path

        entry = self.entry(path)
        span = ((on_key and entry.key) or entry.value) if entry else None
        edits: tuple[Edit, ...] = ()
        if span is None and self.text:
            span = Span(Position(1, 1), Position(1, 1))
        elif span and cure is not None and self.text and entry and entry.is_in_one_line(on_key):
            edits = (Edit(span, self._quoted(cure, span) if keeps_quotes else cure),)
        problem = Diagnostic(code, message, show_path(path), severity, suggestion=suggestion, help=help, edits=edits)
        return problem.at(span, self.name)

    def _quoted(self, text: str, span: Span) -> str:
        """`text` with the quotes of what stands in `span`."""
        quote = self.lines[span.start.line - 1][span.start.column - 1]
        return f"{quote}{text}{quote}" if quote in "'\"" else text

    @functools.cached_property
    def lines(self) -> list[str]:
        return LINE_BREAK.split(self.text)


def read(source: str | bytes, name: str | None = None) -> Document:
    """Reads one YAML (or JSON) document. Problems are in `diagnostics` of the result, never raised.

    Where the text cannot be read to its end, `data` is None.
    """
    document = Document(None, name)
    if len(source) > MAX_BYTES or len(_bytes(source)) > MAX_BYTES:
        return _refused(
            document, "LK005", f"the file is longer than {MAX_BYTES:,} bytes, the most that a config may have"
        )
    is_plain = isinstance(source, bytes) and not source.translate(None, _PRINTABLE_ASCII)
    if isinstance(source, bytes):
        try:
            text = source.decode()
        except UnicodeDecodeError as error:
            return _not_utf_8(document, source, error.start)
        source = text
    document.text = source = source.removeprefix("\ufeff")
    bad = [] if is_plain else [source.index(char) for char in set(source) if not _is_printable(char)]
    if bad:
        message = f"the character U+{ord(source[min(bad)]):04X} is not allowed in YAML"
        return _refused(document, "LK001", message, *_end_of(source[: min(bad)]))
    try:
        with Uncollected():
            _Reader(document, is_json=bool(name and name.lower().endswith(".json"))).read()
    except _RefusalError as refusal:
        document.data = None
        document.diagnostics.append(refusal.diagnostic)
    except yaml.MarkedYAMLError as error:
        from losskit.syntax import explained

        mistake = explained(error, document.lines)
        message = f"not valid YAML: {mistake.message}"
        _refused(document, "LK001", message, mistake.line, mistake.column, help=mistake.help)
    except (yaml.YAMLError, ValueError) as error:
        _refused(document, "LK001", f"not valid YAML: {error}")
    if document.data is None and not document.diagnostics:
        _refused(document, "LK009", "the config is empty")
    return document


def _bytes(source: str | bytes) -> bytes:
    return source if isinstance(source, bytes) else source.encode("utf-8", "surrogatepass")


def _end_of(text: str) -> tuple[int, int]:
    """The line and the column behind a text."""
    lines = LINE_BREAK.split(text)
    return len(lines), len(lines[-1]) + 1


def _is_printable(char: str) -> bool:
    """Whether YAML allows the character; a byte order mark stands at the start of a file only."""
    code = ord(char)
    is_bmp = 0x20 <= code <= 0x7E or 0xA0 <= code <= 0xD7FF or 0xE000 <= code <= 0xFFFD
    return (is_bmp and code != 0xFEFF) or code > 0xFFFF or char in "\t\n\r\x85"


def _not_utf_8(document: Document, source: bytes, start: int) -> Document:
    line, column = _end_of(source[:start].decode().removeprefix("\ufeff"))
    guess = source[start : start + 1].decode("latin-1")
    help = "save the file as UTF-8" + (f"; in Latin-1 the byte is {guess}" if guess.isalpha() else "")
    return _refused(document, "LK008", f"not UTF-8 text: byte 0x{source[start]:02x}", line, column, help=help)


def events_of(text: str) -> Iterator[Any]:
    """The parser's events of a text that can be read."""
    loader = _Loader(text)
    while (event := loader.get_event()) is not None:
        yield event


def _refused(
    document: Document, code: str, message: str, line: int = 1, column: int = 1, *, help: str | None = None
) -> Document:
    from losskit.diagnostics import Diagnostic, Position, Span

    document.data = None
    position = Position(line, column)
    document.diagnostics.append(Diagnostic(code, message, help=help).at(Span(position, position), document.name))
    return document


def _span(event: Any) -> Span:
    from losskit.diagnostics import Position, Span

    start, end = event.start_mark, event.end_mark
    first = Position(start.line + 1, start.column + 1)
    # A block ends where the next token starts, perhaps lines further on; its first character says enough.
    last = end.column + 1 if end.line == start.line else first.column + 1
    return Span(first, Position(first.line, last))


class _RefusalError(Exception):
    def __init__(self, diagnostic: Diagnostic) -> None:
        self.diagnostic = diagnostic


class _Reader:
    def __init__(self, document: Document, is_json: bool) -> None:
        self.document = document
        self.is_json = is_json
        # What each anchor stands for: the value, its size, its event; None while the container is open.
        self.anchors: dict[str, tuple[Any, int, Any] | None] = {}
        # How many values each container holds, with those inside it, once aliases are written out.
        self.sizes: dict[int, int] = {}

    def read(self) -> None:  # noqa: PLR0912, PLR0915
        """Goes through all events once. Kept in one loop over local names: it is most of the time of validating."""
        loader = _Loader(self.document.text)
        next_event = loader.get_event
        anchors, sizes, places, odd = self.anchors, self.sizes, self.document.events, self.document.odd
        documents = 0
        # The open containers, and of the innermost one: itself, its start, the events of its items, the key that waits
        # for a value, what `<<` names, and the size of the containers inside it.
        stack: list[tuple[Any, ...]] = []
        container: Any = None
        start = key = None
        events: Any = None
        merges: list[tuple[Any, Any]] = []
        size = 0
        is_mapping = False
        for event in itertools.islice(iter(next_event, None), MAX_NODES):
            kind = event.__class__
            if kind is ScalarEvent:
                value = event.value
                if event.tag is not None:
                    self.refuse_tag(event)
                if len(value) > MAX_SCALAR:
                    self.refuse("LK005", f"a value of more than {MAX_SCALAR:,} characters", event)
                if is_mapping and key is None:
                    key = event
                    if event.anchor is not None:
                        anchors[event.anchor] = (_scalar(event), 0, event)
                    if value in container and (value != "<<" or event.style):
                        where = events[value][0].start_mark.line + 1
                        message = f"the key `{_cut(value)}` stands here again; it was set on line {where}"
                        self.report("LK002", message, event)
                    continue
                if not event.style:
                    if value[:1] in _NUMBER_STARTS and len(value) <= MAX_DIGITS:
                        value, is_odd = _number(value)
                        if is_odd and not (self.is_json and isinstance(value, float)):
                            odd.add(id(container))
                    elif value in _CONSTANTS:
                        value = _CONSTANTS[value]
                if event.anchor is not None:
                    anchors[event.anchor] = (value, 0, event)
            elif kind is MappingStartEvent or kind is SequenceStartEvent:
                if event.tag is not None:
                    self.refuse_tag(event)
                if is_mapping and key is None:
                    self.refuse("LK007", "a key must be text, not a list or a mapping", event)
                if len(stack) >= MAX_DEPTH:
                    self.refuse("LK005", f"nested deeper than {MAX_DEPTH} levels", event)
                if event.anchor is not None:
                    anchors[event.anchor] = None
                stack.append((container, start, events, key, merges, size, is_mapping))
                is_mapping = kind is MappingStartEvent
                container, events = ({}, {}) if is_mapping else ([], [])
                start, key, merges, size = event, None, [], 0
                continue
            elif kind is MappingEndEvent or kind is SequenceEndEvent:
                assert start is not None
                value, inner = container, size + len(container) + 1
                if merges:
                    inner += self.merge(container, events, merges, inner)
                if start.flow_style:
                    start.end_mark = event.end_mark
                if start.anchor is not None:
                    anchors[start.anchor] = (value, inner, start)
                places[id(value)] = events
                sizes[id(value)] = inner
                event = start  # noqa: PLW2901 - the container stands where it starts
                container, start, events, key, merges, size, is_mapping = stack.pop()
                size += inner
                if size > MAX_NODES:
                    self.refuse_size(event)
            elif kind is AliasEvent:
                value, inner, event.anchored = self.anchored(event)
                if isinstance(value, (int, float)) and Entry(None, event).notation:
                    odd.add(id(container))
                if is_mapping and key is None:
                    self.refuse("LK007", "a key must be text, not an alias", event)
                size += inner
                if size > MAX_NODES:
                    self.refuse_size(event)
            elif kind is DocumentStartEvent:
                documents += 1
                if documents > 1:
                    self.refuse("LK006", "a second document starts here; a config is one document", event)
                continue
            else:
                continue
            # A value is finished, and `event` says where it stands.
            if is_mapping:
                assert key is not None
                name = key.value
                if name == "<<" and not key.style:
                    merges.append((value, event))
                elif name not in container:
                    container[name] = value
                    events[name] = (key, event)
                key = None
            elif stack:
                container.append(value)
                events.append(event)
            else:
                self.document.data = value
        if (event := next_event()) is not None:
            self.refuse("LK005", f"more than {MAX_NODES:,} keys and values; a list or a mapping counts twice", event)

    def anchored(self, event: Any) -> tuple[Any, int, Any]:
        """What an alias stands for."""
        if event.anchor not in self.anchors:
            self.refuse("LK001", f"not valid YAML: no anchor `&{_cut(event.anchor)}` stands before this alias", event)
        found = self.anchors[event.anchor]
        if found is None:
            self.refuse("LK004", f"the alias `*{_cut(event.anchor)}` contains itself", event)
        return found

    def merge(self, container: dict[str, Any], events: dict[str, Any], merges: list[tuple[Any, Any]], size: int) -> int:
        """Takes over what `<<` names: explicit keys win, then the earlier of several mappings. Returns its size."""
        added = 0
        for value, event in merges:
            for source in value if isinstance(value, list) else [value]:
                if not isinstance(source, dict):
                    self.report("LK010", "`<<` takes a mapping, or a list of mappings", event)
                    continue
                places = self.document.events[id(source)]
                if id(source) in self.document.odd:
                    self.document.odd.add(id(container))
                for key, item in source.items():
                    if key not in container:
                        container[key], events[key] = item, places[key]
                        added += 1 + self.sizes.get(id(item), 0)
                        if size + added > MAX_NODES:
                            self.refuse_size(event)
        return added

    def refuse_tag(self, event: Any) -> None:
        tag = event.tag.replace("tag:yaml.org,2002:", "!!")
        self.report("LK003", f"the tag `{_cut(tag)}` is not allowed: a config is plain data", event)

    def refuse_size(self, event: Any) -> NoReturn:
        self.refuse("LK005", f"more than {MAX_NODES:,} values once aliases are written out", event)

    def report(self, code: str, message: str, event: Any) -> None:
        from losskit.diagnostics import Diagnostic

        if len(self.document.diagnostics) >= MAX_PROBLEMS:
            self.refuse("LK005", f"there are more than {MAX_PROBLEMS:,} problems; the rest is not checked", event)
        self.document.diagnostics.append(Diagnostic(code, message).at(_span(event), self.document.name))

    def refuse(self, code: str, message: str, event: Any) -> NoReturn:
        from losskit.diagnostics import Diagnostic

        raise _RefusalError(Diagnostic(code, message).at(_span(event), self.document.name))


def _scalar(event: Any) -> Any:
    """What a scalar stands for where it is a value."""
    text = event.value
    if event.style:
        return text
    if text[:1] in _NUMBER_STARTS and len(text) <= MAX_DIGITS:
        return _number(text)[0]
    return _CONSTANTS.get(text, text)


@functools.lru_cache(maxsize=4096)
def _number(text: str) -> tuple[Any, bool]:
    """A plain scalar that starts as numbers do, by the rules of YAML 1.2; and whether YAML 1.1 reads another value."""
    if text in _CONSTANTS:
        return _CONSTANTS[text], False
    if _INTEGER.match(text):
        return int(text), bool(_LEADING_ZERO.match(text))
    if _FLOAT.match(text):
        return float(text), not _YAML_1_1_FLOAT.match(text)
    return text, False


def _cut(text: str) -> str:
    from losskit.diagnostics import cut

    return cut(text)


def is_oddly_written(place: Any) -> bool:
    """Whether an item of `Document.events` is a number that other readers take for something else."""
    return Entry(None, place[1] if isinstance(place, tuple) else place).notation is not None


def number_notation_warning(document: Document, path: Path) -> Diagnostic | None:
    """A warning where PyYAML's default reader takes the number at `path`, as it is written, for something else."""
    entry = document.entry(path) if document.odd else None
    if not entry or not entry.notation:
        return None
    value = document.data
    for step in path:
        value = value[step]
    if isinstance(value, int):
        message = f"`{entry.notation}` is {value} here, but not for PyYAML's default reader, which knows octal numbers"
        better = str(value)
    else:
        message = f"`{entry.notation}` is a number here, but text for PyYAML's default reader"
        better = _yaml_1_1(entry.notation)
    return document.diagnose("LK302", path, message, severity="warning", help=f"write {better}", cure=better)


def number_of(text: str) -> Any:
    """The number that a plain scalar is, or the text that it is."""
    return _number(text)[0]


def usual_notation(text: str) -> str | None:
    """How to write a number so that all readers take it for the same; None where the text is no number."""
    value, is_odd = _number(text)
    try:
        if value is None or isinstance(value, (str, bool)) or not math.isfinite(value):
            return None
    except OverflowError:
        return None
    if not is_odd:
        return text
    return str(value) if isinstance(value, int) else _yaml_1_1(text)


def _yaml_1_1(text: str) -> str:
    mantissa, _, exponent = text.lower().partition("e")
    if "." not in mantissa:
        mantissa += ".0"
    if exponent and exponent[0] not in "+-":
        exponent = "+" + exponent
    return f"{mantissa}e{exponent}" if exponent else mantissa
