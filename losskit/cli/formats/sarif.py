"""SARIF 2.1.0, which code scanning and editors read."""

from __future__ import annotations

from typing import Any

import losskit
from losskit.cli.formats import FileReport, Reporter, Summary, described
from losskit.cli.formats.json_text import Items, dumps
from losskit.cli.formats.places import Fingerprints, repository_path, uri
from losskit.diagnostics import CODES, DOCUMENTATION, Code, Diagnostic, Position

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_RULE_INDEX = {number: index for index, number in enumerate(CODES)}
# Those of YAML, by which lines are counted; without them a reader assumes the first two.
_LINE_BREAKS = ["\r\n", "\n", "\r", "\x85", "\u2028", "\u2029"]


class Format(Reporter):
    """One run; all codes are its rules, since which of them occur is known only at the end."""

    def start(self) -> None:
        self.out.write(
            f'{{\n  "$schema": "{_SCHEMA}",\n  "version": "2.1.0",\n  "runs": [{{\n'
            f'    "tool": {dumps({"driver": _driver()})},\n'
            f'    "columnKind": "unicodeCodePoints",\n    "newlineSequences": {dumps(_LINE_BREAKS)},\n    "results": ['
        )
        self._items = Items(self.out, "      ")
        self._fingerprints = Fingerprints()

    def file(self, report: FileReport) -> None:
        path = repository_path(report.name)
        artifact = _artifact(path)
        for diagnostic in report.diagnostics:
            self._items.write(_result(diagnostic, artifact, self._fingerprints.of(diagnostic, path)))

    def finish(self, summary: Summary) -> None:
        self._items.finish()
        self.out.write('],\n    "invocations": [{"executionSuccessful": true}]\n  }]\n}\n')


def _driver() -> dict[str, Any]:
    return {
        "name": "losskit",
        "semanticVersion": losskit.__version__,
        "informationUri": DOCUMENTATION,
        "rules": [_rule(code) for code in CODES.values()],
    }


def _rule(code: Code) -> dict[str, Any]:
    url = Diagnostic(code.number, "").url
    return {
        "id": code.number,
        "name": code.name,
        "shortDescription": {"text": code.name.replace("-", " ")},
        "fullDescription": {"text": code.summary},
        "help": {"text": f"{code.summary}; see {url}"},
        "helpUri": url,
        "defaultConfiguration": {"level": code.severity},
    }


def _artifact(path: str) -> dict[str, str]:
    text, is_relative = uri(path)
    return {"uri": text, "uriBaseId": "%SRCROOT%"} if is_relative else {"uri": text}


def _result(diagnostic: Diagnostic, artifact: dict[str, str], fingerprint: str) -> dict[str, Any]:
    physical: dict[str, Any] = {"artifactLocation": artifact}
    if diagnostic.position:
        physical["region"] = _region(diagnostic.position, diagnostic.end or diagnostic.position)
    location: dict[str, Any] = {"physicalLocation": physical}
    if diagnostic.path:
        location["logicalLocations"] = [{"fullyQualifiedName": diagnostic.path}]
    result = {
        "ruleId": diagnostic.code,
        "ruleIndex": _RULE_INDEX[diagnostic.code],
        "level": diagnostic.severity,
        "message": {"text": "\n".join(described(diagnostic))},
        "locations": [location],
        "partialFingerprints": {"losskit/v1": fingerprint},
    }
    if diagnostic.edits:
        result["fixes"] = [_fix(diagnostic, artifact)]
    return result


def _fix(diagnostic: Diagnostic, artifact: dict[str, str]) -> dict[str, Any]:
    replacements = [
        {"deletedRegion": _region(*edit.span), "insertedContent": {"text": edit.text}} for edit in diagnostic.edits
    ]
    change = {"artifactLocation": artifact, "replacements": replacements}
    cure = f"write `{diagnostic.suggestion}`" if diagnostic.suggestion else diagnostic.help
    return {**({"description": {"text": cure}} if cure else {}), "artifactChanges": [change]}


def _region(start: Position, end: Position) -> dict[str, int]:
    return {"startLine": start.line, "startColumn": start.column, "endLine": end.line, "endColumn": end.column}
