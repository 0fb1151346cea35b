"""A small client of the Language Server Protocol: it does with yaml-language-server what an editor does."""

from __future__ import annotations

import itertools
import json
import subprocess
import threading
from pathlib import Path

# What the server says it needs long for is not our fault; what never comes is.
TIMEOUT = 30


class LanguageServer:
    """A running server. Documents are opened once, under an address of their own, and never change."""

    def __init__(self, command, folder, settings):
        self.folder = Path(folder)
        self._settings = settings
        self._numbers = itertools.count(1)
        self._answers = {}
        self._diagnostics = {}
        self._news = threading.Condition()
        self._writing = threading.Lock()
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        workspace = {"configuration": True, "didChangeConfiguration": {"dynamicRegistration": True}}
        hover = {"contentFormat": ["markdown", "plaintext"]}
        item = {"snippetSupport": True, "documentationFormat": ["markdown", "plaintext"]}
        document = {"hover": hover, "completion": {"completionItem": item}}
        self.request(
            "initialize",
            {
                "processId": None,
                "rootUri": self.folder.as_uri(),
                "workspaceFolders": [{"uri": self.folder.as_uri(), "name": "configs"}],
                "capabilities": {"workspace": workspace, "textDocument": document},
            },
        )
        self._notify("initialized", {})
        self._notify("workspace/didChangeConfiguration", {"settings": settings})

    def close(self):
        """Ends the server as an editor does, and by force if that does not help."""
        try:
            self.request("shutdown", None)
            self._notify("exit", None)
            self._process.wait(5)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdin.close()

    def open(self, name, text):
        """Shows the server a document; returns its address."""
        uri = (self.folder / name).as_uri()
        document = {"uri": uri, "languageId": "yaml", "version": 1, "text": text}
        self._notify("textDocument/didOpen", {"textDocument": document})
        return uri

    def diagnostics(self, uri):
        """What the server finds wrong with an open document."""
        return self._wait_for(self._diagnostics, uri)

    def completions(self, uri, line, character):
        """What the server offers at a place, which counts from 0."""
        place = {"textDocument": {"uri": uri}, "position": {"line": line, "character": character}}
        found = self.request("textDocument/completion", place) or []
        return found["items"] if isinstance(found, dict) else found

    def hover(self, uri, line, character):
        """The text that the server shows at a place, which counts from 0."""
        place = {"textDocument": {"uri": uri}, "position": {"line": line, "character": character}}
        found = self.request("textDocument/hover", place)
        contents = found["contents"] if found else ""
        return contents["value"] if isinstance(contents, dict) else contents

    def request(self, method, parameters):
        """Asks, and waits for the answer."""
        number = next(self._numbers)
        self._send({"id": number, "method": method, "params": parameters})
        answer = self._wait_for(self._answers, number)
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']['message']}")
        return answer.get("result")

    def _notify(self, method, parameters):
        self._send({"method": method, "params": parameters})

    def _send(self, message):
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        with self._writing:
            self._process.stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
            self._process.stdin.flush()

    def _wait_for(self, found, key):
        with self._news:
            if not self._news.wait_for(lambda: key in found or self._process.poll() is not None, TIMEOUT):
                raise AssertionError(f"the language server has not answered for {TIMEOUT} s")
            if key not in found:
                raise AssertionError(f"the language server ended with exit code {self._process.returncode}")
            return found[key]

    def _read(self):
        stream = self._process.stdout
        while header := stream.readline():
            length = int(header.split(b":")[1])
            while stream.readline().strip():
                pass  # other headers, up to the empty line
            self._receive(json.loads(stream.read(length)))
        with self._news:
            self._process.wait()
            self._news.notify_all()

    def _receive(self, message):
        if "method" in message and "id" in message:
            self._send({"id": message["id"], "result": self._answer(message)})
        with self._news:
            if "method" not in message:
                self._answers[message["id"]] = message
            elif message["method"] == "textDocument/publishDiagnostics":
                self._diagnostics[message["params"]["uri"]] = message["params"]["diagnostics"]
            self._news.notify_all()

    def _answer(self, request):
        """What the server asks the editor: its settings, and to take note of what it can do."""
        if request["method"] == "workspace/configuration":
            return [self._settings.get(item.get("section"), {}) for item in request["params"]["items"]]
        return None
