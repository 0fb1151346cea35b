"""Programs that run on node, as long as the tests need them: the language server, and ajv."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from losskit.registry import registry
from losskit.schema.document import DRAFTS, LossRow, StrategyRow, config_schema, dump
from losskit.strategies import strategies
from tests.editor.language_server import LanguageServer

HERE = Path(__file__).parent
SERVER = HERE / "node_modules" / "yaml-language-server" / "bin" / "yaml-language-server"
MODELINE = "# yaml-language-server: $schema=losskit.schema.json\n"
# Files in this folder have their schema from the editor's settings.
ASSOCIATED = "associated"


def why_there_is_no_node():
    """What the tests need and do not find, or None."""
    if shutil.which("node") is None:
        return "node is not installed"
    if not SERVER.exists():
        return "the packages are not installed: run `npm ci --prefix tests/editor`"
    return None


def require_node():
    """Skips where there is no node, or fails where CI_REQUIRES_NODE=1 asks for it; else returns its path."""
    if reason := why_there_is_no_node():
        if os.environ.get("CI_REQUIRES_NODE") == "1":
            pytest.fail(f"CI_REQUIRES_NODE is 1, but {reason}")
        pytest.skip(reason)
    return str(shutil.which("node"))


@pytest.fixture(scope="session")
def node():
    """The path of node."""
    return require_node()


def document_schema(draft="7"):
    """What `losskit schema` writes."""
    losses = (LossRow(e.names, e.feature_types, e.summary, e.schema) for e in registry.entries())
    ways = (StrategyRow(e.name, e.summary, e.schema) for e in strategies.entries())
    return config_schema(losses, draft, strategies=ways)


@pytest.fixture(scope="session")
def editor(node, tmp_path_factory):
    """The language server, in a folder that holds the schema in both drafts."""
    folder = tmp_path_factory.mktemp("editor")
    (folder / ASSOCIATED).mkdir()
    for name, draft in (
        ("losskit.schema.json", "7"),
        (f"{ASSOCIATED}/losskit.schema.json", "7"),
        ("2020-12.schema.json", "2020-12"),
    ):
        (folder / name).write_text(dump(document_schema(draft)), "utf-8")
    # As docs/editors.md has it.
    schemas = {"losskit.schema.json": f"{ASSOCIATED}/*.yaml"}
    yaml = {"schemas": schemas, "schemaStore": {"enable": False}, "validate": True, "hover": True, "completion": True}
    server = LanguageServer([node, str(SERVER), "--stdio"], folder, {"yaml": yaml})
    editor = Editor(server)
    # The server asks for its settings after it has started, and knows of no schema before it has them.
    for _ in range(100):
        if editor.shows("output_feat|ures: []"):
            break
        time.sleep(0.1)
    yield editor
    server.close()


class Editor:
    """What a person in front of an editor sees. In texts, `|` is the cursor."""

    def __init__(self, server):
        self._server = server
        self._count = 0
        self.folder = server.folder

    def open(self, text, name="config.yaml"):
        """Opens a text as a file of its own; its name may have a folder."""
        self._count += 1
        return self._server.open(f"{os.path.dirname(name)}/{self._count}-{os.path.basename(name)}".lstrip("/"), text)

    def open_at(self, path, text):
        """Opens a text as the file at a path, which need not be there."""
        return self._server.open(path, text)

    def offers(self, text, name=f"{ASSOCIATED}/config.yaml"):
        """The items that are offered at the cursor."""
        text, line, character = _cursor(text)
        return self._server.completions(self.open(text, name), line, character)

    def shows(self, text, name=f"{ASSOCIATED}/config.yaml"):
        """The text that is shown for what is under the cursor."""
        text, line, character = _cursor(text)
        return self._server.hover(self.open(text, name), line, character)

    def marks(self, uri):
        """What is marked in an open file: the start, the end and the message of each mistake, in order."""
        found = [(d["range"]["start"], d["range"]["end"], d["message"]) for d in self._server.diagnostics(uri)]
        return sorted(((s["line"], s["character"]), (e["line"], e["character"]), text) for s, e, text in found)


def _cursor(text):
    before, _, after = text.partition("|")
    return before + after, before.count("\n"), len(before) - before.rfind("\n") - 1


class Ajv:
    """A process that validates documents with ajv."""

    def __init__(self, node, schema, draft):
        self._process = subprocess.Popen(
            [node, str(HERE / "ajv.js")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        self.objection = self._ask({"schema": schema, "draft": draft})

    def is_valid(self, document):
        return self._ask(document)

    def _ask(self, question):
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self):
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@pytest.fixture(scope="session")
def ajvs(node):
    """ajv with the schema in each draft."""
    processes = {draft: Ajv(node, document_schema(draft), draft) for draft in DRAFTS}
    yield processes
    for process in processes.values():
        process.close()
