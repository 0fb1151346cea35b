"""Reads YAML text into plain data that remembers where every key and value stands.

The text is read from the parser's events, not through a loader: there, positions cost nothing, numbers can follow
YAML 1.2, and depth and size are limited before anything is built.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import yaml

from losskit.diagnostics import WARNING, Diagnostic, Position, Span, cut, show_path

MAX_BYTES = 1 << 20
MAX_DEPTH = 64
MAX_NODES = 500_000
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
_NOT_PRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|\ufeff")
_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_UNREADABLE = (yaml.YAMLError, ValueError)

_Mark = Any  # libyaml's, or PyYAML's, start and end marks: they have a line and a column, from 0


class Entry(NamedTuple):
    """Where one item of a mapping or list stands; items of a list have no key."""

    key: Span | None
    value: Span
    notation: str | None = None  # how a number is written that other readers would take for something else


class Document:
    """What a config says, and where.

    `data` is made of dict, list, str, int, float, bool and None. `text` is "" where the data did not come from a file.
    """

    def __init__(self, data: Any, name: str | None = None, text: str = "") -> None:
        self.data = data
        self.name = name
        self.text = text
        self.diagnostics: list[Diagnostic] = []
        # By the identity of each container. `_alive` keeps them, so that no identity is used twice.
        self.entries: dict[int, dict[str | int, Entry]] = {}
        self._alive: list[Any] = []

    def keep(self, container: Any, entries: dict[str | int, Entry]) -> None:
        """Remembers where the items of `container` stand."""
        self.entries[id(container)] = entries
        self._alive.append(container)

    def entry(self, path: Path) -> Entry | None:
        """Where the item at `path` stands, or its nearest parent that stands somewhere."""
        found, node = None, self.data
        for step in path:
            found = self.entries.get(id(node), {}).get(step, found)
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
    ) -> Diagnostic:
        """A diagnostic at the value of `path`, or at its key."""
        entry = self.entry(path)
        span = entry and (entry.key if on_key and entry.key else entry.value)
        if span is None and self.text:
            span = Span(Position(1, 1), Position(1, 1))
        problem = Diagnostic(code, message, show_path(path), severity, suggestion=suggestion, help=help)
        return problem.at(span, self.name)

    @property
    def lines(self) -> list[str]:
        return _LINE_BREAK.split(self.text)


def read(source: str | bytes, name: str | None = None) -> Document:
    """Reads one YAML (or JSON) document. Problems are in `diagnostics` of the result, never raised.

    Where the text cannot be read to its end, `data` is None.
    """
    document = Document(None, name)
    if len(source) > MAX_BYTES:
        return _refused(
            document, "LK005", f"the file is longer than {MAX_BYTES:,} bytes, the most that a config may have"
        )
    if isinstance(source, bytes):
        try:
            source = source.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            return _refused(document, "LK008", f"not UTF-8 text: byte 0x{source[error.start]:02x}", Position(line, 1))
    document.text = source = source.removeprefix("\ufeff")
    if bad := _NOT_PRINTABLE.search(source):
        before = _LINE_BREAK.split(source[: bad.start()])
        position = Position(len(before), len(before[-1]) + 1)
        return _refused(document, "LK001", f"the character U+{ord(bad[0]):04X} is not allowed in YAML", position)
    try:
        _Reader(document, is_json=bool(name and name.lower().endswith(".json"))).read()
    except _Refusal as refusal:
        document.data = None
        document.diagnostics.append(refusal.diagnostic)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(filter(None, (error.context, error.problem)))
        _refused(document, "LK001", f"not valid YAML: {problem}", _position(mark) if mark else None)
    except _UNREADABLE as error:
        _refused(document, "LK001", f"not valid YAML: {error}")
    if document.data is None and not document.diagnostics:
        _refused(document, "LK009", "the config is empty")
    return document


def _refused(document: Document, code: str, message: str, position: Position | None = None) -> Document:
    document.data = None
    position = position or Position(1, 1)
    document.diagnostics.append(Diagnostic(code, message).at(Span(position, position), document.name))
    return document


def _position(mark: _Mark) -> Position:
    return Position(mark.line + 1, mark.column + 1)


def _span(event: Any) -> Span:
    start, end = _position(event.start_mark), _position(event.end_mark)
    # A block ends where the next token starts, perhaps lines further on; its first character says enough.
    return Span(start, end) if end.line == start.line else Span(start, Position(start.line, start.column + 1))


class _Refusal(Exception):
    def __init__(self, diagnostic: Diagnostic) -> None:
        self.diagnostic = diagnostic


class _Anchored(NamedTuple):
    value: Any
    size: int
    notation: str | None


class _Open:
    """A mapping or list whose end has not been read yet."""

    def __init__(self, event: Any, container: Any) -> None:
        self.container = container
        self.is_mapping = isinstance(container, dict)
        self.span = _span(event)
        self.is_flow = bool(event.flow_style)
        self.anchor: str | None = event.anchor
        self.entries: dict[str | int, Entry] = {}
        self.key: tuple[str, Span] | None = None
        self.merges: list[tuple[Any, Span]] = []
        self.size = 1


class _Reader:
    def __init__(self, document: Document, is_json: bool) -> None:
        self.document = document
        self.is_json = is_json
        self.open: list[_Open] = []
        self.anchors: dict[str, _Anchored | None] = {}  # None while the anchored container is open
        self.sizes: dict[int, int] = {}
        self.documents = 0

    def read(self) -> None:
        for event in yaml.parse(self.document.text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            handler = self.HANDLERS.get(type(event))
            if handler:
                handler(self, event)

    def start_document(self, event: yaml.DocumentStartEvent) -> None:
        self.documents += 1
        if self.documents > 1:
            raise self.refusal("LK006", "a second document starts here; a config is one document", _span(event))

    def start_container(self, event: Any) -> None:
        self.refuse_tag(event)
        if len(self.open) >= MAX_DEPTH:
            raise self.refusal("LK005", f"nested deeper than {MAX_DEPTH} levels", _span(event))
        opened = _Open(event, {} if isinstance(event, yaml.MappingStartEvent) else [])
        if opened.anchor:
            self.anchors[opened.anchor] = None
        parent = self.open[-1] if self.open else None
        if parent and parent.is_mapping and parent.key is None:
            raise self.refusal("LK007", "a key must be text, not a list or a mapping", opened.span)
        self.open.append(opened)

    def end_container(self, event: Any) -> None:
        closed = self.open.pop()
        self.merge(closed)
        self.document.keep(closed.container, closed.entries)
        self.sizes[id(closed.container)] = closed.size
        if closed.anchor:
            self.anchors[closed.anchor] = _Anchored(closed.container, closed.size, None)
        end = _position(event.end_mark)
        is_one_line = closed.is_flow and end.line == closed.span.start.line
        self.add(closed.container, Span(closed.span.start, end) if is_one_line else closed.span, closed.size)

    def scalar(self, event: yaml.ScalarEvent) -> None:
        self.refuse_tag(event)
        span = _span(event)
        if len(event.value) > MAX_SCALAR:
            raise self.refusal("LK005", f"a value of more than {MAX_SCALAR:,} characters", span)
        parent = self.open[-1] if self.open else None
        if parent and parent.is_mapping and parent.key is None:
            self.start_entry(parent, event, span)
            return
        value, notation = (event.value, None) if event.style else self.resolve(event.value)
        if event.anchor:
            self.anchors[event.anchor] = _Anchored(value, 1, notation)
        self.add(value, span, 1, notation)

    def start_entry(self, parent: _Open, event: yaml.ScalarEvent, span: Span) -> None:
        key = event.value
        parent.key = (key, span)
        if key == "<<" and not event.style:
            return
        if first := parent.entries.get(key):
            assert first.key
            where = first.key.start.line
            self.report("LK002", f"the key `{cut(key)}` stands here again; it was set on line {where}", span)

    def alias(self, event: yaml.AliasEvent) -> None:
        span = _span(event)
        if event.anchor not in self.anchors:
            raise self.refusal("LK001", f"not valid YAML: no anchor `&{event.anchor}` stands before this alias", span)
        anchored = self.anchors[event.anchor]
        if anchored is None:
            raise self.refusal("LK004", f"the alias `*{event.anchor}` contains itself", span)
        parent = self.open[-1] if self.open else None
        if parent and parent.is_mapping and parent.key is None:
            raise self.refusal("LK007", "a key must be text, not an alias", span)
        self.add(anchored.value, span, anchored.size, anchored.notation)

    def add(self, value: Any, span: Span, size: int, notation: str | None = None) -> None:
        """Puts a finished value into the container around it."""
        if not self.open:
            self.document.data = value
            return
        parent = self.open[-1]
        self.grow(parent, size, span)
        if not parent.is_mapping:
            parent.entries[len(parent.container)] = Entry(None, span, notation)
            parent.container.append(value)
            return
        assert parent.key
        key, key_span = parent.key
        parent.key = None
        if key == "<<" and key_span.end.column - key_span.start.column == 2:
            parent.merges.append((value, span))
        elif key not in parent.container:
            parent.entries[key] = Entry(key_span, span, notation)
            parent.container[key] = value

    def merge(self, closed: _Open) -> None:
        """Takes over what `<<` names: explicit keys win, then the earlier of several mappings."""
        for value, span in closed.merges:
            for source in value if isinstance(value, list) else [value]:
                if not isinstance(source, dict):
                    self.report("LK010", "`<<` takes a mapping, or a list of mappings", span)
                    continue
                for key in source.keys() - closed.container.keys():
                    self.grow(closed, 1 + self.sizes.get(id(source[key]), 0), span)
                entries = self.document.entries[id(source)]
                closed.entries = {**entries, **closed.entries}
                for key, item in source.items():
                    closed.container.setdefault(key, item)

    def grow(self, parent: _Open, size: int, span: Span) -> None:
        parent.size += size
        if parent.size > MAX_NODES:
            raise self.refusal("LK005", f"more than {MAX_NODES:,} values once aliases are written out", span)

    def resolve(self, text: str) -> tuple[Any, str | None]:
        """A plain scalar's value by the rules of YAML 1.2, and its notation where YAML 1.1 reads another value."""
        if text in _CONSTANTS:
            return _CONSTANTS[text], None
        if text[:1] not in "+-.0123456789" or len(text) > MAX_DIGITS:
            return text, None
        if _INTEGER.match(text):
            return int(text), text if _LEADING_ZERO.match(text) else None
        if _FLOAT.match(text):
            return float(text), None if self.is_json or _YAML_1_1_FLOAT.match(text) else text
        return text, None

    def refuse_tag(self, event: Any) -> None:
        if event.tag:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self.report("LK003", f"the tag `{cut(tag)}` is not allowed: a config is plain data", _span(event))

    def report(self, code: str, message: str, span: Span) -> None:
        self.document.diagnostics.append(Diagnostic(code, message).at(span, self.document.name))

    def refusal(self, code: str, message: str, span: Span) -> _Refusal:
        return _Refusal(Diagnostic(code, message).at(span, self.document.name))

    HANDLERS: ClassVar[dict[type, Callable[[_Reader, Any], None]]] = {
        yaml.DocumentStartEvent: start_document,
        yaml.MappingStartEvent: start_container,
        yaml.SequenceStartEvent: start_container,
        yaml.MappingEndEvent: end_container,
        yaml.SequenceEndEvent: end_container,
        yaml.ScalarEvent: scalar,
        yaml.AliasEvent: alias,
    }


def number_notation_warning(document: Document, path: Path) -> Diagnostic | None:
    """A warning where PyYAML's default reader takes the number at `path`, as it is written, for something else."""
    entry = document.entry(path)
    if not entry or not entry.notation:
        return None
    value = document.data
    for step in path:
        value = value[step]
    if isinstance(value, int):
        message = f"`{entry.notation}` is {value} here, but not for PyYAML's default reader, which knows octal numbers"
        cure = str(value)
    else:
        message = f"`{entry.notation}` is a number here, but text for PyYAML's default reader"
        cure = _yaml_1_1(entry.notation)
    return document.diagnose("LK302", path, message, severity=WARNING, help=f"write {cure}")


def _yaml_1_1(text: str) -> str:
    mantissa, _, exponent = text.lower().partition("e")
    if "." not in mantissa:
        mantissa += ".0"
    if exponent and exponent[0] not in "+-":
        exponent = "+" + exponent
    return f"{mantissa}e{exponent}" if exponent else mantissa
