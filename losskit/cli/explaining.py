"""What each code means, from the Markdown files in `losskit/explanations`: one source for the command and the pages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import losskit
from losskit.diagnostics import CODES, ERROR, Code, Diagnostic

FOLDER = Path(losskit.__file__).parent / "explanations"
# No comment silences these: a plugin's failure is on no line, and a comment that is too many goes away.
_WITHOUT_COMMENT = ("LK304", "LK401")


def url_of(code: Code) -> str:
    """Where the documentation has the page."""
    return Diagnostic(code.number, "").url


def body(code: Code) -> str:
    """What is to be said of a code, in Markdown, without its title."""
    text = (FOLDER / f"{code.number}.md").read_text("utf-8")
    return text if code.severity == ERROR else f"{text}\n{_silencing(code.number)}"


def page(code: Code) -> str:
    """The whole page of a code, in Markdown."""
    what = code.summary[0].upper() + code.summary[1:]
    return f"# {code.number}: {code.name}\n\n**{what}.** This is {_article(code.severity)}.\n\n{body(code)}"


def index(link: Callable[[Code], str]) -> str:
    """A table of all codes, in Markdown; `link` says where the page of each is."""
    rows = (
        f"| [{code.number}]({link(code)}) | {code.name} | {code.severity} | {code.summary} |" for code in CODES.values()
    )
    return "\n".join(["| code | name | severity | meaning |", "|---|---|---|---|", *rows]) + "\n"


def _article(severity: str) -> str:
    return "an error" if severity == ERROR else "a warning"


def _silencing(number: str) -> str:
    ways = [
        f"- everywhere: `losskit validate --ignore {number}`",
        f'- in a project: `ignore = ["{number}"]` under `[tool.losskit]` in pyproject.toml',
    ]
    if number not in _WITHOUT_COMMENT:
        ways.insert(0, f"- on one line: the comment `# losskit: ignore[{number}]` at its end")
    return "\n".join(["## How to silence it", "", *ways]) + "\n"
