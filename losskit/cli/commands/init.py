"""`losskit init`: a first config, and the files that check it before a commit and in CI."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import losskit
from losskit.cli import EXIT_OK, CannotRunError
from losskit.cli.files import shown
from losskit.diagnostics import REPOSITORY

TEMPLATES = Path(__file__).parent.parent / "templates"
CONFIG = "losskit.yaml"
SCHEMA = "losskit.schema.json"


class Integration(NamedTuple):
    """A file by which another tool runs losskit: its template, its place, and what to add where there is one."""

    template: str
    place: str
    # The lines at its top that such a file has anyway; None where it belongs to losskit alone.
    shared_lines: int | None


# By option.
INTEGRATIONS = {
    "github": Integration("github.yml", ".github/workflows/losskit.yml", None),
    "gitlab": Integration("gitlab.yml", ".gitlab-ci.yml", 0),
    "pre_commit": Integration("pre-commit.yaml", ".pre-commit-config.yaml", 1),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("folder", nargs="?", default=".", metavar="DIR", help="where the config goes; made if missing")
    for option, integration in sorted(INTEGRATIONS.items()):
        flag = f"--{option.replace('_', '-')}"
        parser.add_argument(flag, action="store_true", help=f"also {integration.place}, at the top of the repository")


def run(options: argparse.Namespace) -> int:
    """Writes what is not there yet, and says what it did with each file."""
    folder = Path(options.folder)
    written = [
        _write(folder / CONFIG, template(CONFIG)),
        _write_schema(folder / SCHEMA),
    ]
    for option, integration in INTEGRATIONS.items():
        if getattr(options, option):
            written.append(_integrate(integration, _top_of_repository(folder)))
    if not any(written):
        raise CannotRunError("nothing was written: the files are there already")
    print(f"now: losskit validate {_shown(folder)}")
    return EXIT_OK


def template(name: str) -> str:
    """The text of a template, for this version of losskit."""
    text = (TEMPLATES / name).read_text("utf-8")
    values = {
        "<version>": losskit.__version__,
        "<repository>": REPOSITORY,
        "<action>": urlsplit(REPOSITORY).path.strip("/"),
    }
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return text


def _write_schema(path: Path) -> bool:
    from losskit.cli.commands.schema import schema_text

    text = schema_text()
    if path.is_file() and path.read_bytes() != text.encode():
        print(f"left {_shown(path)} as it is, but it is out of date: run `losskit schema -o {_shown(path)}`")
        return False
    return _write(path, text)


def _integrate(integration: Integration, folder: Path) -> bool:
    path, text = folder / integration.place, template(integration.template)
    there = path.read_text("utf-8", errors="replace") if path.is_file() else ""
    if integration.shared_lines is None or not there or "losskit" in there:
        return _write(path, text)
    added = "".join(text.splitlines(keepends=True)[integration.shared_lines :])
    print(f"left {_shown(path)} as it is; add these lines to it:\n\n{added}")
    return False


def _write(path: Path, text: str) -> bool:
    """Writes a file unless there is one; returns whether it did."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # `x` fails where anything has that name, also a link that leads nowhere. The line ends are those that
        # `losskit schema --check` compares with.
        with open(path, "x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except FileExistsError:
        if path.parent.is_dir():
            print(f"left {_shown(path)} as it is")
            return False
        raise CannotRunError(f"cannot write {_shown(path)!r}: {_shown(path.parent)!r} is no folder") from None
    except OSError as error:
        raise CannotRunError(f"cannot write {_shown(path)!r}: {error.strerror}") from error
    print(f"wrote {_shown(path)}")
    return True


def _top_of_repository(folder: Path) -> Path:
    """Where tools look for their files: the top of the git repository around `folder`, or `folder` without one."""
    path = folder.absolute()
    # `.git` is a file in worktrees and submodules.
    return next((parent for parent in (path, *path.parents) if (parent / ".git").exists()), folder)


def _shown(path: Path) -> str:
    return shown(str(path))
