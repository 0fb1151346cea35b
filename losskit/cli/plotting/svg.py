"""A picture as SVG.

The numbers are rounded to tenths of a pixel, so that a picture is the same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from losskit.cli.plotting import COLOURS, DASHES, Line, Panel, Picture, ticks

WIDTH, HEIGHT, LEFT, TOP, RIGHT = 360, 200, 50, 26, 20
# Of the panels of a picture that has several.
LOW_HEIGHT, GAP = 150, 34
GREY = "#808080"
# How wide a letter is, about; a font cannot be asked here.
LETTER = 7
SAMPLE, SPACE = 30, 24


def svg(picture: Picture) -> str:
    """The text of the file."""
    height = HEIGHT if len(picture.panels) == 1 else LOW_HEIGHT
    top = TOP
    parts: list[str] = []
    for panel in picture.panels:
        parts += _panel(panel, picture.places, top, height)
        bottom = top + height
        top = bottom + GAP
    parts += _numbers_of_the_input(picture.places, bottom)
    parts.append(_text(LEFT + WIDTH // 2, bottom + 36, picture.input_label, "middle"))
    rows = _legend_rows(picture.legend)
    # Several rows begin below each other, at the axis.
    left = LEFT if len(rows) > 1 else max(4, LEFT + WIDTH / 2 - _width(rows[0]) / 2)
    for index, row in enumerate(rows):
        parts += _legend(row, left, bottom + 54 + 18 * index)
    full_height = bottom + 58 + 18 * (len(rows) - 1) + 6
    full_width = LEFT + WIDTH + RIGHT
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {full_width} {full_height}" width="{full_width}" '
        f'font-family="sans-serif" font-size="12" fill="{GREY}">'
    )
    return "\n".join([head, f"<title>{escape(picture.title)}</title>", *parts, "</svg>"]) + "\n"


def _panel(panel: Panel, places: Sequence[float], top: int, height: int) -> Iterator[str]:
    low, high = panel.limits

    def y_of(y: float) -> float:
        return round(top + (high - y) / (high - low) * height, 1)

    yield _text(LEFT, top - 10, panel.title)
    for number, text in ticks(low, high, height // 30).items():
        yield _text(LEFT - 6, round(y_of(number) + 4, 1), text, "end")
        if number:
            yield f'<path d="M{LEFT} {y_of(number)}h{WIDTH}" stroke="{GREY}" stroke-opacity="0.2"/>'
    yield f'<path d="M{LEFT} {top}v{height}M{LEFT} {y_of(0)}h{WIDTH}" stroke="{GREY}" fill="none"/>'
    for line in reversed(panel.lines):  # The first one lies on top.
        points = " ".join(f"{_x_of(x, places)},{y_of(y)}" for x, y in zip(places, line.numbers, strict=True))
        yield f'<polyline points="{points}" fill="none" {_stroke(line)}/>'


def _x_of(x: float, places: Sequence[float]) -> float:
    return round(LEFT + (x - places[0]) / (places[-1] - places[0]) * WIDTH, 1)


def _numbers_of_the_input(places: Sequence[float], bottom: int) -> Iterator[str]:
    for number, text in ticks(places[0], places[-1], 7).items():
        x = _x_of(number, places)
        yield f'<path d="M{x} {bottom}v4" stroke="{GREY}"/>'
        yield _text(x, bottom + 18, text, "middle")


def _legend_rows(lines: Sequence[Line]) -> list[list[Line]]:
    """As many labels in a row as fit."""
    rows: list[list[Line]] = [[]]
    for line in lines:
        if rows[-1] and _width([*rows[-1], line]) > WIDTH:
            rows.append([])
        rows[-1].append(line)
    return rows


def _width(lines: Sequence[Line]) -> float:
    return sum(SAMPLE + LETTER * len(line.label) for line in lines) + SPACE * (len(lines) - 1)


def _legend(lines: Sequence[Line], x: float, y: int) -> Iterator[str]:
    for line in lines:
        yield f'<path d="M{x:.1f} {y}h24" {_stroke(line)}/>'
        yield _text(round(x + SAMPLE, 1), y + 4, line.label)
        x += SAMPLE + LETTER * len(line.label) + SPACE


def _stroke(line: Line) -> str:
    dashes = " ".join(map(str, DASHES[line.style % len(DASHES)]))
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'stroke="{COLOURS[line.style % len(COLOURS)]}" stroke-width="2"{dashed}'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    where = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{x}" y="{y}"{where}>{escape(text)}</text>'
