"""The YAML language server that editors run, driven as they do: JSON-RPC over its standard streams."""

import json
import subprocess
import threading
from pathlib import Path
from typing import Any

PATIENCE = 60  # seconds


class LanguageServer:
    """A running server that has a schema for all YAML files of a folder."""

    def __init__(self, command: list[str], schema: Path, folder: Path) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=folder
        )
        self.folder, self.heard, self.count = folder, threading.Condition(), 0
        self.answers: dict[int, Any] = {}
        self.diagnostics: dict[str, list[dict[str, Any]]] = {}
        self.settings = {
            "yaml": {
                "validate": True, "completion": True, "schemas": {schema.as_uri(): ["*.yaml"]},
                "schemaStore": {"enable": False}, "kubernetesCRDStore": {"enable": False},
            }
        }  # fmt: skip
        threading.Thread(target=self._listen, daemon=True).start()
        capabilities = {"workspace": {"configuration": True}, "textDocument": {"publishDiagnostics": {}}}
        self.ask("initialize", {"processId": None, "rootUri": folder.as_uri(), "capabilities": capabilities})
        self._send({"method": "initialized", "params": {}})
        self._send({"method": "workspace/didChangeConfiguration", "params": {"settings": self.settings}})

    def close(self) -> None:
        """End the server."""
        self.process.kill()
        self.process.wait()

    def open(self, name: str, text: str) -> list[str]:
        """Open a file; the messages of what is wrong with it."""
        uri = (self.folder / name).as_uri()
        document = {"uri": uri, "languageId": "yaml", "version": 1, "text": text}
        self._send({"method": "textDocument/didOpen", "params": {"textDocument": document}})
        with self.heard:
            assert self.heard.wait_for(lambda: uri in self.diagnostics, PATIENCE), "no diagnostics"
        return [found["message"] for found in self.diagnostics[uri]]

    def complete(self, name: str, text: str) -> dict[str, Any]:
        """What is offered at the ``|`` of a text: label to documentation."""
        before, after = text.split("|")
        self.open(name, before + after)
        place = {"line": before.count("\n"), "character": len(before.rpartition("\n")[2])}
        document = {"uri": (self.folder / name).as_uri()}
        found = self.ask("textDocument/completion", {"textDocument": document, "position": place})
        return {item["label"]: item.get("documentation") for item in (found or {}).get("items", [])}

    def ask(self, method: str, params: dict[str, Any]) -> Any:
        """A request and its answer."""
        self.count += 1
        number = self.count
        self._send({"id": number, "method": method, "params": params})
        with self.heard:
            assert self.heard.wait_for(lambda: number in self.answers, PATIENCE), method
            return self.answers.pop(number)

    def _send(self, message: dict[str, Any]) -> None:
        data = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n" % len(data) + data)
        self.process.stdin.flush()

    def _listen(self) -> None:
        out = self.process.stdout
        while header := out.readline():
            length = int(header.split(b":")[1]) if header.lower().startswith(b"content-length") else 0
            while out.readline().strip():
                pass
            self._hear(json.loads(out.read(length)))

    def _hear(self, message: dict[str, Any]) -> None:
        if "method" in message and "id" in message:  # the server asks, mostly for settings
            items = (message.get("params") or {}).get("items", [])
            self._send({"id": message["id"], "result": [self.settings.get(item.get("section"), {}) for item in items]})
            return
        with self.heard:
            if message.get("method") == "textDocument/publishDiagnostics":
                self.diagnostics[message["params"]["uri"]] = message["params"]["diagnostics"]
            elif "method" not in message:
                self.answers[message["id"]] = message.get("result")
            self.heard.notify_all()
