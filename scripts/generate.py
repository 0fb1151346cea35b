"""Writes the files that follow from the registered losses; with --check, compares them instead.

python -m scripts.generate            # writes
python -m scripts.generate --check    # exit code 1 where a file is out of date
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import losskit.modules
from losskit.cli import explaining
from losskit.cli.commands import completion
from losskit.diagnostics import CODES
from losskit.registry import LossEntry, Reference, registry
from losskit.schema import catalogue
from losskit.schema.document import LossRow, StrategyRow, config_schema, dump
from losskit.schema.json_schema import loss_schema
from losskit.strategies import StrategyEntry, strategies
from scripts.completion import completion_scripts
from scripts.pages import pages, settings_tables
from scripts.rules import table

ROOT = Path(__file__).parent.parent
HEADER = "Written by scripts/generate.py; change the losses, then run `make generate`."
COMPILED = '''"""What a first look at a config needs to know of the built-in losses and the ways to balance them.

{header}
"""
# ruff: noqa
# fmt: off

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    # Feature types; settings, each with the index of its check; the settings with rules, each with its default and what
    # else is right while the others have theirs; those with one number per class; what `inputs` may name; whether the
    # rules are content with all defaults.
    Loss = tuple[tuple[str, ...], dict[str, int], dict[str, list[Any]], tuple[str, ...], tuple[str, ...], bool]

{table}'''


def built_in_entries() -> list[LossEntry]:
    """The losses whose modules were just imported; rows of losses that are gone stay behind in the old file."""
    for module in pkgutil.iter_modules(losskit.modules.__path__, "losskit.modules."):
        importlib.import_module(module.name)
    entries = [entry for entry in registry.entries() if entry.module.loaded is not None]
    # By where it stands, for a new loss is not in the catalogue yet.
    return [entry for entry in entries if entry.module.path.startswith("losskit.modules.")]


def built_in_strategies() -> list[StrategyEntry]:
    """Likewise, the strategies to balance losses; call it after `built_in_entries`."""
    entries = [entry for entry in strategies.entries() if entry.module.loaded is not None]
    return [entry for entry in entries if entry.module.path.startswith("losskit.modules.")]


def generated() -> dict[Path, str]:
    """The text of each generated file."""
    entries = built_in_entries()
    ways = built_in_strategies()
    strategy_rows = [StrategyRow(e.name, e.summary, loss_schema(e.config.load(), [e.name], e.summary)) for e in ways]
    lists = {"losses": [_row(entry) for entry in entries], "strategies": [_row(entry) for entry in ways]}
    package = ROOT / "losskit"
    schemas = {entry.name: _schema(entry) for entry in entries}
    return {
        catalogue.CATALOGUE: dump({"note": HEADER, **lists}),
        catalogue.CONFIG_SCHEMA: dump(config_schema(map(_schema_row, entries), strategies=strategy_rows)),
        package / "schema" / "compiled.py": COMPILED.format(header=HEADER, table=table(entries, schemas, ways)),
        package / "modules" / "__init__.pyi": _stub(entries, ways, "module", "losskit.modules"),
        package / "schema" / "__init__.pyi": _stub(entries, ways, "config", "losskit.schema"),
        **settings_tables(strategy_rows, ROOT / "docs" / "balancing.md"),
        **_codes_pages(),
        **{completion.FOLDER / f"losskit.{shell}": text for shell, text in completion_scripts(entries).items()},
        **pages(entries, schemas, HEADER, ROOT / "docs"),
    }


def _row(entry: LossEntry | StrategyEntry) -> dict[str, Any]:
    row = {field.name: getattr(entry, field.name) for field in fields(entry)}
    return {key: value.path if isinstance(value, Reference) else value for key, value in row.items()}


def _schema(entry: LossEntry) -> dict[str, Any]:
    """From the config class; `entry.schema` is what the file said before."""
    return loss_schema(entry.config.load(), entry.names, entry.summary, entry.roles)


def _schema_row(entry: LossEntry) -> LossRow:
    return LossRow(entry.names, entry.feature_types, entry.summary, _schema(entry))


def _stub(entries: list[LossEntry], ways: list[StrategyEntry], kind: str, package: str) -> str:
    """What a package offers, for type checkers and editors: at run time it is imported when it is asked for."""
    offered = importlib.import_module(package)
    public = {(name, getattr(getattr(offered, name), "__module__", package)) for name in offered.__all__}
    for entry in entries:
        module, _, cls = (entry.config if kind == "config" else entry.module).path.partition(":")
        public |= {(name, module) for name in ([cls] if kind == "config" else [cls, f"{entry.name}_loss"])}
    for way in ways:
        module, _, cls = (way.config if kind == "config" else way.module).path.partition(":")
        public.add((cls, module))
    lines = [_import(module, name) for name, module in sorted(public, key=_place)]
    return "\n".join([f"# {HEADER}", *lines]) + "\n"


def _place(imported: tuple[str, str]) -> tuple[str, bool, str]:
    """Where an import stands in ruff's order: by module, classes first, capitals or not."""
    name, module = imported
    return module, name[0].islower(), name.lower()


def _import(module: str, name: str) -> str:
    """A line, or three where it would be too long for ruff."""
    line = f"from {module} import {name} as {name}"
    return line if len(line) <= 120 else f"from {module} import (\n    {name} as {name},\n)"


def _codes_pages() -> dict[Path, str]:
    """The index of the codes, and the page of each."""
    note = "<!-- Written by scripts/generate.py; change losskit/{}, then run `make generate`. -->\n"
    intro = "# The codes of diagnostics\n\n`losskit explain CODE` prints the page of a code in the terminal.\n\n"
    toctree = "\n```{toctree}\n:hidden:\n:glob:\n\ncodes/*\n```\n"
    folder = ROOT / "docs" / "codes"
    index = intro + explaining.index(lambda code: f"codes/{code.number}.md") + toctree
    files = {ROOT / "docs" / "codes.md": note.format("diagnostics.py") + index}
    for number, code in CODES.items():
        files[folder / f"{number}.md"] = note.format(f"explanations/{number}.md") + explaining.page(code)
    return files


def main(arguments: list[str]) -> int:
    """Writes or compares all files; returns the exit code."""
    files = generated()
    folders = [ROOT / "docs" / "losses", ROOT / "docs" / "codes"]
    left_over = [path for folder in folders for path in folder.glob("*") if path not in files]
    if "--check" in arguments:
        stale = [path for path, text in files.items() if not path.exists() or path.read_text("utf-8") != text]
        for path in stale + left_over:
            print(f"{path.relative_to(ROOT)} is out of date: run `make generate`", file=sys.stderr)
        return 1 if stale or left_over else 0
    for path in left_over:
        path.unlink()
    for path, text in files.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
