"""Writes the pages of the documentation that follow from the losses: an index, and a page for each."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from losskit.constants import DEFAULT_LOSSES, FEATURE_TYPES, RESERVED
from losskit.registry import LossEntry
from losskit.schema.describe import describe, yaml_text
from losskit.schema.document import StrategyRow
from scripts.curves import curve

Schema = dict[str, Any]


def pages(entries: list[LossEntry], schemas: Mapping[str, Schema], header: str, docs: Path) -> dict[Path, str]:
    """The text of each file; `schemas` has the JSON Schema of each loss."""
    files = {docs / "losses.md": _index(entries, header)}
    for entry in entries:
        picture = curve(entry)
        if picture:
            files[docs / "losses" / f"{entry.name}.svg"] = picture
        text = _page(entry, schemas[entry.name], bool(picture))
        files[docs / "losses" / f"{entry.name}.md"] = f"<!-- {header} -->\n{text}"
    return files


def _index(entries: list[LossEntry], header: str) -> str:
    lines = [
        f"<!-- {header} -->",
        "# The losses",
        "",
        "By feature type; the default of each stands first, in bold. `losskit list` prints them, `losskit show NAME`",
        "everything about one loss, also by another system's name for it.",
    ]
    for feature_type in FEATURE_TYPES:
        default = DEFAULT_LOSSES.get(feature_type)
        fitting = sorted(
            (e for e in entries if feature_type in e.feature_types), key=lambda e: (e.name != default, e.name)
        )
        if fitting:
            lines += ["", f"## {feature_type}", "", "| loss | what and when |", "|---|---|"]
            lines += [f"| {_link(entry, bold=entry.name == default)} | {entry.summary} |" for entry in fitting]
    lines += ["", "## Other names", "", "| name | stands for |", "|---|---|"]
    aliases = sorted((alias, entry) for entry in entries for alias in entry.aliases)
    lines += [f"| `{alias}` | {_link(entry)} |" for alias, entry in aliases]
    lines += ["", "```{toctree}", ":hidden:", ":glob:", "", "losses/*", "```"]
    return "\n".join(lines) + "\n"


def _link(entry: LossEntry, bold: bool = False) -> str:
    link = f"[`{entry.name}`](losses/{entry.name}.md)"
    return f"**{link}**" if bold else link


def _page(entry: LossEntry, schema: Schema, has_picture: bool) -> str:
    text, _, example = (inspect.getdoc(entry.module.load()) or "").partition("\n>>> ")
    first, _, rest = text.strip().partition("\n\n")
    # A line of a formula that starts with a plus or a minus would become a list.
    rest = re.sub(r"\$[^$]+\$", lambda formula: formula.group().replace("\n", " "), rest)
    rest = re.sub(r"\s*\b(Shapes|Dtypes|Source): ", r"\n\n**\1:** ", rest).strip()
    lines = [f"# {entry.name}", "", first, ""]
    if has_picture:
        lines += [f"![The value and the gradient of {entry.name} as its input moves]({entry.name}.svg)", ""]
    lines += [rest, "", *_facts(entry), ""]
    if settings := _settings(schema):
        lines += ["## Settings", "", *settings, ""]
    lines += ["## In a config", "", *_yaml(entry, schema), ""]
    lines += ["## In Python", "", "```pycon", *_imports(entry, example), "```"]
    return "\n".join(lines) + "\n"


def _facts(entry: LossEntry) -> list[str]:
    facts = [
        ("for", ", ".join(entry.feature_types)),
        ("also called", _code(entry.aliases)),
        ("takes", _code(entry.inputs)),
        ("and, where the predictions have them,", _code(entry.optional_inputs)),
        ("targets", _code(entry.targets) or "none"),
        ("and, where the targets have them,", _code(entry.optional_targets)),
    ]
    return ["| | |", "|---|---|", *(f"| {what} | {which} |" for what, which in facts if which)]


def _code(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _settings(schema: Schema) -> list[str]:
    rows = []
    for name, setting in schema["properties"].items():
        if name not in RESERVED and not setting.get("deprecated"):
            cells = [f"`{name}`", f"`{yaml_text(setting['default'])}`", describe(setting), setting["description"]]
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return ["| setting | default | what it may be | effect |", "|---|---|---|---|", *rows] if rows else []


def settings_tables(rows: Iterable[StrategyRow], page: Path) -> dict[Path, str]:
    """The page on balancing with the settings of each strategy in their place, between two comments."""
    text = page.read_text("utf-8")
    for row in rows:
        begin, end = f"<!-- settings of {row.name}: written by scripts/generate.py -->\n", "<!-- end of settings -->\n"
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise LookupError(f"{page.name} has no place for the settings of {row.name}: {begin}{end}")
        table = "\n".join(_settings(row.schema)) or "No settings."
        text = f"{before}{begin}\n{table}\n\n{end}{after}"
    return {page: text}


def _yaml(entry: LossEntry, schema: Schema) -> list[str]:
    feature_type = entry.feature_types[0]
    lines = ["```yaml", "output_features:", f"  - name: my_{feature_type}", f"    type: {feature_type}"]
    needed = entry.config.load().example_settings
    if needed:
        return [
            *lines,
            "    loss:",
            f"      type: {entry.name}",
            *(f"      {k}: {v}" for k, v in needed.items()),
            "```",
        ]
    return [*lines, f"    loss: {entry.name}", "```"]


def _imports(entry: LossEntry, example: str) -> list[str]:
    cls = entry.module.path.partition(":")[2]
    lines = [">>> import torch", f">>> from losskit.modules import {cls}, {entry.name}_loss"]
    return [*lines, *(f">>> {example}".rstrip().splitlines() if example else [])]
