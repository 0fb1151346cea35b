"""`losskit explain`: what a code means, with a wrong and a right config."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from collections.abc import Iterator

from losskit.cli import CannotRunError
from losskit.cli.colour import Colour
from losskit.cli.explaining import body, index, page, url_of
from losskit.diagnostics import CODES, Code
from losskit.spelling import nearest

MAX_WIDTH = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("code", metavar="CODE", nargs="?", help="such as LK201 or unknown-setting; without it, all")
    parser.add_argument("--all", action="store_true", help="list all codes")
    parser.add_argument("--format", choices=["text", "json", "markdown"], default="text", help="how it is printed")
    parser.add_argument("--color", choices=["auto", "always", "never"], default="auto", help="when to use colour")


def run(options: argparse.Namespace) -> int:
    """Prints the explanation of a code, or the list of codes."""
    if options.code is not None and options.all:
        raise CannotRunError("give a code, or --all, but not both")
    colour = Colour(options.color, sys.stdout)
    code = None if options.code is None else _code(options.code)
    if options.format == "json":
        found = _fields(code) if code else [_fields(each) for each in CODES.values()]
        print(json.dumps(found, indent=2, ensure_ascii=False))
    elif options.format == "markdown":
        sys.stdout.write(page(code) if code else index(url_of))
    else:
        print("\n".join(_text(code, colour) if code else _list(colour)))
    return 0


def _code(asked: str) -> Code:
    """The code by its number, with or without its letters, or by its name.

    Raises:
        CannotRunError: there is none.
    """
    names = {code.name: code for code in CODES.values()}
    by_word = {**CODES, **names, **{number.removeprefix("LK"): code for number, code in CODES.items()}}
    word = asked.strip()
    for spelt in (word.upper(), word.lower().replace("_", "-").replace(" ", "-")):
        if spelt in by_word:
            return by_word[spelt]
    near = nearest(word, [*CODES, *names])
    suggestion = f", did you mean {near[0]}?" if near else "; `losskit explain` lists all codes"
    raise CannotRunError(f"no code {asked!r}{suggestion}")


def _fields(code: Code) -> dict[str, str]:
    return {
        "code": code.number,
        "name": code.name,
        "severity": code.severity,
        "summary": code.summary,
        "explanation": body(code),
        "url": url_of(code),
    }


def _list(colour: Colour) -> Iterator[str]:
    width = _width()
    longest = max(len(code.name) for code in CODES.values())
    for code in CODES.values():
        indent = " " * (len(code.number) + longest + 4)
        first, *rest = textwrap.wrap(code.summary, max(20, width - len(indent)))
        yield f"{colour.paint(code.number, code.severity)}  {code.name:<{longest}}  {first}"
        yield from (indent + line for line in rest)


def _text(code: Code, colour: Colour) -> Iterator[str]:
    """The page for a terminal: paragraphs at its width, headings and examples set off by their indentation."""
    width = _width()
    title = colour.paint(f"{code.severity}[{code.number}]", code.severity)
    yield f"{title} {colour.paint(code.name, 'bold')}"
    yield from textwrap.wrap(code.summary, width)
    yield ""
    paragraph: list[str] = []
    is_example = False
    for line in [*body(code).splitlines(), ""]:
        if line.startswith("```"):
            is_example = not is_example
        elif is_example:
            yield f"    {line}".rstrip()
        elif line.startswith("## "):
            yield colour.paint(f"{line.removeprefix('## ')}:", "bold")
        else:
            starts_anew = not line or line.startswith("- ")
            if starts_anew and paragraph:
                indent = "  " if paragraph[0].startswith("- ") else ""
                yield from textwrap.wrap(
                    " ".join(paragraph), width, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
                )
                paragraph = []
            if line:
                paragraph.append(line.strip())
            else:
                yield ""
    yield f"More: {url_of(code)}"


def _width() -> int:
    return min(MAX_WIDTH, shutil.get_terminal_size().columns)
