"""A picture as text: eight dots to a character by the braille letters, or one sign where those are lacking."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from losskit.cli.colour import Colour
from losskit.cli.plotting import Line, Panel, Picture, ticks

# The bit of each dot in a braille letter, by its row and column.
_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_BRAILLE = 0x2800
# Dots that are drawn and left out in turn.
_DASHES = ((1, 0), (7, 3), (2, 2), (9, 3, 2, 3))
_SIGNS = "*o+x#@"
_STYLES = ("line 1", "line 2", "line 3", "line 4", "line 5", "line 6")
_SAMPLE = 4


class Look(NamedTuple):
    """What a picture is made of."""

    dots: tuple[int, int]  # across and down a character
    bar: str
    tick: str
    corner: str
    floor: str
    floor_tick: str
    zero: str


FINE = Look((2, 4), "│", "┤", "└", "─", "┬", "┈")
PLAIN = Look((1, 1), "|", "+", "+", "-", "+", ".")


def look_for(encoding: str | None) -> Look:
    """The finest look whose characters an encoding has."""
    try:
        ("".join(FINE[1:]) + chr(_BRAILLE)).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return PLAIN
    return FINE


class _Canvas:
    """Characters made of dots; a character has the style of the line that was drawn there last."""

    def __init__(self, columns: int, rows: int, look: Look) -> None:
        self.columns, self.rows, self.look = columns, rows, look
        self.bits = [[0] * columns for _ in range(rows)]
        self.styles: list[list[int | None]] = [[None] * columns for _ in range(rows)]

    def draw(self, heights: Sequence[int], style: int) -> None:
        """Draws a line through a dot for each dot column, joined without gaps but for its dashes."""
        across, down = self.look.dots
        pattern = _DASHES[style % len(_DASHES)] if down > 1 else (1, 0)
        is_drawn = [index % 2 == 0 for index, length in enumerate(pattern) for _ in range(length)]
        travelled = 0
        for x, y in enumerate(heights):
            # From half way to the column before, to half way to the next.
            start, stop = (y + heights[max(x - 1, 0)]) // 2, (y + heights[min(x + 1, len(heights) - 1)]) // 2
            way = [*_steps(start, y), *_steps(y, stop)[1:]]
            for dot in (way[1:] if x else way) or way:  # The column before ended where this one starts.
                if is_drawn[travelled % len(is_drawn)]:
                    row, inner = divmod(dot, down)
                    self.bits[row][x // across] |= _BITS[inner][x % across]
                    self.styles[row][x // across] = style
                travelled += 1

    def text(self, row: int, colour: Colour, blank: str = " ") -> str:
        """A row of characters; `blank` where nothing was drawn."""
        return "".join(
            blank if style is None else colour.paint(self._character(bits, style), _STYLES[style % len(_STYLES)])
            for bits, style in zip(self.bits[row], self.styles[row], strict=True)
        )

    def _character(self, bits: int, style: int) -> str:
        return chr(_BRAILLE + bits) if self.look.dots != (1, 1) else _SIGNS[style % len(_SIGNS)]


def _steps(start: int, stop: int) -> range:
    return range(start, stop + 1) if stop >= start else range(start, stop - 1, -1)


def draw(picture: Picture, width: int, height: int, colour: Colour, look: Look = FINE) -> Iterator[str]:
    """The lines of text: at most so many, and so wide, as far as the labels allow."""
    legend = list(_legend(picture.legend, width, colour, look))
    extra = 2 + len(legend) + 2 * len(picture.panels)
    rows = max(5, (height - extra) // len(picture.panels))
    numbers = [ticks(*panel.limits, max(3, rows // 2)) for panel in picture.panels]
    margin = max(len(text) for each in numbers for text in each.values()) + 1
    columns = max(20, width - margin - 2)
    places = ticks(picture.places[0], picture.places[-1], max(2, min(9, columns // 8)))
    at = {
        round((x - picture.places[0]) / (picture.places[-1] - picture.places[0]) * (columns - 1)): text
        for x, text in places.items()
    }
    for panel, texts in zip(picture.panels, numbers, strict=True):
        yield " " * (margin + 1) + colour.paint(panel.title, "bold")
        yield from _panel(panel, texts, margin, columns, rows, colour, look)
        floor = "".join(look.floor_tick if column in at else look.floor for column in range(columns))
        yield " " * margin + look.corner + floor
    yield _numbers_below(at, margin + 1, width)
    yield " " * (margin + 1) + picture.input_label.center(columns).rstrip()
    yield from legend


def _panel(
    panel: Panel, texts: dict[float, str], margin: int, columns: int, rows: int, colour: Colour, look: Look
) -> Iterator[str]:
    across, down = look.dots
    low, high = panel.limits
    dots = rows * down

    def row_of(y: float) -> int:
        return round((high - y) / (high - low) * (dots - 1))

    canvas = _Canvas(columns, rows, look)
    for line in reversed(panel.lines):  # The first one lies on top.
        canvas.draw([row_of(y) for y in _resampled(line.numbers, columns * across)], line.style)
    by_row = {row_of(y) // down: text for y, text in texts.items()}
    zero = row_of(0) // down
    for row in range(rows):
        number = by_row.get(row, "")
        blank = colour.paint(look.zero, "dim") if row == zero else " "
        yield f"{number:>{margin - 1}} {look.tick if number else look.bar}{canvas.text(row, colour, blank)}".rstrip()


def _resampled(numbers: Sequence[float], count: int) -> list[float]:
    """So many numbers, evenly spread, between those that are given."""
    found = []
    for index in range(count):
        place = index * (len(numbers) - 1) / (count - 1)
        left = min(int(place), len(numbers) - 2)
        found.append(numbers[left] + (place - left) * (numbers[left + 1] - numbers[left]))
    return found


def _numbers_below(at: dict[int, str], margin: int, width: int) -> str:
    line = ""
    for column, text in at.items():
        start = min(margin + column - (len(text) - text.startswith("-")) // 2 - text.startswith("-"), width - len(text))
        if start > len(line) or not line:
            line = line.ljust(start) + text
    return line


def _legend(lines: Sequence[Line], width: int, colour: Colour, look: Look) -> Iterator[str]:
    """A sample and a label for each line, as many in a row as fit."""
    row, length = "", 0
    for line in lines:
        canvas = _Canvas(_SAMPLE, 1, look)
        canvas.draw([look.dots[1] // 3] * _SAMPLE * look.dots[0], line.style)
        part, size = f"  {canvas.text(0, colour)} {line.label}", _SAMPLE + 3 + len(line.label)
        if row and length + size > width:
            yield row
            row, length = "", 0
        row, length = row + part, length + size
    yield row
