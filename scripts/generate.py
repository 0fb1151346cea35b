"""Writes the files that follow from the registered losses; with --check, compares them instead.

python scripts/generate.py            # writes
python scripts/generate.py --check    # exit code 1 where a file is out of date
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import losskit.modules
from losskit.constants import RESERVED
from losskit.diagnostics import CODES
from losskit.registry import LossEntry, Reference, registry
from losskit.schema import catalogue
from losskit.schema.describe import describe, yaml_text
from losskit.schema.document import LossRow, config_schema, dump
from losskit.schema.json_schema import loss_schema

ROOT = Path(__file__).parent.parent
HEADER = "Written by scripts/generate.py; change the losses, then run `make generate`."


def built_in_entries() -> list[LossEntry]:
    """The losses whose modules were just imported; rows of losses that are gone stay behind in the old file."""
    for module in pkgutil.iter_modules(losskit.modules.__path__, "losskit.modules."):
        importlib.import_module(module.name)
    entries = [entry for entry in registry.entries() if entry.module.loaded is not None]
    # By where it stands, for a new loss is not in the catalogue yet.
    return [entry for entry in entries if entry.module.path.startswith("losskit.modules.")]


def generated() -> dict[Path, str]:
    """The text of each generated file."""
    entries = built_in_entries()
    package = ROOT / "losskit"
    return {
        catalogue.CATALOGUE: dump({"note": HEADER, "losses": [_row(entry) for entry in entries]}),
        catalogue.CONFIG_SCHEMA: dump(config_schema(_schema_row(entry) for entry in entries)),
        package / "modules" / "__init__.pyi": _stub(entries, "module", "losskit.modules"),
        package / "schema" / "__init__.pyi": _stub(entries, "config", "losskit.schema"),
        ROOT / "docs" / "losses.md": _losses_page(entries),
        ROOT / "docs" / "codes.md": _codes_page(),
    }


def _row(entry: LossEntry) -> dict[str, Any]:
    row = {field.name: getattr(entry, field.name) for field in fields(entry)}
    return {key: value.path if isinstance(value, Reference) else value for key, value in row.items()}


def _schema(entry: LossEntry) -> dict[str, Any]:
    """From the config class; `entry.schema` is what the file said before."""
    return loss_schema(entry.config.load(), entry.names, entry.summary)


def _schema_row(entry: LossEntry) -> LossRow:
    return LossRow(entry.names, entry.feature_types, entry.summary, _schema(entry))


def _stub(entries: list[LossEntry], kind: str, package: str) -> str:
    """What a package offers, for type checkers and editors: at run time it is imported when it is asked for."""
    offered = importlib.import_module(package)
    public = {(name, getattr(getattr(offered, name), "__module__", package)) for name in offered.__all__}
    for entry in entries:
        module, _, cls = (entry.config if kind == "config" else entry.module).path.partition(":")
        public |= {(name, module) for name in ([cls] if kind == "config" else [cls, f"{entry.name}_loss"])}
    lines = [f"from {module} import {name} as {name}" for name, module in sorted(public, key=lambda p: (p[1], p[0]))]
    return "\n".join([f"# {HEADER}", *lines]) + "\n"


def _losses_page(entries: list[LossEntry]) -> str:
    lines = [
        f"<!-- {HEADER} -->",
        "# The losses",
        "",
        "`losskit list` prints this table, `losskit show NAME` everything about one loss.",
        "",
        "| name | also called | for | what and when |",
        "|---|---|---|---|",
    ]
    for entry in entries:
        aliases = ", ".join(f"`{alias}`" for alias in entry.aliases)
        lines.append(
            f"| [`{entry.name}`](#{entry.name}) | {aliases} | {', '.join(entry.feature_types)} | {entry.summary} |"
        )
    for entry in entries:
        lines += ["", f"({entry.name})=", f"## {entry.name}", "", *_details(entry)]
    return "\n".join(lines) + "\n"


def _details(entry: LossEntry) -> list[str]:
    cls = entry.module.load()
    text = inspect.getdoc(cls) or ""
    lines = [text.split("\n>>>")[0].strip(), "", "| setting | default | what it may be | effect |", "|---|---|---|---|"]
    for name, schema in _schema(entry)["properties"].items():
        if name not in RESERVED:
            cells = [f"`{name}`", f"`{yaml_text(schema['default'])}`", describe(schema), schema["description"]]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    feature_type = entry.feature_types[0]
    lines += ["", "```yaml", "output_features:", f"  - name: my_{feature_type}", f"    type: {feature_type}"]
    lines += [f"    loss: {entry.name}", "```"]
    return lines


def _codes_page() -> str:
    lines = [
        f"<!-- {HEADER} -->",
        "# The codes of diagnostics",
        "",
        "| code | name | meaning |",
        "|---|---|---|",
        *(f"| {code.number} | {code.name} | {code.summary} |" for code in CODES.values()),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Writes or compares all files; returns the exit code."""
    files = generated()
    if "--check" in arguments:
        stale = [path for path, text in files.items() if not path.exists() or path.read_text("utf-8") != text]
        for path in stale:
            print(f"{path.relative_to(ROOT)} is out of date: run `make generate`", file=sys.stderr)
        return 1 if stale else 0
    for path, text in files.items():
        path.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
